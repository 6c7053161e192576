package main

import (
	"encoding/binary"
	"slices"

	"golang.org/x/sys/unix"
)

const (
	// Length of the header that the kernel and a device with IFF_VNET_HDR put in front of packets
	// (struct virtio_net_hdr).
	headerLen = 10
	// Where its fields lie.
	gsoTypeAt, gsoSizeAt = 1, 4
	packetLenMax         = 65536

	ip4LenMin, tcpLenMin, udpLen = 20, 20, 8
)

// packets are what the kernel hands over at once: one IPv4 packet, or many of one flow that are yet to be cut.
type packets struct {
	data []byte
	// Bytes of the headers, IP and above, that each packet has.
	headers int
	// Bytes of the payload that each packet but the last carries; 0 when there is one packet.
	size int
	// The header of the flow's protocol begins here.
	transport int
	protocol  byte
}

// parse looks at what was read from a device; what is not IPv4, or not whole, is none of the link's business.
func parse(data []byte) (packets, bool) {
	ip := headerLen
	if len(data) < ip+ip4LenMin || data[ip]>>4 != 4 {
		return packets{}, false
	}
	transport := ip + int(data[ip]&0xf)*4
	sent := packets{data: data, transport: transport, protocol: data[ip+9]}
	switch data[gsoTypeAt] &^ unix.VIRTIO_NET_HDR_GSO_ECN {
	case unix.VIRTIO_NET_HDR_GSO_TCPV4:
		if len(data) < transport+tcpLenMin {
			return packets{}, false
		}
		sent.headers = transport - ip + int(data[transport+12]>>4)*4
	case unix.VIRTIO_NET_HDR_GSO_UDP_L4:
		sent.headers = transport - ip + udpLen
	default:
		return sent, true
	}
	sent.size = int(binary.LittleEndian.Uint16(data[gsoSizeAt:]))
	return sent, sent.size > 0 && len(data) > ip+sent.headers
}

func (sent packets) payload() []byte {
	return sent.data[headerLen+sent.headers:]
}

// count returns how many packets there are.
func (sent packets) count() int {
	if sent.size == 0 {
		return 1
	}
	return (len(sent.payload()) + sent.size - 1) / sent.size
}

// wireLen returns the length of one of the packets.
func (sent packets) wireLen(number int) int {
	if sent.size == 0 {
		return len(sent.data) - headerLen
	}
	return sent.headers + min(sent.size, len(sent.payload())-number*sent.size)
}

// part returns a copy of the packets from begin to before end.
func (sent packets) part(begin, end int) []byte {
	if begin == 0 && end == sent.count() {
		return slices.Clone(sent.data)
	}
	from, to := begin*sent.size, min(end*sent.size, len(sent.payload()))
	part := slices.Concat(sent.data[:headerLen+sent.headers], sent.payload()[from:to])
	if end-begin == 1 {
		part[gsoTypeAt] = unix.VIRTIO_NET_HDR_GSO_NONE
		binary.LittleEndian.PutUint16(part[gsoSizeAt:], 0)
	}
	if sent.protocol == unix.IPPROTO_TCP {
		sent.renumber(part, from, end == sent.count())
	} else {
		binary.BigEndian.PutUint16(part[sent.transport+4:], uint16(len(part)-sent.transport))
	}
	sent.mend(part)
	return part
}

// renumber makes TCP's header right for bytes that begin further on, and do not end what is sent.
func (sent packets) renumber(part []byte, from int, isLast bool) {
	const finAndPush = 1 | 8
	tcp := part[sent.transport:]
	binary.BigEndian.PutUint32(tcp[4:], binary.BigEndian.Uint32(tcp[4:])+uint32(from))
	if !isLast {
		tcp[13] &^= finAndPush
	}
}

// mend makes the length and the checksums right: the whole one of IP, and of the flow's protocol the part that
// the kernel goes on from when it cuts or takes in the packets.
func (sent packets) mend(part []byte) {
	ip := part[headerLen:sent.transport]
	binary.BigEndian.PutUint16(ip[2:], uint16(len(part)-headerLen))
	binary.BigEndian.PutUint16(ip[10:], 0)
	binary.BigEndian.PutUint16(ip[10:], ^sum(ip))
	pseudo := slices.Concat(ip[12:20], []byte{0, sent.protocol, 0, 0})
	binary.BigEndian.PutUint16(pseudo[10:], uint16(len(part)-sent.transport))
	checksumAt := 6
	if sent.protocol == unix.IPPROTO_TCP {
		checksumAt = 16
	}
	binary.BigEndian.PutUint16(part[sent.transport+checksumAt:], sum(pseudo))
}

// sum adds up 16-bit words as the Internet's checksums do (RFC 1071).
func sum(data []byte) uint16 {
	var total uint32
	for at := 0; at < len(data); at += 2 {
		total += uint32(binary.BigEndian.Uint16(data[at:]))
	}
	for total > 0xffff {
		total = total&0xffff + total>>16
	}
	return uint16(total)
}
