# Tells all packets on some interfaces, one a line: interface, kind, source, port, destination, port.
# Says "ready" first, and ends when its input does.
import select
import socket
import struct
import sys

KINDS = {1: "icmp", 2: "igmp", 6: "tcp", 17: "udp", 58: "icmp6"}
HOP_BY_HOP = 0


def tell(name, protocol, data):
    if protocol == 0x0800:
        header, number = (data[0] & 15) * 4, data[9]
        ends = [socket.inet_ntop(socket.AF_INET, data[at : at + 4]) for at in (12, 16)]
    elif protocol == 0x86DD:
        header, number = 40, data[6]
        ends = [socket.inet_ntop(socket.AF_INET6, data[at : at + 16]) for at in (8, 24)]
        if number == HOP_BY_HOP:
            number = data[40]
    else:
        print(name, "other-%04x" % protocol, "-", 0, "-", 0)
        return
    ports = (0, 0)
    if number in (6, 17):
        ports = struct.unpack("!HH", data[header : header + 4])
    kind = KINDS.get(number, "ip-%d" % number)
    print(name, kind, ends[0], ports[0], ends[1], ports[1])


sockets = []
for name in sys.argv[1:]:
    listening = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
    listening.bind((name, 3))
    sockets.append(listening)
print("ready", flush=True)
while True:
    ready, _, _ = select.select(sockets + [sys.stdin], [], [])
    for listening in sockets:
        if listening in ready:
            data, address = listening.recvfrom(65536)
            tell(address[0], address[1], data)
    if ready == [sys.stdin]:
        break
