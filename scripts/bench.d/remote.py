"""What content that is not here costs, over a test exchange with a delay and a rate: tests tell it."""

import os
import pathlib
import subprocess

import limits

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
#: The tests that tell figures in their long form.
TESTS = [
    "remote::reading::a_long_file_comes_at_the_rate_of_the_link",
    "remote::walking::a_tree_is_walked_in_few_round_trips",
    "remote::walking::a_tree_is_read_in_few_round_trips",
    "remote::walking::the_first_byte_takes_a_round_trip_for_each_level",
    "fuse::readdir::names_stream",
]


def run(_cidfs, _place, _source, options):
    figures = {}
    for _ in range(options.runs):
        for test in TESTS:
            for name, unit, most, value in told(test):
                figures.setdefault((name, unit, float(most)), []).append(float(value))
    for (name, unit, most), values in figures.items():
        yield name, unit, most, values


def told(test):
    """The figures of one test in a process of its own, built as a release is."""
    done = subprocess.run(
        ["cargo", "test", "--locked", "--release", "--features", "testkit", "--test", "runner", "--",
         "--exact", test, "--nocapture"],
        cwd=ROOT, env={**os.environ, "CIDFS_TESTS": "full"}, capture_output=True, text=True, check=False,
    )
    lines = [line.split("\t")[1:] for line in done.stderr.splitlines() if line.startswith("FIGURE\t")]
    if done.returncode != 0 or not lines:
        raise RuntimeError(f"{test}: {done.stderr.strip()}")
    return lines


ALL = [
    limits.Limit("remote", "1 GiB read in order over 1 Gbit/s and 100 ms, against what its bytes take on that "
                 "link; find -printf %s and tar of 20,000 files, and the first byte below 3 directories over 20 ms, "
                 "nothing here; a sharded directory of a million names: its first name, and the memory that "
                 "listing it takes", run),
]
