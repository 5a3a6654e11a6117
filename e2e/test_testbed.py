"""The test bed itself: what the other tests rely on, and that it leaves nothing behind."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from testbed import CommandError, TestBed, remove_stale, wait_until
from testbed.bed import beds
from testbed.cgroup import root
from testbed.network import namespaces

pytestmark = pytest.mark.nodes

HACK = Path(__file__).resolve().parent.parent / "hack"
FETCH = "import urllib.request; print(urllib.request.urlopen('http://two:8000/', timeout=1).status)"
# Whoever starts the tests in the background of a shell has SIGINT ignored, and this inherits it.
KEEP_RUNNING = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path.insert(0, sys.argv[1])
from testbed import TestBed
with TestBed(["lone"]) as bed:
    print(bed.id, flush=True)
    time.sleep(300)
"""


@pytest.fixture(scope="module")
def bed():
    """Two nodes."""
    with TestBed(["one", "two"]) as made:
        yield made


def traces(bed_id):
    """What a bed has left on the host."""
    found = [name for name in namespaces() if bed_id in name]
    found += [line for line in Path("/proc/self/mounts").read_text().splitlines() if bed_id in line]
    found += [str(path) for path in root().glob(f"*{bed_id}*")]
    found += [bed.id for bed in beds() if bed.id == bed_id]
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"--machine=flamebed-{bed_id}".encode() in (folder / "cmdline").read_bytes():
                found.append(f"process {folder.name}")
    return found


def test_nodes_are_systems_of_their_own(bed):
    one, two = bed.nodes
    assert one.run(["systemctl", "is-system-running"]).stdout.strip() == "running"
    assert [node.run(["hostname"]).stdout.strip() for node in bed.nodes] == ["one", "two"]
    assert one.read("/etc/machine-id") != two.read("/etc/machine-id")
    one.write("/opt/mine", "x")
    assert not two.run(["test", "-e", "/opt/mine"], check=False).ok


def test_commands_tell_how_they_ended(bed):
    one = bed["one"]
    result = one.run(["sh", "-c", "echo out; echo err >&2; exit 3"], check=False)
    assert (result.returncode, result.stdout, result.stderr) == (3, "out\n", "err\n")
    with pytest.raises(CommandError, match="ended with 3"):
        one.run(["sh", "-c", "exit 3"])
    assert one.run(["sleep", "60"], check=False, timeout=1).returncode == 124
    assert one.run(["cat"], stdin="through").stdout == "through"


def test_there_is_no_way_outside(bed):
    assert bed["one"].run(["ip", "route", "show", "default"]).stdout == ""


def test_a_link_is_cut_and_restored(bed):
    one, two = bed.nodes
    server = two.background(["python3", "-m", "http.server", "8000"], timeout=60)
    one.wait_until(["python3", "-c", FETCH])
    bed.cut(two)
    assert not one.run(["python3", "-c", FETCH], check=False).ok
    bed.restore(two)
    one.wait_until(["python3", "-c", FETCH])
    two.run(["pkill", "--full", "[h]ttp.server"])
    assert server.result().returncode != 0


@pytest.mark.parametrize("hard", [False, True], ids=["orderly", "power failure"])
def test_a_reboot_keeps_the_files(bed, hard):
    one = bed["one"]
    boot = one.read("/proc/sys/kernel/random/boot_id")
    one.write("/opt/kept", "kept")
    one.run(["sync"])
    bed.reboot(one, hard)
    assert one.read("/opt/kept") == "kept"
    assert one.read("/proc/sys/kernel/random/boot_id") != boot
    assert one.run(["journalctl", "--list-boots", "--no-pager"]).stdout.count("\n") >= 2


def test_a_killed_service_has_another_pid(bed):
    one = bed["one"]
    killed = one.kill("systemd-logind")
    wait_until(lambda: one.main_pid("systemd-logind") not in (0, killed), 20, "logind is back")


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_behind(how):
    child = subprocess.Popen(
        [sys.executable, "-c", KEEP_RUNNING, str(HACK)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    bed_id = child.stdout.readline().strip()
    assert traces(bed_id)
    os.kill(child.pid, how)
    child.communicate(timeout=60)
    if how == signal.SIGKILL:
        assert bed_id in remove_stale(say=lambda _: None)
    assert traces(bed_id) == []
