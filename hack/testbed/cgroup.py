"""A control group per node, so that a node can be ended as a whole without naming any of its processes."""

from pathlib import Path

from .command import wait_until


class CgroupError(Exception):
    """The host has no usable cgroup2 tree."""


def root():
    """Where the host has mounted cgroup2 (alone, or beside version 1)."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind = line.split()[:3]
        if kind == "cgroup2":
            return Path(where)
    raise CgroupError("no cgroup2 is mounted; mount one: mount -t cgroup2 cgroup2 /sys/fs/cgroup")


class Cgroup:
    """One group below the host's cgroup2 root."""

    def __init__(self, name):
        self.path = root() / name

    def create(self):
        """Makes the group; its processes are added by writing to `procs`."""
        self.path.mkdir(parents=True, exist_ok=True)

    @property
    def procs(self):
        """The file that takes the pid of a process that is to belong here."""
        return self.path / "cgroup.procs"

    def kill(self, timeout=20):
        """Kills every process of the group and of the groups below it, and waits for their end."""
        if not self.path.exists():
            return
        (self.path / "cgroup.kill").write_text("1")
        wait_until(self._empty, timeout, f"all processes of {self.path} gone")

    def remove(self):
        """Removes the group with all groups below it; they must be empty."""
        if not self.path.exists():
            return
        below = sorted((p for p in self.path.rglob("*") if p.is_dir()), key=lambda p: -len(p.parts))
        for group in [*below, self.path]:
            wait_until(lambda group=group: _try_remove(group), 10, f"{group} removed")

    def _empty(self):
        return "populated 0" in (self.path / "cgroup.events").read_text()


def _try_remove(group):
    try:
        group.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False  # the kernel still counts a process that has just ended
    return True
