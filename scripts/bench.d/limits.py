"""What the store promises in absolute figures, or against reading its files: each with its limit."""

import dataclasses
import os
import shutil
import signal
import statistics
import subprocess
import time
from collections.abc import Callable

import machine
import sides

LEAF_LEN = 1024
RANDOM_PART = 1 << 20
#: Blocks looked for in vain, and blocks of the smaller store that idles.
ABSENT_BLOCKS = 200_000
SMALL_STORE_BLOCKS = 100_000
TAIL_MIB = 100  # written after the last clean stop, to be hashed after a power cut
IDLE_S = 3
ATTRIBUTE = "user.ipfs.local"
ANOTHER_BOOT = "00000000-0000-0000-0000-000000000000 0\n"
DAG_PB = 0x70


@dataclasses.dataclass(frozen=True)
class Limit:
    name: str
    method: str
    run: Callable


@dataclasses.dataclass
class Figure:
    limit: Limit
    phase: str
    unit: str
    most: float
    values: list

    @property
    def median(self):
        return statistics.median(self.values)


def measure(limit, cidfs, source, options):
    """Runs one measurement in a place of its own."""
    place = cidfs.fresh_place()
    try:
        return [Figure(limit, *figure) for figure in limit.run(cidfs, place, source, options)]
    finally:
        shutil.rmtree(place)


def rebuild(cidfs, place, source, options):
    add_packed(cidfs, place, source)
    ratios = []
    for _ in range(options.runs):
        packs = sorted((place / "packs").glob("*.car"))
        machine.drop_caches()
        reading = timed(["cat", *packs], stdout=subprocess.DEVNULL)
        for index in (place / "packs").glob("*.idx"):
            index.unlink()
        machine.drop_caches()
        ratios.append(rebuilding(cidfs, place) / reading)
    yield "", "× cat", 1 / 0.7, ratios


def rebuilding(cidfs, place):
    return timed(command(cidfs, "repo", "rebuild"), env=cidfs.env(place), stdout=subprocess.DEVNULL)


def opening(cidfs, place, _source, options):
    cid = add_blocks(cidfs, place, options.blocks, seed=1)
    yield "clean", "s", 1.0, [open_once(cidfs, place, cid) for _ in range(options.runs)]
    after = []
    for run in range(options.runs):
        cut_power(cidfs, place, seed=100 + run)
        after.append(open_once(cidfs, place, cid))
    yield "power cut", "s", 5.0, after


def looking(cidfs, place, _source, options):
    """Of both, the blocks are those of one file with leaves of 1 KiB."""
    present = add_blocks(cidfs, place, options.blocks, seed=1)
    absent = add_without_leaves(cidfs, place, ABSENT_BLOCKS, seed=2)
    mountpoint = place / "mnt"
    with sides.mounted(cidfs, place, {mountpoint: ""}, place / "daemon.log"):
        for phase, cid, count in ("here", present, options.blocks), ("absent", absent, ABSENT_BLOCKS):
            path = mountpoint / cid
            os.getxattr(path, ATTRIBUTE)
            times = [look(path, phase, count) for _ in range(options.runs)]
            yield phase, "µs", 20.0, times


def idling(cidfs, place, _source, options):
    yield f"{SMALL_STORE_BLOCKS} blocks", "MB", 60.0, [idle_mb(cidfs, place, SMALL_STORE_BLOCKS)]
    yield f"{options.blocks} blocks", "MB", 300.0, [idle_mb(cidfs, place, options.blocks)]


def idle_mb(cidfs, place, blocks):
    add_blocks(cidfs, place, blocks, seed=blocks)
    log = (place / "daemon.log").open("wb")
    with log, daemon(cidfs, place, log) as process:
        time.sleep(IDLE_S)
        resident = machine.first_value(f"/proc/{process.pid}/status", "VmRSS")
    return int(resident.split()[0]) * 1024 / 1e6


def look(path, phase, count):
    start = time.perf_counter()
    answer = os.getxattr(path, ATTRIBUTE).decode()
    seconds = time.perf_counter() - start
    facts = dict(fact.split("=") for fact in answer.split()[1:])
    seen = int(facts["blocks" if phase == "here" else "missing"])
    if seen < count:
        raise RuntimeError(f"{seen} blocks were looked for, not {count}: {answer}")
    return seconds * 1e6 / seen


def open_once(cidfs, place, cid):
    machine.drop_caches()
    return timed(command(cidfs, "block", "stat", cid), env=cidfs.env(place), stdout=subprocess.DEVNULL)


def cut_power(cidfs, place, seed):
    """Leaves what a power cut leaves: a pack without its index, and the mark of another boot."""
    tail = place / "tail"
    write_random(tail, TAIL_MIB << 20, seed)
    with (place / "daemon.log").open("wb") as log, daemon(cidfs, place, log) as process:
        add_packed(cidfs, place, tail)
        process.kill()
    (place / "dirty").write_text(ANOTHER_BOOT)
    tail.unlink()


def add_blocks(cidfs, place, count, seed):
    """Adds a file of so many leaves; returns its CID."""
    source = place / "blocks"
    write_random(source, count * LEAF_LEN, seed)
    cid = add_packed(cidfs, place, source, f"--chunker=size-{LEAF_LEN}")
    source.unlink()
    return cid


def add_packed(cidfs, place, source, *flags):
    """Adds a file block by block into packs, as what comes from others is; returns its CID."""
    other, archive = place / "adding", place / "blocks.car"
    other.mkdir()
    cidfs.init(other)
    cid = machine.output(command(cidfs, "add", "-Q", *flags, source), env=cidfs.env(other))
    with archive.open("wb") as out:
        subprocess.run(command(cidfs, "dag", "export", cid), env=cidfs.env(other), check=True,
                       stdout=out)
    shutil.rmtree(other)
    machine.output(command(cidfs, "dag", "import", archive), env=cidfs.env(place))
    archive.unlink()
    return cid


def add_without_leaves(cidfs, place, count, seed):
    """Adds only the inner nodes of a file of so many leaves; returns its CID."""
    other, archive = place / "other", place / "nodes.car"
    other.mkdir()
    cidfs.init(other)
    cid = add_blocks(cidfs, other, count, seed)
    whole = subprocess.run(command(cidfs, "dag", "export", cid), env=cidfs.env(other),
                           check=True, capture_output=True).stdout
    archive.write_bytes(without_leaves(whole))
    machine.output(command(cidfs, "dag", "import", "--pin-roots=false", archive), env=cidfs.env(place))
    shutil.rmtree(other)
    return cid


def without_leaves(archive):
    """Returns the header and the dag-pb sections of an archive (CIDv1 only)."""
    parts, at = [], 0
    while at < len(archive):
        length, start = varint(archive, at)
        is_header, codec = at == 0, archive[start + 1]
        if is_header or codec == DAG_PB:
            parts.append(archive[at:start + length])
        at = start + length
    return b"".join(parts)


def varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def write_random(path, length, seed):
    chance = sides.random.Random(seed)
    with path.open("wb") as out:
        for start in range(0, length, RANDOM_PART):
            out.write(chance.randbytes(min(RANDOM_PART, length - start)))


class daemon:  # noqa: N801 - a context manager
    def __init__(self, cidfs, place, log):
        self.process = subprocess.Popen(command(cidfs, "daemon"), env=cidfs.env(place),
                                        stdout=log, stderr=log)
        sides.wait_for_daemon(self.process, place, place / "daemon.log")

    def __enter__(self):
        return self.process

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(sides.STOP_TIMEOUT_S)


def command(cidfs, *arguments):
    return [str(argument) for argument in (cidfs.binary, *arguments)]


def timed(arguments, **options):
    start = time.perf_counter()
    subprocess.run(arguments, check=True, **options)
    return time.perf_counter() - start


ALL = [
    Limit("rebuild", "time of `repo rebuild` without index files against `cat` of the packs, caches "
          "dropped before each", rebuild),
    Limit("open", "a whole command that opens the store, looks for a block and stops, caches dropped; "
          f"after a power cut {TAIL_MIB} MiB have no index", opening),
    Limit("has", "time of `user.ipfs.local` on a file of 1 KiB leaves, by leaf: the walk is in it", looking),
    Limit("idle", f"resident memory of the daemon {IDLE_S} s after its start", idling),
]
