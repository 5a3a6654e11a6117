"""Installation on a machine with systemd: how long each command of flmadm takes."""

import json
import statistics
import time

from .node import AGENT, FLMADM, MANAGER, SHELF, booted, shelve
from .report import Goal, Row

ROUNDS, QUICK_ROUNDS = 7, 3
INSTALL = ["install", "--all", "--enable"]
UNINSTALL = ["uninstall", "--no-backup", "--remove-user", "--force"]
ACTIVE = Goal("<=", 2_000)
UNCHANGED = Goal("<=", 200)
# Name of another release.
NEWER = "newer"
TARGET = "flame.target"


def install(bench):
    """Installs prebuilt programs, changes nothing, upgrades, rolls back and uninstalls, again and again."""
    rounds = QUICK_ROUNDS if bench.quick else ROUNDS
    times = {}
    with booted(bench, "install") as machine:
        shelve(machine, NEWER)
        for number in range(rounds):
            bench.progress(f"install: round {number + 1} of {rounds}")
            for case, took in one_round(machine):
                times.setdefault(case, []).append(took)
    goals = {"install, all units active": ACTIVE, "install again, nothing to change": UNCHANGED}
    return [
        Row("install", case, "p50", statistics.median(took), "ms", goals.get(case), {"times_ms": took})
        for case, took in times.items()
    ]


def one_round(machine):
    """Names and milliseconds of all that is measured; the programs start within the node."""
    began = machine_time(machine)
    took = timed(machine, [FLMADM, *INSTALL, *prebuilt(FLMADM)])
    yield "install, all units active", activated(machine) - began
    yield "install, proved to work", took
    before = invocations(machine)
    again = [FLMADM, *INSTALL, *prebuilt(FLMADM)]
    yield "install again, nothing to change", timed(machine, again)
    assert invocations(machine) == before, "a run without a change restarted something"
    newer = f"{SHELF}/{NEWER}/flmadm"
    yield "upgrade, a task went through", timed(machine, [newer, "upgrade", *prebuilt(newer)])
    yield "rollback, a task went through", timed(machine, [FLMADM, "rollback"])
    yield "uninstall", timed(machine, [FLMADM, *UNINSTALL])


def timed(machine, words):
    """Milliseconds that a command takes on the machine, without the way into it."""
    script = (
        "import json, subprocess, sys, time; began = time.monotonic(); "
        "code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode; "
        "print(json.dumps([time.monotonic() - began, code]))"
    )
    took, code = json.loads(machine.run(["python3", "-c", script, *words], timeout=120).stdout)
    assert code == 0, words
    # What the kernel and systemd still write is not the next command's.
    machine.run(["sync"])
    time.sleep(0.5)
    return took * 1_000


def machine_time(machine):
    """Milliseconds of the machine's monotonic clock, which systemd's times are of."""
    return float(machine.node.read("/proc/uptime").split()[0]) * 1_000


def activated(machine):
    """When the last unit became active."""
    name = "ActiveEnterTimestampMonotonic"
    return max(int(machine.show(unit, name)[name]) for unit in (MANAGER, AGENT, TARGET)) / 1_000


def prebuilt(flmadm):
    """The programs beside this one."""
    return ["--skip-build", "--bin-dir", flmadm.rsplit("/", 1)[0]]


def invocations(machine):
    """Ids of the runs of both services."""
    return [machine.show(unit, "InvocationID")["InvocationID"] for unit in (MANAGER, AGENT)]
