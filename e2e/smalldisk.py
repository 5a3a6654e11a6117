"""A small file system that can be filled, seen only by the processes that are started in it."""

import os
import select
import subprocess
from pathlib import Path

READY_SECONDS = 10
BALLAST = "ballast"

# Mounts, says so, and holds the namespace until its standard input ends, as it does when the test dies.
HOLDER = 'mount -t tmpfs -o size="$1",mode=0700 flame-small "$2" && echo mounted && read -r _'


def why_not():
    """Why there can be no such file system here; nothing if there can."""
    return "a mount namespace of its own needs root" if os.geteuid() != 0 else None


class SmallDisk:
    """A tmpfs over a folder, in a mount namespace of its own: nothing is left when its holder ends."""

    def __init__(self, folder, size):
        self.folder = Path(folder)
        command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", HOLDER, "sh", str(size)]
        self._holder = subprocess.Popen(
            [*command, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        ready, _, _ = select.select([self._holder.stdout], [], [], READY_SECONDS)
        if not ready or self._holder.stdout.readline() != "mounted\n":
            self.close()
            raise RuntimeError(f"cannot mount a small file system over {folder}")

    @property
    def within(self):
        """The command in front of one that is to see the file system."""
        return ["nsenter", "--target", str(self._holder.pid), "--mount", "--"]

    @property
    def path(self):
        """The file system as the test sees it."""
        return Path(f"/proc/{self._holder.pid}/root{self.folder}")

    def free(self):
        """Bytes that are free."""
        found = os.statvfs(self.path)
        return found.f_bavail * found.f_frsize

    def fill(self, leave=0):
        """Takes all free space but `leave` bytes."""
        size = self.free() - leave
        if size > 0:
            with open(self.path / BALLAST, "ab") as ballast:
                # (What others write meanwhile may make it less.)
                _allocate(ballast.fileno(), ballast.tell(), size)

    def empty(self):
        """Gives the space back."""
        (self.path / BALLAST).unlink(missing_ok=True)

    def close(self):
        """Ends the file system; nobody may use it any more."""
        self._holder.stdin.close()
        self._holder.wait(READY_SECONDS)
        self._holder.stdout.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def _allocate(descriptor, offset, size):
    """posix_fallocate in halves: as much of `size` as there is room for."""
    block = 4096
    while size >= block:
        try:
            os.posix_fallocate(descriptor, offset, size)
            return
        except OSError:
            size //= 2
