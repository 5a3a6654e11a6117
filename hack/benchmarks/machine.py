"""What the numbers are measured on."""

import os
import platform
import re
import subprocess
from datetime import datetime, timezone
from pathlib import Path


def describe(directory, root):
    """The machine, the file system of `directory`, the revision in `root`, and the load before the run."""
    model = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    kibibytes = int(re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())[1])
    return {
        "cpu": model[1] if model else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(kibibytes / 1024 / 1024, 1),
        "kernel": platform.release(),
        "filesystem": filesystem(directory),
        "load_before": round(os.getloadavg()[0], 2),
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "revision": revision(root),
    }


def filesystem(directory):
    """The type of the file system that holds a folder: on tmpfs a sync costs nothing."""
    path = os.path.realpath(directory)
    best = ("", "unknown")
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mount, kind, *_ = line.split()
        inside = path == mount or path.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best[0]):
            best = (mount, kind)
    return best[1]


def revision(root):
    """The commit that is measured, if this is a clone."""
    try:
        words = ["git", "-C", str(root), "describe", "--always", "--dirty"]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
