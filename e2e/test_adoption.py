"""Executors outlive the agent: what goes on, what is done again, and what ends without it."""

import contextlib
import json
from pathlib import Path

import pytest
from executor_units import executors, left_behind
from machine import AGENT, PREFIX, SITE, whole
from metrics import parse, total
from testbed import wait_until

pytestmark = pytest.mark.nodes

SERVICES = Path(__file__).resolve().parent / "services"
METRICS = "http://127.0.0.1:9080/metrics"
FETCH = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1]).read().decode())"
DONE_SECONDS = 60
SECONDS = 30


@pytest.fixture(scope="module")
def machine(make_bed):
    """One node with everything installed."""
    machine = whole(make_bed, "adoption")
    machine.node.copy_in(SERVICES, "/opt/services")
    return machine


@pytest.fixture(autouse=True)
def nothing_left(machine):
    """Each test ends with nothing but the limits of slots."""
    yield
    wait_until(lambda: executors(machine) == [], DONE_SECONDS, "no executor is left")
    assert left_behind(machine) == []


def kill(machine):
    """The agent crashes."""
    machine.node.kill(AGENT)


def restart(machine):
    """The agent is started again by an administrator, or by an upgrade."""
    machine.run(["systemctl", "restart", AGENT])


def wait_back(machine, before):
    """Waits until another process is the agent and the session manager knows it."""

    def is_back():
        known = machine.show(AGENT, "MainPID", "StatusText")
        return known["MainPID"] not in ("0", before) and "registered" in known["StatusText"]

    wait_until(is_back, SECONDS, "the agent is back")


def runs(machine):
    """Process and run of each executor's unit."""
    return {unit: machine.show(unit, "MainPID", "InvocationID", "ActiveState") for unit in executors(machine)}


def counters(machine):
    """The session manager's metrics."""
    return parse(machine.run(["python3", "-c", FETCH, METRICS]).stdout)


def requeued(machine, reason):
    """Tasks that had to wait again for this reason."""
    return total(counters(machine), f'flame_tasks_requeued_total{{reason="{reason}"}}')


def succeeded(machine):
    """Tasks of all sessions that have ended well."""
    return sum(session["tasks"]["succeed"] for session in machine.flmctl("list", "sessions"))


def counting(machine, tasks, **common):
    """A client of the counting service, beside the test."""
    client = ["python3", "/opt/services/counting_client.py", "/opt/services", SITE, tasks, json.dumps(common)]
    return machine.node.background(client, env={"PYTHONPATH": SITE, "FLAME_ENDPOINT": machine.endpoint})


def break_under_load(machine, broken, done):
    """Breaks the agent when `done` more tasks have ended; returns the runs of executors, which go on."""
    before = succeeded(machine)
    wait_until(lambda: succeeded(machine) >= before + done, DONE_SECONDS, "work going on")
    agent, found = machine.show(AGENT, "MainPID")["MainPID"], runs(machine)
    assert found and all(run["ActiveState"] == "active" for run in found.values()), found
    broken(machine)
    wait_back(machine, agent)
    assert runs(machine) == found
    return found


@contextlib.contextmanager
def drop_in(machine, text):
    """The agent's unit with this besides, from its next start on."""
    folder = machine.drop_in(AGENT, text)
    try:
        yield
    finally:
        machine.run(["rm", "-r", folder])
        machine.run(["systemctl", "daemon-reload"])


@pytest.mark.parametrize("broken", [kill, restart])
def test_a_service_with_calls_goes_on(machine, broken):
    tasks = 60
    lost = {reason: requeued(machine, reason) for reason in ("agent_restarted", "service_died", "released")}
    client = counting(machine, tasks, task_ms=200)
    found = break_under_load(machine, broken, 5)
    answers = json.loads(client.result().check().stdout)
    assert [answer["input"] for answer in answers] == [str(number) for number in range(tasks)]
    # No process was started beside those, and none has entered its session again.
    assert {answer["enters"] for answer in answers} == {1}
    processes = {answer["unit"]: answer["pid"] for answer in answers}
    assert len({answer["pid"] for answer in answers}) == len(processes) == len(found)
    calls = sum(
        max(answer["calls"] for answer in answers if answer["pid"] == pid) for pid in processes.values()
    )
    if broken is kill:
        # Only what was in a call is done again.
        assert tasks < calls <= tasks + len(found)
    else:
        # The agent waits for what takes so little.
        assert calls == tasks
    assert {reason: requeued(machine, reason) for reason in lost} == lost


@pytest.mark.parametrize("broken", [kill, restart])
def test_a_service_with_streams_goes_on(machine, broken):
    tasks = 200
    flmping = ["-t", str(tasks), "-d", "50", "--output", "json"]
    client = machine.node.background(
        ["/opt/flame-bin/flmping", *flmping], env={"FLAME_ENDPOINT": machine.endpoint}
    )
    break_under_load(machine, broken, 20)
    report = json.loads(client.result().check().stdout)
    assert (report["succeeded"], report["failed"]) == (tasks, 0)


def test_restarts_under_full_load_lose_nothing(machine):
    # So many that there is work until after the last one.
    tasks = 400_000
    flmping = ["/opt/flame-bin/flmping", "-p", "-t", str(tasks), "--output", "json"]
    client = machine.node.background(flmping, env={"FLAME_ENDPOINT": machine.endpoint})
    for broken in (kill, restart, kill):
        break_under_load(machine, broken, 5000)
    report = json.loads(client.result().check().stdout)
    assert (report["succeeded"], report["failed"]) == (tasks, 0)


def test_an_executor_that_was_not_bound_begins_anew(machine):
    client = counting(machine, 1, task_ms=1, enter_ms=6000)
    entered = "journalctl -o cat --no-pager -u 'flame-executor@*' | grep -c '^entered'"
    before = machine.run(["sh", "-c", entered], check=False).stdout
    wait_until(lambda: machine.run(["sh", "-c", entered], check=False).stdout != before, SECONDS, "it enters")
    (unit,) = executors(machine)
    first, agent = machine.show(unit, "InvocationID"), machine.show(AGENT, "MainPID")["MainPID"]
    kill(machine)
    wait_back(machine, agent)
    (answer,) = json.loads(client.result().check().stdout)
    assert (answer["enters"], answer["calls"]) == (1, 1)
    journal = machine.node.journal("-u", AGENT)
    assert f"{unit} runs, but its session had not begun; it is stopped" in journal
    assert first["InvocationID"] not in {run["InvocationID"] for run in runs(machine).values()}


def idle_executor(machine):
    """A session of which an executor is idle; returns its id."""
    session = machine.tool("flmctl", "create", "session", "-a", "flmping").stdout.split()[0]
    text = json.dumps({"duration": None, "memory": None})
    machine.tool("flmctl", "create", "task", "-s", session, "--text", text)
    bound = 'grep -E \'"invocation":"[0-9a-f]+"\' /run/flame/records/*.json'
    machine.node.wait_until(["sh", "-c", bound], SECONDS, "an executor is bound")
    return session


def test_an_idle_executor_goes_on_and_what_nobody_wants_ends(machine):
    session = idle_executor(machine)
    found = runs(machine)
    agent = machine.show(AGENT, "MainPID")["MainPID"]
    kill(machine)
    wait_back(machine, agent)
    assert runs(machine) == found
    with drop_in(machine, "[Service]\nRestartSec=4s\n"):
        agent = machine.show(AGENT, "MainPID")["MainPID"]
        kill(machine)
        machine.tool("flmctl", "close", "-s", session)
        assert machine.show(AGENT, "MainPID")["MainPID"] == "0", "the agent was back too early"
        assert runs(machine) == found
        wait_back(machine, agent)
        wait_until(lambda: executors(machine) == [], SECONDS, "the executor ends")


def test_an_orderly_stop_leaves_nothing(machine):
    session = idle_executor(machine)
    machine.run(["systemctl", "stop", AGENT])
    assert (executors(machine), left_behind(machine)) == ([], [])
    machine.tool("flmctl", "close", "-s", session)
    machine.run(["systemctl", "start", AGENT])
    machine.wait_ready("adoption")


def test_a_forced_stop_leaves_nothing_either(machine):
    session = idle_executor(machine)
    text = json.dumps({"duration": 6000, "memory": None})
    machine.tool("flmctl", "create", "task", "-s", session, "--text", text)
    done = succeeded(machine)
    machine.run(["systemctl", "stop", "--no-block", AGENT])
    stopping = f"systemctl show {AGENT} --property=StatusText | grep stopping"
    machine.node.wait_until(["sh", "-c", stopping], SECONDS, "the agent drains")
    machine.run(["systemctl", "kill", "--signal=TERM", "--kill-who=main", AGENT])
    wait_until(lambda: not machine.node.main_pid(AGENT), SECONDS, "the agent ends")
    assert succeeded(machine) == done, "the agent drained in spite of the second signal"
    wait_until(lambda: executors(machine) == [], SECONDS, "units are killed")
    assert left_behind(machine) == []
    machine.run(["systemctl", "start", AGENT])
    machine.wait_ready("adoption")
    wait_until(lambda: succeeded(machine) > done, DONE_SECONDS, "the task is done again")
    machine.tool("flmctl", "close", "-s", session)


def test_an_agent_that_uses_no_units_leaves_none(machine):
    session = idle_executor(machine)
    with drop_in(machine, machine.node.read(f"{PREFIX}/share/process-runtime.conf")):
        restart(machine)
        machine.wait_ready("adoption")
        wait_until(lambda: executors(machine) == [], SECONDS, "the executor in a unit ends")
        assert left_behind(machine) == []
        machine.tool("flmctl", "close", "-s", session)
    restart(machine)
    machine.wait_ready("adoption")
