"""Running a machine until it ends itself: qemu, which emulates all of it unless told otherwise."""

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from testbed.command import run

from .image import ImageError, ensure_image, make_disk

MEMORY = "2G"
CPUS = 2
# Room for the file system's own tables beside the files.
SPARE_MIB = 64
CONSOLE_TAIL = 6000


class MachineError(Exception):
    """The machine did not end by itself; the message holds the end of its console."""


def run_machine(payload, seconds, say=print):
    """Boots a machine with the folder `payload` as /opt/flame-vm, whose `inside.py` it runs.

    Returns what that wrote to the file it was given, one JSON object a line, and the text of the console.
    """
    image = ensure_image(say)
    if shutil.which("qemu-system-x86_64") is None:
        raise ImageError("qemu-system-x86_64 is not installed: run hack/setup.sh vm")
    with tempfile.TemporaryDirectory(prefix="flame-vm-") as folder:
        folder = Path(folder)
        used = int(run(["du", "-s", "-B", "1M", "--apparent-size", payload]).stdout.split()[0])
        make_disk(folder / "payload", payload, f"{used * 5 // 4 + SPARE_MIB}M")
        try:
            ended = subprocess.run(
                _command(image, folder),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=seconds,
                text=True,
                check=False,
            )
            why = None if ended.returncode == 0 else f"qemu ended with {ended.returncode}: {ended.stderr}"
        except subprocess.TimeoutExpired:
            why = f"the machine has not ended within {seconds} s"
        console = _text(folder / "console")
        if why:
            raise MachineError(f"{why}\n{console[-CONSOLE_TAIL:]}")
        lines = _text(folder / "results").splitlines()
        return [json.loads(line) for line in lines if line.strip()], console


def _command(image, folder):
    # A host that is a machine itself may have a /dev/kvm under which nothing boots: it has to be asked for.
    command = ["qemu-system-x86_64", "-accel", os.environ.get("FLAME_VM_ACCEL", "tcg"), "-cpu", "max"]
    command += ["-m", MEMORY, "-smp", str(CPUS), "-nodefaults", "-display", "none", "-no-reboot"]
    command += ["-serial", f"file:{folder / 'console'}", "-serial", f"file:{folder / 'results'}"]
    # What the machine writes to its disk goes to a temporary file of qemu.
    command += ["-drive", f"file={image.disk},format=raw,if=virtio,snapshot=on"]
    command += ["-drive", f"file={folder / 'payload'},format=raw,if=virtio,readonly=on"]
    command += ["-kernel", image.kernel, "-initrd", image.initrd]
    return [*command, "-append", "root=/dev/vda rw console=ttyS0 panic=-1"]


def _text(path):
    return path.read_text(errors="replace") if path.exists() else ""
