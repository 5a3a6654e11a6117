"""The Debian tree that all nodes share read-only: made once by mmdebstrap, kept outside the clone."""

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from .command import run

SUITE = "bookworm"
# What a plain Debian server has that the tests need; a change of this list makes a new tree.
PACKAGES = (
    "systemd",
    "systemd-sysv",
    "dbus",
    "polkitd",
    # What a user manager with a session bus needs.
    "libpam-systemd",
    "dbus-user-session",
    "python3",
    "iproute2",
    "procps",
)
# Raised when the way the tree is made changes without a change of the list.
RECIPE = 1
BUILD_SECONDS = 1200


class TreeError(Exception):
    """The tree could not be made; the message says what to do."""


def cache_dir():
    """Where everything that tests keep between runs lies; `FLAME_TEST_CACHE` overrides it."""
    chosen = os.environ.get("FLAME_TEST_CACHE")
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "flame-test"


def ensure_tree(say=print):
    """The path of the finished tree; makes it first if it is not there. Safe for several processes."""
    key = hashlib.sha256(repr((SUITE, PACKAGES, RECIPE)).encode()).hexdigest()[:12]
    trees = cache_dir() / "trees"
    tree = trees / f"{SUITE}-{key}"
    if tree.is_dir():
        return tree
    trees.mkdir(parents=True, exist_ok=True)
    with locked(trees / "lock"):
        if not tree.is_dir():
            say(f"making a Debian tree in {tree} (about a minute, once)")
            _build(tree)
    return tree


@contextlib.contextmanager
def locked(path):
    """Waits until no other process is in a block with this file."""
    with open(path, "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def debootstrap(root, packages):
    """Makes a small Debian with these packages in the folder `root`, which is not there yet."""
    if shutil.which("mmdebstrap") is None:
        raise TreeError("mmdebstrap is not installed: run hack/setup.sh")
    command = ["mmdebstrap", "--variant=minbase", f"--include={','.join(packages)}"]
    command += ['--aptopt=Acquire::Languages "none"', '--aptopt=Acquire::Retries "3"']
    command += [f"--dpkgopt=path-exclude=/usr/share/{d}/*" for d in ("man", "locale")]
    result = run([*command, SUITE, root], check=False, timeout=BUILD_SECONDS)
    if not result.ok:
        raise TreeError(f"mmdebstrap failed; are Debian's package servers reachable?\n{result}")


def _build(tree):
    for old in tree.parent.glob("tmp-*"):
        shutil.rmtree(old, ignore_errors=True)  # we hold the lock, so nobody is building there
    work = Path(tempfile.mkdtemp(prefix="tmp-", dir=tree.parent))
    work.chmod(0o755)
    try:
        debootstrap(work / "root", PACKAGES)
        _settle(work / "root")
        os.rename(work / "root", tree)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _settle(root):
    """Removes what would differ from machine to machine or start something that a test does not need."""
    (root / "etc/machine-id").write_text("")
    (root / "etc/resolv.conf").unlink(missing_ok=True)
    (root / "etc/hostname").unlink(missing_ok=True)
    # Periodic jobs of the distribution would change files in the middle of a test.
    wants = root / "etc/systemd/system/timers.target.wants"
    if wants.is_dir():
        for timer in wants.iterdir():
            timer.unlink()
    # The journal survives a reboot, so that a failed test can show all of it.
    (root / "var/log/journal").mkdir(parents=True, exist_ok=True)
