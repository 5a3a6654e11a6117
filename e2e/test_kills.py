"""flmadm is killed around its steps: the state before or the finished one is left, byte for byte."""

import json
import os
from pathlib import Path

import ann
import pytest
from machine import BIN, FLMADM, PREFIX
from releases import shelve

# Every so-manieth checkpoint is tried; with FLAME_KILLS_EVERY=1 (make soak) all are, as in unit tests.
EVERY = int(os.environ.get("FLAME_KILLS_EVERY", "9"))
# Kinds of installations have most in common, so of the others only the middle and the end are tried.
OF_KIND = EVERY if EVERY == 1 else None
SECONDS = 1_800
pytestmark = [pytest.mark.nodes, pytest.mark.timeout(SECONDS)]
SCRIPT = (Path(__file__).parent / "kills.py").read_text()
INSTALL = ["install", "--all", "--enable", "--skip-build", "--bin-dir", BIN]
UNINSTALL = ["uninstall", "--no-backup", "--remove-user", "--force"]
HER_UNINSTALL = ["uninstall", "--no-backup", "--force"]


def kind(stem="flame", **different):
    """An installation of the machine, with what is different from the usual one."""
    units = [f"{stem}.target", f"{stem}-session-manager.service", f"{stem}-node-agent.service"]
    return {
        "prefix": PREFIX,
        "which": [],
        "caller": [],
        "systemctl": ["systemctl"],
        "services": units,
        "tops": ["/usr/local", "/etc"],
        "living": [f"/run/{stem}", f"/run/{stem}-executor", "/run/systemd/system.control"],
        "every": EVERY,
        **different,
    }


USUAL = kind()
INSTANCE = kind("flame-prod", prefix=f"{PREFIX}-prod", which=["--instance", "prod"])
HERS = kind(
    prefix=ann.PREFIX,
    which=["--user"],
    caller=ann.AS_ANN,
    systemctl=[*ann.AS_ANN, "systemctl", "--user"],
    tops=[ann.HOME, "/etc"],
    living=[f"{ann.RUNTIME}/flame", f"{ann.RUNTIME}/flame-executor"],
)


@pytest.fixture(scope="module")
def machine(make_bed):
    """A node without Flame."""
    (machine,) = make_bed("kills")
    return machine


@pytest.fixture(scope="module")
def shared(machine):
    """The same with a user who may install for herself."""
    ann.Ann(machine)
    return machine


def kill(machine, which, command, reset, last, program=FLMADM):
    """Runs the loop; gives the report, which must not have anything wrong in it."""
    plan = {
        **which,
        "program": program,
        "repairer": FLMADM,
        "command": command,
        "reset": reset,
        "last": last,
    }
    done = machine.run(["python3", "-", json.dumps(plan)], stdin=SCRIPT, timeout=SECONDS)
    report = json.loads(done.stdout)
    assert report["wrong"] == [], json.dumps(report, indent=2)
    assert report["tried"] >= (report["checkpoints"] // which["every"] if which["every"] else 2), report
    print(report)
    return report


def test_install(machine):
    """A killed first installation leaves nothing, or all."""
    report = kill(machine, USUAL, INSTALL, [UNINSTALL], [UNINSTALL])
    assert report["checkpoints"] > 60 and report["undone"] > 0


def test_upgrade(machine):
    """A killed upgrade is taken back by systemd, or was complete."""
    machine.run([FLMADM, *INSTALL])
    folder = shelve(machine, "newer")
    command = ["upgrade", "--bin-dir", folder]
    report = kill(machine, USUAL, command, [UNINSTALL, INSTALL], [], program=f"{folder}/flmadm")
    assert report["undone"] > 0


def test_rollback(machine):
    """A killed rollback, too."""
    machine.run([FLMADM, *UNINSTALL])
    machine.run([FLMADM, *INSTALL])
    folder = shelve(machine, "newer")
    forth = ["upgrade", "--bin-dir", folder]
    report = kill(machine, USUAL, ["rollback"], [UNINSTALL, INSTALL, forth], [])
    assert report["undone"] > 0


def test_uninstall(machine):
    """A killed removal is undone, and the services run again, or it is finished."""
    report = kill(machine, USUAL, UNINSTALL, [UNINSTALL, INSTALL], [UNINSTALL])
    assert report["undone"] > 0


@pytest.mark.parametrize(
    ("which", "remove"), [(INSTANCE, UNINSTALL), (HERS, HER_UNINSTALL)], ids=["instance", "user"]
)
def test_other_kinds(shared, which, remove):
    """So it is with an instance, and with an installation of a user."""
    folder = shelve(shared, "newer")
    upgrade = ["upgrade", "--bin-dir", folder]
    commands = [
        (INSTALL, [remove], FLMADM),
        (upgrade, [remove, INSTALL], f"{folder}/flmadm"),
        (remove, [remove, INSTALL], FLMADM),
    ]
    if EVERY == 1:
        commands.insert(2, (["rollback"], [remove, INSTALL, upgrade], FLMADM))
    for command, reset, program in commands:
        report = kill(shared, {**which, "every": OF_KIND}, command, reset, [remove], program=program)
        assert report["undone"] > 0
    shared.run(["rm", "-r", folder])
