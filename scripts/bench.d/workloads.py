"""The work itself. Each workload is one function over a side; it yields (phase, seconds)."""

import dataclasses
import json
import mmap
import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable

import machine

BUFFER_LEN = 1 << 20  # reads of one MiB, into page-aligned memory: off alignment all sides slow down
PAGE = 4096
RANDOM_READS_WARM = 500_000
RANDOM_READS_COLD = 2_000
RANDOM_READS_SHARED = 100_000
READERS = 8
HAS_FIO = shutil.which("fio") is not None


@dataclasses.dataclass(frozen=True)
class Workload:
    name: str
    method: str
    run: Callable
    #: What a rate is counted in: "MiB", "files", "reads" or "names".
    unit: str
    amount: Callable
    #: Whether the bare filesystem does it too.
    has_ceiling: bool = False


@dataclasses.dataclass
class Result:
    """Paired times of one phase, in seconds; those of the bare filesystem only where it does the same."""

    workload: Workload
    phase: str
    amount: float
    disk_s: list = dataclasses.field(default_factory=list)
    cidfs_s: list = dataclasses.field(default_factory=list)
    bare_s: list = dataclasses.field(default_factory=list)


def measure(workload, disk, cidfs, bare, options):
    """Runs the pairs; returns one result for each phase."""
    results = {}
    sides = [("disk_s", disk), ("cidfs_s", cidfs)]
    if bare and workload.has_ceiling:
        sides.append(("bare_s", bare))
    for _ in range(options.runs):
        for times, side in sides:
            for phase, seconds in workload.run(side, disk, options):
                amount = workload.amount(options, phase)
                result = results.setdefault(phase, Result(workload, phase, amount))
                getattr(result, times).append(seconds)
    return list(results.values())


def timed(work, *arguments):
    start = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - start


def ingest_file(side, disk, _options):
    read_whole(disk.file)
    place, seconds = ingest(side, disk.file)
    shutil.rmtree(place)
    yield "", seconds


def ingest_tree(side, disk, _options):
    tar_to_pipe(disk.tree)
    # What was copied stays until the end: for minutes after many files were deleted, ext4 passes
    # over their inodes one by one and creates files ten times slower.
    yield "", ingest(side, disk.tree)[1]


def archive(side, disk, _options):
    """The archive that cidfs writes is what the disk's side copies."""
    read_whole(side.file)
    place = side.fresh_place()
    machine.settle_memory()
    yield "export", timed(side.export, place / "archive.car")
    machine.settle_memory()
    yield "import", timed(side.import_archive, place / "archive.car", place)
    shutil.rmtree(place)


def ingest(side, source):
    place = side.fresh_place()
    machine.settle_memory()
    return place, timed(side.ingest, source, place)


def sequential(side, _disk, _options):
    machine.drop_caches()
    yield "cold", timed(read_whole, side.file)
    yield "warm", timed(read_whole, side.file)


def unassisted(side, _disk, _options):
    machine.drop_caches()
    yield "first", timed(read_whole, side.small_file)
    yield "again", timed(read_whole, side.small_file)


def random_reads(side, _disk, _options):
    machine.drop_caches()
    yield "cold", random_seconds(side.file, RANDOM_READS_COLD)
    warm(side.file)
    yield "warm", random_seconds(side.file, RANDOM_READS_WARM)


def random_seconds(path, count):
    if HAS_FIO:
        return fio_seconds(path, count)
    with open(path, "rb", buffering=0) as file:
        return timed(read_pages, file, count)


def fio_seconds(path, count):
    said = machine.output([
        "fio", "--name=random", f"--filename={path}", "--readonly", "--rw=randread", "--bs=4k",
        "--ioengine=psync", "--invalidate=0", "--norandommap", "--randseed=1",
        f"--number_ios={count}", "--output-format=json",
    ])
    return json.loads(said)["jobs"][0]["read"]["runtime"] / 1000


def read_pages(file, count, seed=1):
    pages = os.fstat(file.fileno()).st_size // PAGE
    chance = random.Random(seed)
    offsets = [chance.randrange(pages) * PAGE for _ in range(count)]
    with mmap.mmap(-1, PAGE) as buffer:
        for offset in offsets:
            os.preadv(file.fileno(), [buffer], offset)


def readers(side, _disk, _options):
    warm(side.file)
    yield "warm", timed(read_by_many, side.file)


def read_by_many(path):
    """Each process reads the whole file, from a place of its own and around."""
    step = os.path.getsize(path) // READERS // PAGE * PAGE
    in_children(lambda number: read_whole(path, start=number * step))


def one_handle(side, _disk, _options):
    """The reads go past the page cache of what is read, not past the one of the store's files."""
    warm(side.small_file)
    with open(side.small_file, "rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        yield "", timed(read_pages_by_many, file)


def read_pages_by_many(file):
    in_children(lambda number: read_pages(file, RANDOM_READS_SHARED // READERS, number))


def in_children(work):
    children = []
    for number in range(READERS):
        child = os.fork()
        if child == 0:
            failed = 1
            try:
                work(number)
                failed = 0
            finally:
                os._exit(failed)
        children.append(child)
    if any([os.waitpid(child, 0)[1] for child in children]):
        raise RuntimeError("a reader failed")


def warm(path):
    """Evicts and reads again: pages that came by small writes lie in small pieces, which read slower."""
    machine.drop_caches()
    read_whole(path)


def read_whole(path, start=0):
    with mmap.mmap(-1, BUFFER_LEN) as buffer, open(path, "rb", buffering=0) as file:
        for first, end in (start, None), (0, start):
            at = first
            while end is None or at < end:
                count = os.preadv(file.fileno(), [buffer], at)
                if count == 0:
                    break
                at += count


def walk(side, disk, _options):
    command = ["find", str(side.tree), "-printf", "%s\n"]
    yield from cold_and_again(lambda: quiet(command))
    if side is not disk:
        machine.drop_names()
    yield "names dropped", timed(quiet, command)


def names(side, _disk, _options):
    yield from cold_and_again(lambda: quiet(["ls", "-f", str(side.names)]))


def tar(side, _disk, _options):
    yield from cold_and_again(lambda: tar_to_pipe(side.tree))


def small(side, _disk, _options):
    for name, work in ("tar", tar_to_pipe), ("grep", grep):
        work(side.small_tree)
        yield name, timed(work, side.small_tree)


def grep_again(side, _disk, _options):
    grep(side.tree)
    yield "again", timed(grep, side.tree)


def grep(tree):
    """Searches in vain, so that everything is read."""
    subprocess.run(["grep", "-r", "-F", "no file has this line", str(tree)], stdout=subprocess.DEVNULL,
                   check=False)


def tar_to_pipe(tree):
    """Into a pipe: tar sees through /dev/null and reads nothing."""
    quiet(["bash", "-o", "pipefail", "-c", 'tar -cf - -C "$1" . | cat', "tar", str(tree)])


def cold_and_again(work):
    machine.drop_caches()
    yield "cold", timed(work)
    yield "again", timed(work)


def quiet(command):
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)


def file_mib(options, _phase):
    return options.file_mib


def tree_files(options, _phase):
    return options.tree_files


ALL = [
    Workload("import-file", "cp -r + sync against cidfs add (a new repository each time, its own "
             "fsync included); the source in the page cache", ingest_file, "MiB", file_mib),
    Workload("import-tree", "the same with the tree", ingest_tree, "files", tree_files),
    Workload("archive", "cat into a new file + sync against cidfs dag export into one + sync, then cp + "
             "sync of the archive against cidfs dag import", archive, "MiB", file_mib),
    Workload("sequential", "read(2) of 1 MiB into page-aligned memory; cold: kernel caches dropped "
             "(not what the daemon itself keeps); warm: again", sequential, "MiB", file_mib),
    Workload("random-4k", ("fio psync" if HAS_FIO else "pread") + ", 4 KiB at random offsets, "
             f"{RANDOM_READS_COLD} reads cold, {RANDOM_READS_WARM} warm", random_reads, "reads",
             lambda _options, phase: RANDOM_READS_COLD if phase == "cold" else RANDOM_READS_WARM),
    Workload("readers-8", f"{READERS} processes, each reads the whole file from another place on, "
             "page cache warm", readers, "MiB", lambda options, _: options.file_mib * READERS),
    Workload("unassisted", "as sequential, but through a mount with small_files, where the kernel reads no "
             "file by itself: first with all caches dropped, and again", unassisted, "MiB", file_mib, has_ceiling=True),
    Workload("one-handle", f"{READERS} processes with one handle, {RANDOM_READS_SHARED} reads of 4 KiB at "
             "random through a mount with small_files; the file's pages dropped, the store's not",
             one_handle, "reads", lambda _options, _phase: RANDOM_READS_SHARED),
    Workload("walk", "find -printf %s over the tree; kernel caches dropped, and again; then "
             "cidfs with the kernel's names and inodes dropped against the disk with all of it in memory",
             walk, "files", tree_files, has_ceiling=True),
    Workload("tar", "tar of the tree into a pipe; kernel caches dropped, and again", tar, "files",
             tree_files, has_ceiling=True),
    Workload("grep", "grep -r of the tree, the second time", grep_again, "files", tree_files,
             has_ceiling=True),
    Workload("small", "tar into a pipe and grep -r of the tree, the second time, cidfs mounted with "
             "small_files", small, "files", tree_files),
    Workload("names", "ls -f of one folder; kernel caches dropped, and again", names, "names",
             lambda options, _: options.dir_names),
]
