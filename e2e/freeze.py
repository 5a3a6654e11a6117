"""Holds up one thread of a process, by its name, until the process is killed: `freeze.py PID THREAD SECONDS`.

The other threads run on, so a daemon that is held up so shows what its watchdog looks at.
"""

import ctypes
import os
import signal
import sys
from pathlib import Path

PTRACE_SEIZE = 0x4206
PTRACE_INTERRUPT = 0x4207
# Waits for threads, too.
WALL = 0x40000000


def threads(pid, name):
    """Ids of the threads of a process with this name."""
    for folder in Path(f"/proc/{pid}/task").iterdir():
        if (folder / "comm").read_text().strip() == name:
            yield int(folder.name)


def hold(thread):
    """Stops one thread."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    for request in (PTRACE_SEIZE, PTRACE_INTERRUPT):
        if libc.ptrace(request, thread, None, None) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def main():
    """Holds up the one thread that is meant."""
    pid, name, seconds = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    (thread,) = threads(pid, name)
    hold(thread)
    # Ends this program, and so the hold, if nobody kills the process.
    signal.alarm(seconds)
    # A thread that is killed is a zombie until its tracer has seen it. Before that come its stops.
    while os.WIFSTOPPED(os.waitpid(thread, WALL)[1]):
        pass


main()
