"""Upgrades on a real systemd machine: sessions go on, and what does not work is taken back by itself."""

import json
import time

import pytest
from machine import AGENT, BIN, FLMADM, MANAGER, PREFIX, difference
from pings import create_tasks, session, wait_done
from releases import CRASHES, CRASHES_LATER, HANGS, current, shelve, upgrade
from testbed import wait_until

pytestmark = pytest.mark.nodes

# The promise of the issue.
BACK_SECONDS = 30
GAP_SECONDS = 2
# Tasks that a debug build needs longer for than an upgrade takes.
MANY = 60_000
# An instance, and a checkpoint of its rollback: three at the beginning, and three for each step.
FEWER = f"{PREFIX}-fewer"
KILL_AT = 20


@pytest.fixture(scope="module")
def machine(make_bed):
    """A node on which everything runs."""
    (machine,) = make_bed("upgrades")
    machine.before = machine.files()
    machine.install("--all", "--enable")
    machine.wait_ready("upgrades")
    return machine


def invocations(machine):
    """Ids of the runs of both services."""
    return [machine.show(unit, "InvocationID")["InvocationID"] for unit in (MANAGER, AGENT)]


def test_an_upgrade_switches_and_a_rollback_switches_back(machine):
    """Programs, units and the release's name change together; a second time nothing does."""
    first = current(machine)
    folder = shelve(machine, "second")
    result = json.loads(upgrade(machine, folder, "-o", "json").stdout)
    assert (result["previous"], result["probe"]) == (first, "done"), result
    assert current(machine) == result["release"] != first
    pid = machine.show(MANAGER, "MainPID")["MainPID"]
    program = machine.run(["readlink", f"/proc/{pid}/exe"]).stdout.strip()
    assert program == f"{PREFIX}/releases/{result['release']}/bin/flame-session-manager"
    runs = invocations(machine)
    began = time.monotonic()
    again = json.loads(upgrade(machine, folder, "-o", "json").stdout)
    assert again["changed"] == [] and invocations(machine) == runs
    print(f"an upgrade without a change took {time.monotonic() - began:.3f} s")
    machine.run([FLMADM, "rollback"])
    assert current(machine) == first
    machine.wait_ready("upgrades")
    machine.flmping("-t", "100")


@pytest.mark.parametrize(
    "fault",
    [
        {"flame_session_manager": CRASHES},
        {"flame_session_manager": CRASHES_LATER},
        {"flame_session_manager": HANGS},
        {"flmping_service": CRASHES},
        {"flame_executor": CRASHES},
        {"flame_node_agent": CRASHES},
    ],
    ids=["crashes", "crashes-later", "hangs", "probe-fails", "executor-crashes", "agent-crashes"],
)
def test_what_does_not_work_is_taken_back(machine, fault):
    """Within half a minute the old release runs again, and a task goes through."""
    machine.wait_ready("upgrades")
    first = current(machine)
    folder = shelve(machine, "broken", **fault)
    began = time.monotonic()
    result = upgrade(machine, folder, check=False)
    took = time.monotonic() - began
    assert result.returncode == 5 and "undone" in result.stderr, (result.returncode, result.stderr)
    assert current(machine) == first
    machine.wait_ready("upgrades")
    assert time.monotonic() - began < BACK_SECONDS, (took, time.monotonic() - began)
    machine.flmping("-t", "10")
    print(f"back after {took:.1f} s")


@pytest.mark.parametrize("text", [CRASHES, HANGS], ids=["crashes", "hangs"])
def test_systemd_takes_it_back_if_flmadm_is_killed(machine, text):
    """flmadm dies while the broken release starts; nobody runs anything."""
    machine.wait_ready("upgrades")
    first = current(machine)
    folder = shelve(machine, "broken", flame_session_manager=text)
    began = time.monotonic()
    running = machine.node.background([f"{folder}/flmadm", "upgrade", "--bin-dir", folder])
    wait_until(lambda: current(machine) != first, BACK_SECONDS, "the switch to the new release")
    machine.run(["pkill", "-KILL", "-f", "[f]lmadm upgrade"])
    running.result()
    wait_until(lambda: current(machine) == first, BACK_SECONDS, "the way back")
    machine.wait_ready("upgrades")
    assert time.monotonic() - began < BACK_SECONDS
    machine.flmping("-t", "10")
    left = ["sh", "-c", "ls -d /usr/local/.flmadm-*"]
    wait_until(lambda: not machine.run(left, check=False).ok, BACK_SECONDS, "the end of the recovery")


def test_an_upgrade_under_load_loses_no_task(machine):
    """A session and its executors live through it; clients wait for at most two seconds."""
    machine.wait_ready("upgrades")
    slow = session(machine)
    create_tasks(machine, slow, 4, 3_000)
    folder = shelve(machine, "third")
    flood = machine.node.background(
        [f"{BIN}/flmping", "-p", "-t", str(MANY), "--output", "json"],
        env={"FLAME_ENDPOINT": machine.endpoint},
    )
    running = machine.node.background([f"{folder}/flmadm", "upgrade", "--bin-dir", folder])
    gaps, last = [], time.monotonic()
    while not running.done():
        if machine.tool("flmctl", "list", "sessions", "-o", "json", check=False).ok:
            now = time.monotonic()
            gaps.append(now - last)
            last = now
    assert running.result().ok, running.result()
    pings = flood.result()
    assert pings.ok and json.loads(pings.stdout)["failed"] == 0, pings
    wait_done(machine, slow, 4)
    print(f"longest time between two answers {max(gaps):.2f} s")
    assert max(gaps) < GAP_SECONDS, gaps


def test_units_that_a_release_does_not_have_are_ended(machine):
    """An instance got its worker later: a rollback ends the agent, and one that is killed starts it again."""
    instance = ["--instance", "fewer"]
    machine.install("--control-plane", "--enable", *instance)
    first = current(machine, FEWER)
    machine.install("--all", "--enable", *instance)
    agent = "flame-fewer-node-agent.service"
    assert machine.active(agent) and current(machine, FEWER) != first
    before = machine.show(agent, "UnitFileState", "InvocationID")
    count = "/run/flmadm-checkpoints"

    def checkpoints():
        return len(machine.run(["cat", count], check=False).stdout)

    def is_whole():
        return machine.active(agent) and current(machine, FEWER) != first

    # The agent is stopped and disabled by then, and its unit is being removed.
    environment = {"FLMADM_TEST_KILL_AT": str(KILL_AT), "FLMADM_TEST_COUNT_IN": count}
    assert not machine.run([FLMADM, "rollback", *instance], check=False, env=environment).ok
    assert checkpoints() == KILL_AT
    left = ["sh", "-c", "ls -d /usr/local/.flmadm-*"]
    wait_until(
        lambda: not machine.run(left, check=False).ok and is_whole(), BACK_SECONDS, "the end of the recovery"
    )
    after = machine.show(agent, "UnitFileState", "InvocationID")
    assert after["UnitFileState"] == before["UnitFileState"] == "enabled"
    assert after["InvocationID"] != before["InvocationID"], "it was not stopped"
    result = json.loads(machine.run([FLMADM, "rollback", *instance, "-o", "json"]).stdout)
    assert result["release"] == current(machine, FEWER) == first
    assert machine.show(agent, "LoadState", "ActiveState") == {
        "LoadState": "not-found",
        "ActiveState": "inactive",
    }
    assert machine.active("flame-fewer-session-manager.service")
    units = machine.run(["sh", "-c", "ls -R /etc/systemd/system | grep flame-fewer"]).stdout.split()
    assert not [unit for unit in units if "agent" in unit or "executor" in unit], units
    machine.run(["rm", count])
    machine.run([FLMADM, "uninstall", "--no-backup", "--remove-user", "--force", *instance])
    machine.wait_ready("upgrades")


def test_nothing_is_left_in_the_end(machine):
    """All releases go with the installation."""
    machine.run([FLMADM, "uninstall", "--no-backup", "--remove-user", "--force"])
    machine.run(["rm", "-rf", "/var/tmp/flame-releases"])
    assert difference(machine.before, machine.files()) == []
