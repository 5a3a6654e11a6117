"""Prints every file of this machine as JSON: path -> type, mode, owner, and what it holds.

Runs inside a node, with the node's own Python. File systems that the kernel makes up are left out; so are
the times of files, because a folder's time says only that something was there.
"""

import contextlib
import hashlib
import json
import os
import stat
import sys

KERNEL = {"proc", "sysfs", "devtmpfs", "devpts", "cgroup2", "mqueue", "hugetlbfs", "fusectl", "ramfs"}


def left_out():
    """Mount points of made-up file systems, and of what the host shows in the node."""
    points = {"/dev", "/proc", "/sys"}
    with open("/proc/self/mounts") as mounts:
        for line in mounts:
            source, where, kind = line.split()[:3]
            if kind in KERNEL or where.startswith("/run/host"):
                points.add(where)
    return points | set(sys.argv[1:])


def describe(path):
    """One line about a file, equal for files that no program could tell apart."""
    info = os.lstat(path)
    words = [f"{stat.filemode(info.st_mode)} {info.st_uid}:{info.st_gid}"]
    if stat.S_ISLNK(info.st_mode):
        words.append(f"-> {os.readlink(path)}")
    elif stat.S_ISREG(info.st_mode):
        with open(path, "rb") as handle:
            words.append(f"{info.st_size} {hashlib.sha256(handle.read()).hexdigest()}")
    return " ".join(words)


def walk(top, skip):
    """All paths below `top`, without those in `skip` and what lies below them."""
    for folder, folders, files in os.walk(top):
        folders[:] = sorted(name for name in folders if os.path.join(folder, name) not in skip)
        for name in [*folders, *files]:
            path = os.path.join(folder, name)
            if path not in skip:
                yield path


if __name__ == "__main__":
    found = {}
    for each in walk("/", left_out()):
        # What is gone since the folder was read is left out, as short-lived files in /run are.
        with contextlib.suppress(FileNotFoundError):
            found[each] = describe(each)
    json.dump(found, sys.stdout)
