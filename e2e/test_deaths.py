"""However a service ends or hangs: the right event tells how, at once, and nothing is left of it.

The same tests run with services as child processes of an agent and as units of systemd.
"""

import json
import re
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from executor_units import executors, left_behind
from machine import AGENT, PREFIX, SITE
from testbed import wait_until

SERVICES = Path(__file__).resolve().parent / "services"
BIND_FAILED = 1001
RETRIES_SPENT = 1002
# Times that a session tries to bind, and a task to run.
BINDS, TRIES = 5, 3
FIRST_RETRY_MS = 100
# For services; on a busy machine Python needs some of the first to import what it serves with.
TIMEOUTS = {"start": 15, "enter": 5}
SECONDS = 90
# From a death to the agent's word of it. Other work on the machine delays some: the best of several counts,
# and of some more sessions if all were late.
TOLD_MS = 100
MORE = 10
# How the service's end is told, by the way of it; "child" leaves a process behind that ignores SIGTERM.
EXITED = "the service process exited with status 3;"
ENDED = {
    "exit": EXITED,
    "child": EXITED,
    "signal": "the service process was killed by signal 9 (SIGKILL, perhaps out of memory);",
}
# How a death before the session is bound is told, and a hang, by the place.
FAILED = {"start": "11: before it listened on its socket", "enter": "12: in OnSessionEnter"}
HANGS = {
    "start": f"11: the service did not listen on FLAME_INSTANCE_ENDPOINT within {TIMEOUTS['start']} s",
    "enter": f"12: OnSessionEnter did not return within {TIMEOUTS['enter']} s",
}
# What the agent's log says of the two.
NOT_BOUND, DIED = "executor not bound: ", "executor died: "
# What is told of the end: twenty lines, the last of which is "dying at".
LAST_LINES = ";".join([" its last lines on standard error:", *(f"line {number}" for number in range(6, 25))])


class Processes:
    """Services as child processes."""

    source = SERVICES
    command = sys.executable
    variables = ()

    def __init__(self, fleet):
        self.fleet = fleet
        self.flmctl = fleet.cluster.flmctl

    def tool(self, *words):
        return self.fleet.cluster.tool("flmctl", *words).stdout.strip()

    def log(self):
        """Entries of the agent's log: microseconds and text."""
        text = (self.fleet.cluster.prefix / "logs/n1.log").read_text()
        found = re.split(r"(?m)^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z) +[A-Z]+ ", text)[1:]
        return [(microseconds(stamp), entry) for stamp, entry in zip(found[::2], found[1::2], strict=True)]

    def left(self):
        """Processes that are there beside the daemons, zombies included."""
        return [*self.fleet.strangers(), *self.fleet.services()]


class Units:
    """Services as units of systemd."""

    source = "/opt/services"
    command = "/usr/bin/python3"
    variables = ("--env", f"PYTHONPATH={SITE}")

    def __init__(self, machine):
        self.machine = machine
        self.flmctl = machine.flmctl

    def tool(self, *words):
        return self.machine.tool("flmctl", *words).stdout.strip()

    def log(self):
        """As that of processes. The time is when the journal had it, which is a little later."""
        lines = self.machine.run(["journalctl", "-u", AGENT, "-o", "json", "--no-pager"]).stdout.splitlines()
        entries = [json.loads(line) for line in lines]
        return [(int(entry["__REALTIME_TIMESTAMP"]), entry["MESSAGE"]) for entry in entries]

    def left(self):
        """Units, files, processes without their unit, and children of the agent, zombies included."""
        agent = self.machine.show(AGENT, "MainPID")["MainPID"]
        listed = [
            self.machine.run(["pgrep", "-f", "[s]leep 86399|[d]ying.py"], check=False),
            self.machine.run(["ps", "-o", "stat=,args=", "--ppid", agent], check=False),
        ]
        lines = [line for one in listed for line in one.stdout.splitlines()]
        return [*executors(self.machine), *left_behind(self.machine), *lines]


def microseconds(stamp):
    """Microseconds since 1970."""
    return (datetime.fromisoformat(stamp) - datetime.fromtimestamp(0, UTC)) // timedelta(microseconds=1)


@pytest.fixture(scope="module")
def processes(make_module_fleet):
    """A manager and an agent, whose limits are in its environment."""
    with pytest.MonkeyPatch.context() as patch:
        for name, seconds in TIMEOUTS.items():
            patch.setenv(f"FLAME_NODE_{name.upper()}_TIMEOUT", f"{seconds}s")
        yield Processes(make_module_fleet({"n1": "cpu=4,mem=4g"}).up())


@pytest.fixture(scope="module")
def units(make_bed):
    """An installation whose agent has its limits in its file."""
    (machine,) = make_bed("deaths")
    machine.install("--all", "--enable")
    lines = [f'{name}_timeout = "{seconds}s"\n' for name, seconds in TIMEOUTS.items()]
    machine.node.write(f"{PREFIX}/conf/node-agent.toml", "".join(["[runtime]\n", *lines]))
    machine.run(["systemctl", "restart", AGENT])
    machine.wait_ready("deaths")
    machine.node.copy_in(SERVICES, Units.source)
    return Units(machine)


@pytest.fixture(params=["processes", pytest.param("units", marks=pytest.mark.nodes)])
def place(request):
    """Where services run. Nothing of them is left after a test."""
    place = request.getfixturevalue(request.param)
    yield place
    for session in place.flmctl("list", "sessions"):
        if session["state"] == "Open":
            place.tool("close", "-s", session["id"], "--cancel-running")
    wait_until(lambda: place.left() == [], SECONDS, "nothing is left")


def begin(place, where, way):
    """A session of a service that ends there in that way, with a task; and the time of its beginning."""
    name = f"{where}-{way}"
    if name not in [application["name"] for application in place.flmctl("list", "applications")]:
        arguments = [f"--arg={place.source}/dying.py", f"--arg={where}", f"--arg={way}"]
        limits = ["--delay-release", "60", "--command", place.command]
        place.tool("register", "application", name, *limits, *arguments, *place.variables)
    began = time.time_ns() // 1000
    session = place.tool(
        "create", "session", "-a", name, "--max-instances", "1", "--resreq", "cpu=1,mem=256m"
    )
    place.tool("create", "task", "-s", session, "--text", "x")
    return session, began


def deaths(place, began, beginning):
    """What the agent's log has since then that begins so and tells of a death, and how late each is in ms."""
    told = [(at, entry) for at, entry in place.log() if at >= began and entry.startswith(beginning)]
    times = [re.search(r"dying at (\d+)", entry) for _, entry in told]
    assert all(times), told
    return [(entry, (at - int(died[1])) / 1000) for (at, entry), died in zip(told, times, strict=True)]


def assert_told_at_once(place, where, way, beginning, found):
    """The agent told of some death of those found, or of others like them, within the time."""
    late = [late for _, late in found]

    def one_more():
        session, began = begin(place, where, way)
        told = wait_until(lambda: deaths(place, began, beginning), SECONDS, "one more death is told")
        place.tool("close", "-s", session, "--cancel-running")
        return told

    for _ in range(MORE):
        if min(late) >= TOLD_MS:
            late += [late for _, late in one_more()]
    print("told after, in ms:", sorted(round(each, 1) for each in late))
    assert min(late) < TOLD_MS


def tells(text, *beginnings):
    """Whether the text has these words and the last twenty lines, and no more."""
    return all(words in text for words in beginnings) and LAST_LINES in text.replace("\n", ";")


def events(place, session, code):
    """The session's events with this code."""
    return [event for event in place.flmctl("view", "session", session)["events"] if event["code"] == code]


def given_up(place, session):
    """Events of the tries to bind a session, when the manager has given up."""
    wait_until(lambda: events(place, session, RETRIES_SPENT), SECONDS, "the session manager gives up")
    return events(place, session, BIND_FAILED)


@pytest.mark.parametrize("way", sorted(ENDED))
@pytest.mark.parametrize("where", sorted(FAILED))
def test_a_death_before_the_session_is_bound(place, where, way):
    session, began = begin(place, where, way)
    told = given_up(place, session)
    # Each try is one start: nobody starts a service anew beside them, or without a wait.
    assert len(told) == BINDS
    for event in told:
        assert tells(event["message"], f"code {FAILED[where]}, {ENDED[way]}"), event
    at = [microseconds(event["creation_time"]) // 1000 for event in told]
    waits = [later - earlier for earlier, later in zip(at, at[1:], strict=False)]
    assert all(wait >= FIRST_RETRY_MS << number for number, wait in enumerate(waits)), waits
    found = deaths(place, began, NOT_BOUND)
    assert len(found) == BINDS
    assert_told_at_once(place, where, way, NOT_BOUND, found)


@pytest.mark.parametrize("where", sorted(HANGS))
def test_a_hang_before_the_session_is_bound(place, where):
    session, _ = begin(place, where, "hang")
    wait_until(lambda: events(place, session, BIND_FAILED), SECONDS, "the failure is told")
    (event, *_) = events(place, session, BIND_FAILED)
    assert tells(event["message"], f"code {HANGS[where]};"), event


@pytest.mark.parametrize("way", sorted(ENDED))
def test_a_death_between_tasks(place, way):
    """The executor is bound and has nothing to do."""
    session, began = begin(place, "idle", way)

    def wait_told(number):
        wait_until(lambda: len(deaths(place, began, DIED)) == number, SECONDS, f"death {number} is told")

    for number in range(1, TRIES + 1):
        wait_told(number)
        # The next task gets a new one.
        if number < TRIES:
            place.tool("create", "task", "-s", session, "--text", "x")
    found = deaths(place, began, DIED)
    assert all(tells(entry, ENDED[way]) for entry, _ in found), found
    tasks = place.flmctl("list", "tasks", "-s", session)
    assert [task["state"] for task in tasks] == ["Succeed"] * TRIES
    assert events(place, session, BIND_FAILED) == []
    assert_told_at_once(place, "idle", way, DIED, found)


@pytest.mark.parametrize("way", sorted(ENDED))
def test_a_death_in_a_task(place, way):
    """The task is tried three times; its last event says how the service died the last time."""
    session, began = begin(place, "task", way)

    def task():
        return place.flmctl("view", "task", "1", "-s", session)

    wait_until(lambda: task()["state"] == "Failed", SECONDS, "the task has failed")
    event = task()["events"][-1]
    assert f"died {TRIES} times" in event["message"] and tells(event["message"], ENDED[way]), event
    found = deaths(place, began, DIED)
    assert len(found) == TRIES
    assert all(tells(entry, ENDED[way]) for entry, _ in found), found
    assert_told_at_once(place, "task", way, DIED, found)
