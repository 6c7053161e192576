"""What this machine is, and its kernel's caches."""

import mmap
import os
import pathlib
import platform
import subprocess
import time

# The kernel still tells FUSE what it forgot and the disk what is free; that belongs to no run.
SETTLE_S = 0.5
#: More than a run with the big file takes: it lies in a store and in the kernel's cache.
MEMORY_LEN = 4 << 30


def settle():
    """Lets what went before end: everything is written out."""
    os.sync()
    time.sleep(SETTLE_S)


def settle_memory():
    """Settles, with free memory at hand.

    The host of a virtual machine may take back what lies free for a while. To get it again costs ten times
    what filling it does, and would be paid by whichever side comes to it.
    """
    settle()
    at_hand = min(MEMORY_LEN, memory_len("MemAvailable") // 2)
    mmap.mmap(-1, at_hand, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE).close()


def memory_len(key):
    kib, _, unit = first_value("/proc/meminfo", key).partition(" ")
    if unit != "kB":
        raise RuntimeError(f"/proc/meminfo does not tell {key}")
    return int(kib) * 1024


def drop_caches():
    """Empties the page, dentry and inode caches."""
    drop("3")


def drop_names():
    """Empties the dentry and inode caches."""
    drop("2")


def drop(what):
    os.sync()
    pathlib.Path("/proc/sys/vm/drop_caches").write_text(f"{what}\n")
    settle()


def read_ahead(mountpoint, kib):
    """Sets how far the kernel reads ahead on a mount."""
    device = os.stat(mountpoint).st_dev
    setting = f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb"
    pathlib.Path(setting).write_text(f"{kib}\n")


def facts(work, cidfs):
    """What a reader needs to know before comparing figures with those of another machine."""
    return {
        "kernel": platform.release(),
        "cores": os.cpu_count(),
        "processor": first_value("/proc/cpuinfo", "model name"),
        "memory": first_value("/proc/meminfo", "MemTotal"),
        "filesystem": output(["findmnt", "-n", "-o", "FSTYPE", "-T", str(work)]),
        "load_at_start": os.getloadavg()[0],
        "cidfs": output([str(cidfs), "--version"]),
    }


def first_value(path, key):
    for line in pathlib.Path(path).read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return "unknown"


def output(command, **options):
    """What a command prints; an error names the command and repeats what it said."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.strip()
