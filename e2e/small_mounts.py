"""File systems inside a node that stand in the way: full ones, and ones that nobody may write to."""

import contextlib

MIB = 1 << 20


class Small:
    """A tmpfs over a folder of a node, which can be filled."""

    def __init__(self, machine, folder, mebibytes):
        self.machine = machine
        self.folder = folder
        self._ballast = f"{folder}/.ballast"
        machine.run(["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m,mode=755", "flame-small", folder])

    def free(self):
        """Bytes that are free."""
        return int(self.machine.run(["stat", "-f", "-c", "%a", self.folder]).stdout) * 4096

    @contextlib.contextmanager
    def filled(self, leave):
        """All but so many bytes are taken meanwhile."""
        size = self.free() - leave
        self.machine.run(["fallocate", "--length", str(size), self._ballast])
        try:
            yield
        finally:
            self.machine.run(["rm", self._ballast])

    def close(self):
        """Takes it away."""
        self.machine.run(["umount", self.folder])


@contextlib.contextmanager
def read_only(machine, folder):
    """Nobody can write in the folder meanwhile."""
    machine.run(["mount", "--bind", folder, folder])
    machine.run(["mount", "-o", "remount,bind,ro", folder])
    try:
        yield
    finally:
        machine.run(["umount", folder])


@contextlib.contextmanager
def full(machine, folder):
    """What is in the folder is there meanwhile, and there is no room for more."""
    copy = "/run/copy-of-what-was-there"
    machine.run(["cp", "--archive", folder, copy])
    small = Small(machine, folder, 1)
    try:
        machine.run(["sh", "-c", f"cp --archive {copy}/. {folder} && rm -r {copy}"])
        with small.filled(0):
            yield
    finally:
        small.close()
