"""The sides of every pair: the disk's own filesystem, and cidfs mounted on it.

Both hold the same three things: one big file, a tree of small files, one folder of many names. The
sources that imports read are those of the disk's side. Where the kernel's own way to any FUSE is most of
the work there is a third side: bare/, which holds the same in memory and shows what can be reached.
"""

import contextlib
import dataclasses
import os
import pathlib
import random
import signal
import subprocess
import tempfile
import time

import machine

MIB = 1 << 20
FOLDER_FILES = 100  # files in one folder of the tree
START_TIMEOUT_S = 30  # the daemon takes well under a second
STOP_TIMEOUT_S = 30
SEED = 1  # the same bytes and sizes in every run
READ_AHEAD_KIB = 1024  # as a mount of cidfs has


@dataclasses.dataclass
class Side:
    """Where one side keeps its things, and how it takes something in."""

    file: pathlib.Path
    tree: pathlib.Path
    names: pathlib.Path
    #: The same where cidfs is mounted with small_files; on the disk there is no difference.
    small_file: pathlib.Path
    small_tree: pathlib.Path
    #: Where imports find room.
    scratch: pathlib.Path

    def fresh_place(self):
        """Makes a place where nothing is."""
        return pathlib.Path(tempfile.mkdtemp(dir=self.scratch))

    def ingest(self, source, place):
        """Returns when everything in source is in place and safe on the disk."""
        raise NotImplementedError


    def export(self, archive):
        """Writes the big file, with what else belongs to an archive, to a new file."""
        raise NotImplementedError

    def import_archive(self, archive, place):
        """Returns when the archive is in place and safe on the disk."""
        raise NotImplementedError


class Disk(Side):
    def export(self, archive):
        with archive.open("wb") as out:
            subprocess.run(["cat", str(self.file)], stdout=out, check=True)
        os.sync()

    def import_archive(self, archive, place):
        self.ingest(archive, place)

    def ingest(self, source, place):
        subprocess.run(["cp", "-r", str(source), str(place / "copy")], check=True)
        os.sync()


@dataclasses.dataclass
class Cidfs(Side):
    binary: pathlib.Path
    repository: pathlib.Path

    def export(self, archive):
        with archive.open("wb") as out:
            subprocess.run([str(self.binary), "dag", "export", self.file.name], stdout=out, check=True,
                           env=self.env(self.repository))
        os.sync()

    def import_archive(self, archive, place):
        machine.output([str(self.binary), "dag", "import", str(archive)], env=self.env(place))

    def fresh_place(self):
        place = super().fresh_place()
        self.init(place)
        return place

    def ingest(self, source, place):
        self.add(source, place)

    def init(self, repository):
        machine.output([str(self.binary), "init", "--preset=offline"], env=self.env(repository))

    def add(self, source, repository):
        return machine.output([str(self.binary), "add", "-r", "-Q", str(source)],
                              env=self.env(repository))

    def env(self, repository):
        return {**os.environ, "CIDFS_PATH": str(repository)}


@contextlib.contextmanager
def prepared(work, options):
    """Makes the material, imports and mounts it, and takes all of it away again."""
    material = make_material(work / "material", options)
    file, tree, _ = material
    disk = Disk(*material, file, tree, work)
    repository = work / "repository"
    cidfs = Cidfs(*material, file, tree, work, binary=options.cidfs.resolve(), repository=repository)
    cidfs.init(repository)
    cids = [cidfs.add(path, repository) for path in material]
    plain, small = work / "mnt", work / "mnt-small"
    mounts = {plain: "", small: "small_files"}
    with mounted(cidfs, repository, mounts, work / "daemon.log"):
        cidfs.file, cidfs.tree, cidfs.names = (plain / cid for cid in cids)
        cidfs.small_file, cidfs.small_tree = (small / cid for cid in cids[:2])
        check_same(disk, cidfs)
        with bare_mounted(options.bare, work) as bare:
            yield disk, cidfs, bare


@contextlib.contextmanager
def bare_mounted(binary, work):
    """Shows the material from memory; yields None without a binary."""
    if binary is None:
        yield None
        return
    material, mountpoint = work / "material", work / "mnt-bare"
    mountpoint.mkdir()
    process = subprocess.Popen([str(binary), str(material), str(mountpoint)])
    try:
        if not comes_true(lambda: os.path.ismount(mountpoint), process):
            raise RuntimeError(f"the bare filesystem is not mounted on {mountpoint}")
        machine.read_ahead(mountpoint, READ_AHEAD_KIB)
        file, tree, names = (mountpoint / path.name for path in material_paths(material))
        yield Side(file, tree, names, file, tree, work)
    finally:
        subprocess.run(["umount", str(mountpoint)], check=False)
        process.wait(STOP_TIMEOUT_S)


@contextlib.contextmanager
def mounted(cidfs, repository, mounts, log, command=lambda *words: words):
    """Runs a daemon with some mounts; `command` tells how it is run elsewhere."""
    env = cidfs.env(repository)
    with log.open("wb") as sink:
        daemon = subprocess.Popen(command(str(cidfs.binary), "daemon"), env=env, stdout=sink, stderr=sink)
    try:
        wait_for_daemon(daemon, repository, log)
        for mountpoint, options in mounts.items():
            mountpoint.mkdir()
            machine.output([str(cidfs.binary), "mount", "/ipfs", str(mountpoint), "-o", options], env=env)
        yield
    finally:
        daemon.send_signal(signal.SIGTERM)
        try:
            daemon.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            daemon.kill()
            for mountpoint in mounts:
                subprocess.run(["umount", "-l", str(mountpoint)], check=False)
            raise


def wait_for_daemon(daemon, repository, log):
    if not comes_true((repository / "api.sock").exists, daemon):
        raise RuntimeError(f"the daemon does not answer; it said: {log.read_text()}")


def comes_true(is_so, process):
    """Waits for what a process does first; tells whether it did, in time and alive."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while not is_so():
        if process.poll() is not None or time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def make_material(folder, options):
    """Returns the big file, the tree and the folder of many names; incompressible, never twice the same."""
    chance = random.Random(SEED)
    folder.mkdir()
    file, tree, names = material_paths(folder)
    with file.open("wb") as out:
        for _ in range(options.file_mib):
            out.write(chance.randbytes(MIB))
    tree.mkdir()
    for number in range(options.tree_files):
        # 256 bytes to 64 KiB, each power of two as likely as the next: the shape of a source tree.
        place = tree / f"part-{number // (10 * FOLDER_FILES):03}" / f"folder-{number // FOLDER_FILES:04}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"file-{number:06}").write_bytes(chance.randbytes(int(2 ** chance.uniform(8, 16))))
    names.mkdir()
    for number in range(options.dir_names):
        (names / f"name-{number:06}").write_text(f"{number}\n")
    os.sync()
    return file, tree, names


def material_paths(folder):
    return folder / "file", folder / "tree", folder / "names"


def check_same(disk, cidfs):
    """Figures of different work would mean nothing."""
    machine.output(["cmp", str(disk.file), str(cidfs.file)])
    for ours, theirs in (disk.tree, cidfs.tree), (disk.names, cidfs.names):
        listed = [machine.output(["find", "-type", "f", "-printf", "%P %s\n"], cwd=path)
                  for path in (ours, theirs)]
        if sorted(listed[0].splitlines()) != sorted(listed[1].splitlines()):
            raise RuntimeError(f"{theirs} does not show what is in {ours}")
