"""The disk that the machine boots from: Debian and its cloud kernel, made once, kept outside the clone."""

import hashlib
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from testbed import cache_dir
from testbed.command import run
from testbed.tree import PACKAGES as NODE_PACKAGES
from testbed.tree import SUITE, debootstrap, locked

HERE = Path(__file__).resolve().parent
# The nodes of the test bed, and what boots a machine of its own.
PACKAGES = (*NODE_PACKAGES, "linux-image-cloud-amd64", "initramfs-tools")
UNIT = HERE / "flame-vm.service"
# Raised when the way the image is made changes without a change of the list or the unit.
RECIPE = 1
BUILD_SECONDS = 1200
DISK_SIZE = "3G"  # sparse
FSTAB = "/dev/vda / ext4 rw 0 0\n/dev/vdb /opt/flame-vm ext4 ro 0 0\n"


class ImageError(Exception):
    """The image could not be made; the message says what to do."""


@dataclass(frozen=True)
class Image:
    """What a machine is started from; nobody writes to it."""

    kernel: Path
    initrd: Path
    disk: Path


def ensure_image(say=print):
    """The finished image; makes it first if it is not there. Safe for several processes; needs root."""
    recipe = repr((SUITE, PACKAGES, UNIT.read_text(), RECIPE))
    folder = cache_dir() / "vm" / f"{SUITE}-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.parent / "lock"):
        if not folder.is_dir():
            say(f"making a machine's disk in {folder} (two minutes, once)")
            _build(folder)
    return Image(folder / "vmlinuz", folder / "initrd", folder / "disk")


def make_disk(path, tree, size):
    """A file with an ext4 file system that holds the tree; nothing is mounted."""
    run(["mke2fs", "-q", "-t", "ext4", "-d", tree, path, size], timeout=BUILD_SECONDS)


def _build(folder):
    if shutil.which("mke2fs") is None:
        raise ImageError("mke2fs is not installed: run hack/setup.sh vm")
    for old in folder.parent.glob("tmp-*"):
        shutil.rmtree(old, ignore_errors=True)  # we hold the lock, so nobody is building there
    work = Path(tempfile.mkdtemp(prefix="tmp-", dir=folder.parent))
    try:
        tree, made = work / "root", work / "made"
        debootstrap(tree, PACKAGES)
        made.mkdir()
        for name, file in (("vmlinuz", "vmlinuz-*"), ("initrd", "initrd.img-*")):
            (found,) = (tree / "boot").glob(file)
            shutil.copyfile(found, made / name)
        _settle(tree)
        make_disk(made / "disk", tree, DISK_SIZE)
        os.rename(made, folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _settle(root):
    """Makes the tree a machine that mounts its second disk and runs what is there, and nothing else."""
    etc = root / "etc"
    (etc / "machine-id").write_text("")
    (etc / "hostname").write_text("vm\n")
    (etc / "hosts").write_text("127.0.0.1 localhost vm\n")
    (etc / "resolv.conf").unlink(missing_ok=True)
    (etc / "fstab").write_text(FSTAB)
    (root / "opt/flame-vm").mkdir(parents=True)
    units = etc / "systemd/system"
    shutil.rmtree(units / "timers.target.wants", ignore_errors=True)
    shutil.copyfile(UNIT, units / UNIT.name)
    wants = units / "graphical.target.wants"
    wants.mkdir(exist_ok=True)
    (wants / UNIT.name).symlink_to(f"/etc/systemd/system/{UNIT.name}")
