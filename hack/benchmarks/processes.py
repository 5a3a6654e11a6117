"""What the kernel knows about processes: CPU time and memory."""

import contextlib
import os
import re
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def cpu(pid):
    """CPU seconds of a process itself, and of its children that have ended and were waited for."""
    # The name in parentheses may contain anything.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    own, children = (sum(map(int, fields[start : start + 2])) for start in (11, 13))
    return own / TICKS, children / TICKS


def family_cpu(pid):
    """CPU seconds of all that a process has started, living and ended, without itself."""
    living = 0.0
    for child in children(pid):
        # It may have ended meanwhile; its parent has its time now.
        with contextlib.suppress(OSError):
            living += cpu(child)[0] + family_cpu(child)
    return cpu(pid)[1] + living


def children(pid):
    """Pids of the living children of a process."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(folder.name))
    return found


def memory(pid):
    """Resident bytes of a process now, and the most that it ever had."""
    status = Path(f"/proc/{pid}/status").read_text()
    return tuple(int(re.search(rf"{key}:\s+(\d+)", status)[1]) * 1024 for key in ("VmRSS", "VmHWM"))
