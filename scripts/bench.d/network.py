"""What other nodes give over links and on this machine, against curl, and against what Go gives.

Each end of a link is a network namespace; `tests/peers/go/cmd/link` carries the packets between them.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import time

import limits
import machine
import sides
import workloads

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
PACKAGES = ["nginx", "curl", "openssl", "iproute2", "util-linux"]
TRANSPORTS = ["tcp", "quic-v1"]
#: Of all TCP in the namespaces: enough for 1 Gbit/s at 100 ms, and what does not take each loss for a jam.
SETTINGS = ["net.ipv4.tcp_rmem=4096 131072 67108864", "net.ipv4.tcp_wmem=4096 65536 67108864",
            "net.ipv4.tcp_congestion_control=bbr"]
LINK_MBIT = 1000
PROVIDERS = 4
#: Of a link; where curl gets less, not counting the round trips in which TCP gathers speed, the machine was
#: busy and the pair does not count.
CURL_SHARE = 0.9
START_TRIPS = 10
HTTP_PORT, HTTPS_PORT = 8080, 8443
START_TIMEOUT_S = 30


@dataclasses.dataclass(frozen=True)
class Host:
    """A namespace, or with an empty name this machine, and the address that its services have."""

    namespace: str
    address: str

    def command(self, *words):
        enter = ["nsenter", f"--net=/run/netns/{self.namespace}"] if self.namespace else []
        return [*enter, *map(str, words)]


HERE = Host("", "127.0.0.1")


def file_over_link(cidfs, place, source, options):
    for delay_ms in 20, 100:
        with network(place, delay_ms) as (taker, givers), served(cidfs, place, source, givers) as gift:
            full_s = full_time_s(source, delay_ms)
            ratios = against_curl(cidfs, place, taker, gift, options, full_s)
            yield f"{delay_ms} ms", "× curl", 1 / 0.85, ratios


def full_time_s(source, delay_ms):
    """The time in which curl fetches a file when nothing but the link holds it up."""
    sending_s = source.stat().st_size * 8 / 1e6 / (CURL_SHARE * LINK_MBIT)
    return sending_s + START_TRIPS * delay_ms / 1000


def file_over_lossy_link(cidfs, place, source, options):
    with network(place, 50, loss=1) as (taker, givers), served(cidfs, place, source, givers) as gift:
        ratios = against_curl(cidfs, place, taker, gift, options)
        yield "50 ms", "× curl", 1 / 0.85, ratios


def file_of_providers(cidfs, place, source, options):
    with network(place, 20, PROVIDERS) as (taker, givers), served(cidfs, place, source, givers) as gift:
        sum_s = source.stat().st_size * 8 / 1e6 / LINK_MBIT
        times = [take(cidfs, place, taker, gift, options, workloads.read_whole) for _ in range(options.runs)]
        phase = f"{PROVIDERS} × {LINK_MBIT // PROVIDERS} Mbit/s"
        yield phase, "× the sum", 1 / 0.8, [seconds / sum_s for seconds in times]


def against_curl(cidfs, place, taker, gift, options, most_s=float("inf")):
    """The time of a read through the mount by that of curl, of pairs in which curl takes at most so long."""
    ratios = []
    for _ in range(2 * options.runs):
        theirs = curl(taker, place, gift.url)
        ours = take(cidfs, place, taker, gift, options, workloads.read_whole)
        if theirs <= most_s:
            ratios.append(ours / theirs)
        if len(ratios) == options.runs:
            return ratios
    raise RuntimeError(f"curl does not get {CURL_SHARE} of the link: this machine is too busy")


def tree_over_link(cidfs, place, source, options):
    tree, archive = source.parent / "tree", place / "tree.tar"
    subprocess.run(["tar", "-cf", archive, "-C", tree, "."], check=True)
    ratios, walks = [], []
    with network(place, 20) as (taker, givers), served(cidfs, place, tree, givers, archive) as gift:
        for _ in range(options.runs):
            theirs = curl(taker, place, gift.url)
            ratios.append(take(cidfs, place, taker, gift, options, workloads.tar_to_pipe) / theirs)
            walks.append(take(cidfs, place, taker, gift, options, find))
    yield "tar", "× curl", 4, ratios
    yield "find", "s", 3, walks


def find(tree):
    workloads.quiet(["find", str(tree), "-printf", "%s\n"])


def loopback(cidfs, place, source, options):
    go, https, serving = [], [], []
    with served(cidfs, place, source, [HERE]) as gift, GoPeer(place) as go_giver:
        cid = go_giver.obey("add", source)
        for _ in range(options.runs):
            ours = take(cidfs, place, HERE, gift, options, workloads.read_whole)
            theirs = go_get(place, go_giver.address, cid)
            go.append(ours / theirs)
            https.append(ours / curl(HERE, place, gift.https_url))
            serving.append(go_get(place, gift.addresses[0], gift.cid) / theirs)
    yield "from cidfs", "× Go from Go", 1 / 3, go
    yield "from cidfs", "× curl of HTTPS", 2, https
    yield "Go from cidfs", "× Go from Go", 1, serving


@dataclasses.dataclass
class Gift:
    """Something that is served: by cidfs, and by nginx at the first host."""

    cid: str
    addresses: list
    url: str
    https_url: str


@contextlib.contextmanager
def served(cidfs, place, source, givers, archive=None):
    """Has a node at each host give what is at a path, and nginx give it too, or an archive of it."""
    with contextlib.ExitStack() as stack:
        addresses = []
        for number, giver in enumerate(givers):
            repository = place / f"giver-{number}"
            cid = stack.enter_context(giver_repository(cidfs, repository, source))
            stack.enter_context(node(cidfs, repository, giver, {}))
            addresses.append(swarm_addresses(cidfs, repository))
        shown = archive or source
        stack.enter_context(nginx(place / "nginx", givers[0], shown))
        url = f"http://{givers[0].address}:{HTTP_PORT}/{shown.name}"
        https_url = f"https://{givers[0].address}:{HTTPS_PORT}/{shown.name}"
        yield Gift(cid, addresses, url, https_url)


@contextlib.contextmanager
def giver_repository(cidfs, repository, source):
    repository.mkdir()
    try:
        cidfs.init(repository)
        yield cidfs.add(source, repository)
    finally:
        shutil.rmtree(repository)


@contextlib.contextmanager
def node(cidfs, repository, host, mounts):
    """Runs a daemon at a host that talks to those who call it or whom it is told to call."""
    listen = [f"/ip4/{host.address}/{rest}" for rest in ("tcp/0", "udp/0/quic-v1")]
    for key, value in ("network.preset", "peers-only"), ("network.listen", json.dumps(listen)):
        machine.output(limits.command(cidfs, "config", key, value), env=cidfs.env(repository))
    with sides.mounted(cidfs, repository, mounts, repository.with_suffix(".log"), host.command):
        yield


def swarm_addresses(cidfs, repository):
    """The addresses of a node, by transport."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        said = machine.output(limits.command(cidfs, "swarm", "addrs", "local"), env=cidfs.env(repository))
        found = {name: line for line in said.splitlines() for name in TRANSPORTS if f"/{name}" in line}
        if len(found) == len(TRANSPORTS) or time.monotonic() > deadline:
            return found
        time.sleep(0.05)


def take(cidfs, place, taker, gift, options, work):
    """Does something with what is served, through the mount of a node that has nothing; returns the time."""
    repository = place / "taker"
    repository.mkdir()
    cidfs.init(repository)
    mountpoint = place / "mnt"
    try:
        with node(cidfs, repository, taker, {mountpoint: ""}):
            for address in gift.addresses:
                machine.output(limits.command(cidfs, "swarm", "connect", address[options.transport]),
                               env=cidfs.env(repository))
            machine.settle_memory()
            return workloads.timed(work, mountpoint / gift.cid)
    finally:
        mountpoint.rmdir()
        shutil.rmtree(repository)


def curl(taker, place, url):
    """Fetches into a new file; returns the time."""
    copy = place / "copy"
    machine.settle_memory()
    seconds = limits.timed(taker.command("curl", "-skf", "-o", copy, url))
    copy.unlink()
    return seconds


@contextlib.contextmanager
def nginx(folder, host, shown):
    (folder / "www").mkdir(parents=True)
    (folder / "www" / shown.name).symlink_to(shown)
    subject = ["-subj", "/CN=bench", "-addext", f"subjectAltName=IP:{host.address}"]
    machine.output(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
                    "-nodes", "-keyout", "key.pem", "-out", "cert.pem", *subject], cwd=folder)
    (folder / "nginx.conf").write_text(f"""
        daemon off; user root; pid nginx.pid; error_log error.log; worker_processes 1;
        events {{}}
        http {{
            access_log off; sendfile on; root www;
            server {{
                listen {host.address}:{HTTP_PORT};
                listen {host.address}:{HTTPS_PORT} ssl;
                ssl_certificate {folder}/cert.pem; ssl_certificate_key {folder}/key.pem;
            }}
        }}
    """)
    server = subprocess.Popen(host.command("nginx", "-p", folder, "-c", folder / "nginx.conf"))
    try:
        wait_for_nginx(host, shown)
        yield
    finally:
        server.terminate()
        server.wait(sides.STOP_TIMEOUT_S)
        shutil.rmtree(folder)


def wait_for_nginx(host, shown):
    ask = host.command("curl", "-sf", "--head", "--retry", "10", "--retry-connrefused", "--max-time",
                       START_TIMEOUT_S, f"http://{host.address}:{HTTP_PORT}/{shown.name}")
    machine.output(ask)


class GoPeer:
    """go-libp2p with boxo on this machine, with its store in memory."""

    def __init__(self, place):
        self.binary = go_binary(place, "go-peer", ".")

    def __enter__(self):
        self.process = subprocess.Popen([self.binary, "/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.address = {}
        while (line := self.process.stdout.readline().strip()) != "ready":
            _, _, address = line.partition("listening ")
            if not address:
                raise RuntimeError(f"the peer in Go says {line!r}")
            self.address.update({name: address for name in TRANSPORTS if f"/{name}" in address})
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def obey(self, *words):
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().strip()
        if not answer.startswith("ok"):
            raise RuntimeError(f"the peer in Go, {words[0]}: {answer}")
        return answer.removeprefix("ok").strip()


def go_get(place, address, cid):
    """Has a new peer in Go fetch into a file; returns the time."""
    copy = place / "copy"
    with GoPeer(place) as peer:
        peer.obey("connect", address["tcp"])
        machine.settle_memory()
        seconds = workloads.timed(peer.obey, "get", cid, copy)
    copy.unlink()
    return seconds


def go_binary(place, name, package):
    binary = place / name
    if not binary.exists():
        subprocess.run(["go", "build", "-mod=readonly", "-o", binary, package], cwd=ROOT / "tests/peers/go",
                       check=True)
    return binary


@contextlib.contextmanager
def network(place, delay_ms, givers=1, loss=0):
    """Joins a namespace to others by links that share the rate; gives who takes and those who give."""
    subprocess.run([ROOT / "scripts/packages", *PACKAGES], check=True)
    binary = go_binary(place, "link", "./cmd/link")
    with contextlib.ExitStack() as stack:
        taker = stack.enter_context(namespace("taker"))
        hosts = []
        for number in range(givers):
            giver = stack.enter_context(namespace(f"giver-{number}"))
            ends = [f"{taker}=10.98.{number}.1", f"{giver}=10.98.{number}.2"]
            stack.enter_context(link([binary, f"-delay={delay_ms / 2}ms", f"-rate={LINK_MBIT / givers}",
                                      f"-loss={loss}", *ends]))
            hosts.append(Host(giver, f"10.98.{number}.2"))
        yield Host(taker, "10.98.0.1"), hosts


@contextlib.contextmanager
def namespace(role):
    name = f"cidfs-bench-{os.getpid()}-{role}"
    machine.output(["ip", "netns", "add", name])
    try:
        machine.output(["ip", "-n", name, "link", "set", "lo", "up"])
        machine.output(["ip", "netns", "exec", name, "sysctl", "-w", *SETTINGS])
        yield name
    finally:
        machine.output(["ip", "netns", "del", name])


@contextlib.contextmanager
def link(command):
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        if process.stdout.readline().strip() != "ready":
            raise RuntimeError("the link cannot be made")
        yield
    finally:
        process.stdin.close()
        process.wait(sides.STOP_TIMEOUT_S)


ALL = [
    limits.Limit("link-file", f"the big file read through the mount of a node that has nothing, from another "
                 f"node over {LINK_MBIT} Mbit/s with the round trip named, against curl into a file from nginx "
                 f"over the same (a pair counts when that has {CURL_SHARE} of the link); TCP is bbr for both",
                 file_over_link),
    limits.Limit("link-providers", f"the same from {PROVIDERS} nodes, round trip 20 ms, each with its part of "
                 "the rate, against what the sum of the links takes for the bytes", file_of_providers),
    limits.Limit("link-lossy", "as link-file, with 1 % of the packets lost each way", file_over_lossy_link),
    limits.Limit("link-tree", "tar of the tree into a pipe, as link-file, round trip 20 ms, against curl of "
                 "one tar file of it; find -printf %s of it", tree_over_link),
    limits.Limit("loopback", "the big file through the mount from another node on this machine, against a peer "
                 "in Go that gets it into a file from another (both with their stores in memory), and against "
                 "curl into a file over HTTPS from nginx; then a peer in Go that gets it from cidfs", loopback),
]
