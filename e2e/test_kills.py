"""flmadm is killed around its steps: the state before or the finished one is left, byte for byte."""

import json
import os
from pathlib import Path

import pytest
from machine import BIN, FLMADM, PREFIX
from releases import shelve

# Every so-manieth checkpoint is tried; with FLAME_KILLS_EVERY=1 (make soak) all are, as in unit tests.
EVERY = int(os.environ.get("FLAME_KILLS_EVERY", "9"))
SECONDS = 1_800
pytestmark = [pytest.mark.nodes, pytest.mark.timeout(SECONDS)]
SCRIPT = (Path(__file__).parent / "kills.py").read_text()
INSTALL = ["install", "--all", "--enable", "--skip-build", "--bin-dir", BIN]
UNINSTALL = ["uninstall", "--no-backup", "--remove-user", "--force"]


@pytest.fixture(scope="module")
def machine(make_bed):
    """A node without Flame."""
    (machine,) = make_bed("kills")
    return machine


def kill(machine, command, reset, last, program=FLMADM):
    """Runs the loop; gives the report, which must not have anything wrong in it."""
    plan = {
        "program": program,
        "repairer": FLMADM,
        "prefix": PREFIX,
        "command": command,
        "reset": reset,
        "last": last,
        "every": EVERY,
    }
    done = machine.run(["python3", "-", json.dumps(plan)], stdin=SCRIPT, timeout=SECONDS)
    report = json.loads(done.stdout)
    assert report["wrong"] == [], json.dumps(report, indent=2)
    assert report["tried"] >= report["checkpoints"] // EVERY and report["undone"] > 0, report
    print(report)
    return report


def test_install(machine):
    """A killed first installation leaves nothing, or all."""
    report = kill(machine, INSTALL, [UNINSTALL], [UNINSTALL])
    assert report["checkpoints"] > 60


def test_upgrade(machine):
    """A killed upgrade is taken back by systemd, or was complete."""
    machine.run([FLMADM, *INSTALL])
    folder = shelve(machine, "newer")
    command = ["upgrade", "--bin-dir", folder]
    back = ["install", "--all", "--enable", "--skip-build", "--bin-dir", BIN]
    kill(machine, command, [UNINSTALL, back], [], program=f"{folder}/flmadm")


def test_rollback(machine):
    """A killed rollback, too."""
    machine.run([FLMADM, *UNINSTALL])
    machine.run([FLMADM, *INSTALL])
    folder = shelve(machine, "newer")
    forth = ["upgrade", "--bin-dir", folder]
    kill(machine, ["rollback"], [UNINSTALL, INSTALL, forth], [])


def test_uninstall(machine):
    """A killed removal is undone, and the services run again, or it is finished."""
    kill(machine, UNINSTALL, [UNINSTALL, INSTALL], [UNINSTALL])
