"""Session manager, agents and services are killed in random order under load: every acknowledged task ends
exactly once, with the right output, and nothing hangs.

`make test` does so for a few seconds, `make soak` for a minute (FLAME_SOAK_SECONDS). FLAME_CHAOS_SEED
repeats an order of kills; who is at work when they come is up to the machine.
"""

import base64
import contextlib
import json
import os
import random
import time

import pytest
from chaos import Chaos
from load import REST_SECONDS, assert_all_was_well, load
from testbed import wait_until

SECONDS = float(os.environ.get("FLAME_SOAK_SECONDS", 20))
INTERVAL = 0.2
pytestmark = pytest.mark.timeout(SECONDS + 3 * REST_SECONDS)

NODES = {f"node{i + 1}": "cpu=2,mem=4g" for i in range(3)}
# Services are killed for nothing that they did: no number of deaths may fail a task, or pause a session.
PATIENT = "recovery: {task: {max_retries: 1000000}, session: {retry_limits: 1000000}}"
# Empty tasks in many small calls, a few large calls, and tasks that are at work when their service dies.
SESSION_SECONDS = ("--session-time", 4)
LOADS = (
    ("--sessions", 3, "--batch", 10, "--rate", 400, *SESSION_SECONDS),
    ("--sessions", 1, "--batch", 500, "--rate", 2000, "--size", 1024, "--application", "large"),
    ("--sessions", 2, "--batch", 5, "--rate", 50, "--work", 50, "--application", "slow", *SESSION_SECONDS),
)
# A node that was lost three times within a minute is held for 15 s.
QUIET_SECONDS = 60
# cluster.recovery.task.max_retries, unless it is configured.
TRIES = 3


@pytest.fixture
def seed():
    """Chooses the order of kills."""
    return int(os.environ.get("FLAME_CHAOS_SEED", random.randrange(1 << 32)))


def books(cluster):
    """What the session manager says about its sessions."""
    found = cluster.flmctl("list", "sessions")
    numbers = {state: sum(each["tasks"][state] for each in found) for state in found[0]["tasks"]}
    return {"sessions": len(found), "states": {each["state"] for each in found}, **numbers}


def check_records(cluster, session):
    """All tasks of a session are stored, each once, with its own input and the output made of it."""
    tasks = cluster.flmctl("list", "tasks", "-s", session)
    assert sorted(int(task["id"]) for task in tasks) == list(range(1, len(tasks) + 1))
    for task in tasks:
        given, made = (base64.b64decode(task[what]) for what in ("input", "output"))
        assert given.startswith(f"{session}/{task['id']} ".encode()), task
        # As flame-soak-service has it.
        assert task["state"] == "Succeed" and made == bytes(byte ^ 0x5A for byte in reversed(given)), task


def alarms(cluster):
    """Lines of the daemons' logs that ask for a human, and what a panic leaves."""
    lines = [
        line for path in (cluster.prefix / "logs").glob("*.log") for line in path.read_text().splitlines()
    ]
    return [line for line in lines if " ERROR " in line or "panicked" in line]


def test_every_acknowledged_task_ends_once_with_its_output(make_fleet, seed, capsys):
    fleet = make_fleet(NODES, PATIENT).up()
    cluster = fleet.cluster
    chaos = Chaos(fleet, seed)
    with contextlib.ExitStack() as running:
        reports = [running.enter_context(load(cluster, SECONDS, *words)) for words in LOADS]
        wait_until(
            lambda: len(cluster.flmctl("list", "applications")) >= len(LOADS), 10, "the clients at work"
        )
        with chaos.every(INTERVAL):
            time.sleep(SECONDS)
        killed, began = chaos.summary(), time.monotonic()
        ended = chaos.totals['flame_tasks_ended_total{state="succeeded"']
    rest = time.monotonic() - began
    tasks, sessions = (sum(report[what] for report in reports) for what in ("tasks", "sessions"))
    with capsys.disabled():
        print(
            f"\nseed {seed}: {killed}; {ended} results accepted; {sessions} sessions, {tasks} tasks; "
            f"all ended {rest:.1f} s after the last kill"
        )
    for report in reports:
        assert_all_was_well(report)
    assert sum(chaos.kills.values()) > SECONDS / INTERVAL / 2, "the kills came in time"
    assert ended > 0, "there was work between the kills"

    # The manager says the same as its clients saw, and so does its store.
    wait_until(lambda: fleet.all_ready(), QUIET_SECONDS, "all nodes are back")
    right = {"sessions": sessions, "states": {"Closed"}, "succeed": tasks}
    right |= dict.fromkeys(("pending", "running", "failed", "cancelled"), 0)
    assert books(cluster) == right
    fleet.manager.kill()
    fleet.manager.start()
    wait_until(lambda: fleet.all_ready(), QUIET_SECONDS, "all nodes are back again")
    assert books(cluster) == right
    # The clients have looked at every record already; here is what a new manager reads of some.
    found = [each["id"] for each in cluster.flmctl("list", "sessions")]
    for session in random.Random(seed).sample(found, 4):
        check_records(cluster, session)

    # Nothing is left: no service of a session that ended, and no process of daemons that stop.
    wait_until(lambda: not fleet.strangers(), QUIET_SECONDS, "all services ended")
    assert set(fleet.stop().values()) == {0}
    assert cluster.processes() == []
    assert alarms(cluster) == [], "nothing here needs a human"


def poison(cluster, session, folder):
    """Creates a task that kills its service. Each try leaves a line."""
    # The shell's parent is the service.
    code = f"echo $$ >>{folder}/{session}; sleep 0.5; kill -KILL $PPID; sleep 60"
    task = json.dumps({"language": "shell", "code": code})
    cluster.tool("flmctl", "create", "task", "-s", session, "--text", task)


def tries_of(session, folder):
    """How often a poisoned task of the session was run."""
    return len((folder / session).read_text().splitlines())


def test_a_task_that_kills_its_service_fails_although_daemons_die(make_fleet, seed, tmp_path, capsys):
    seconds = min(SECONDS, 5)
    fleet = make_fleet(NODES).up()
    cluster = fleet.cluster
    sessions = [
        cluster.tool("flmctl", "create", "session", "-a", "flmexec").stdout.split()[0] for _ in "abcd"
    ]
    chaos = Chaos(fleet, seed, services=False)
    for session in sessions:
        poison(cluster, session, tmp_path)
    with load(cluster, seconds, *LOADS[0]) as report, chaos.every(2 * INTERVAL):
        time.sleep(seconds)
    assert_all_was_well(report)

    def failed(sessions):
        return all(cluster.flmctl("list", "tasks", "-s", each)[0]["state"] == "Failed" for each in sessions)

    wait_until(lambda: failed(sessions), QUIET_SECONDS, "the poisoned tasks failed")
    tries = []
    for session in sessions:
        (task,) = [cluster.flmctl("view", "task", "1", "-s", session)]
        assert f"died {TRIES} times" in task["events"][-1]["message"], task["events"]
        tries.append(tries_of(session, tmp_path))
    with capsys.disabled():
        print(f"\nseed {seed}: {chaos.summary()}; tries of the poisoned tasks: {tries}")
    # Deaths are counted by a manager for as long as it lives; a try that an agent's death cut short is none.
    managers, agents = 1 + fleet.manager.kills, sum(agent.kills for agent in fleet.agents)
    assert all(TRIES <= each <= TRIES * managers + agents for each in tries)
    assert min(fleet.manager.kills, agents) > 0

    # Without kills it is exactly the default.
    session = cluster.tool("flmctl", "create", "session", "-a", "flmexec").stdout.split()[0]
    poison(cluster, session, tmp_path)
    wait_until(lambda: failed([session]), QUIET_SECONDS, "one more poisoned task failed")
    assert tries_of(session, tmp_path) == TRIES
