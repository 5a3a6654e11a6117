"""D-Bus, polkit or systemd go away for a moment while executors start, run and end: nothing hangs."""

import contextlib
import json

import pytest
from executor_units import executors, left_behind
from machine import AGENT
from pings import create_tasks, session, states, wait_done
from testbed import wait_until

pytestmark = pytest.mark.nodes

BUS = "dbus.service"
BUS_UNITS = ("dbus.socket", BUS)
NODE = "bus"
SECONDS = 30
DONE_SECONDS = 90
BREAKS = 6
SESSIONS = 12
# Long enough for work to be going on while the bus is away.
TASK_MS = 300
# What the agent says of an executor that it cannot end, and of a start that it cannot ask for.
GIVEN_UP = "does not end even after SIGKILL"
# Where a unit stands by, an executor may start without D-Bus.
SETTINGS = "FLAME_NODE_RESOURCES=cpu=6,mem=6g FLAME_NODE_STANDBY=0"
UNREACHABLE = "D-Bus or systemd could not be reached for 20 s"


@pytest.fixture(scope="module")
def machine(make_bed):
    """One node with everything installed, that has room for several executors."""
    (machine,) = make_bed(NODE)
    machine.install("--all", "--enable")
    machine.drop_in(AGENT, f"[Service]\nEnvironment={SETTINGS}\n")
    # D-Bus, and polkit with it, is started more often than systemd would bear.
    machine.node.write("/etc/systemd/system.conf.d/test.conf", "[Manager]\nDefaultStartLimitIntervalSec=0\n")
    machine.run(["systemctl", "daemon-reexec"])
    machine.run(["systemctl", "restart", AGENT])
    machine.wait_ready(NODE)
    return machine


@pytest.fixture(autouse=True)
def agent_goes_on(machine):
    """Each test ends with the agent that it began with, and without executors."""
    before = machine.show(AGENT, "MainPID", "NRestarts")
    yield
    wait_until(lambda: executors(machine) == [], DONE_SECONDS, "no executor is left")
    assert left_behind(machine) == []
    # Refusals by a polkit that is just coming back would be such, too.
    assert "permission denied" not in machine.node.journal("-u", AGENT)
    assert machine.show(AGENT, "MainPID", "NRestarts") == before


@contextlib.contextmanager
def without_bus(machine):
    """The block runs without D-Bus. (systemctl of root needs none.)"""
    connected = machine.node.journal("-u", AGENT).count("connected to D-Bus again")
    machine.run(["systemctl", "stop", *BUS_UNITS])
    try:
        yield
    finally:
        machine.run(["systemctl", "start", *BUS_UNITS])
    wait_until(
        lambda: machine.node.journal("-u", AGENT).count("connected to D-Bus again") > connected,
        SECONDS,
        "the agent is on D-Bus again",
    )


def bound_executor(machine, of):
    """Has the session a bound executor; its unit."""
    create_tasks(machine, of, 1, None)
    wait_done(machine, of, 1, DONE_SECONDS)
    (unit,) = running(machine)
    return unit


def running(machine):
    """Units of executors with a main process."""
    return [unit for unit in executors(machine) if machine.node.main_pid(unit)]


def restart_bus(machine):
    """As an administrator does it."""
    machine.run(["systemctl", "restart", BUS])


def kill_bus(machine):
    """As a crash: its socket starts it again."""
    machine.node.kill(BUS)


def execute_systemd_again(machine):
    """As an upgrade of systemd does it: it leaves the bus and comes back."""
    machine.run(["systemctl", "daemon-reexec"])


def kill_polkit(machine):
    """A crash of who answers systemd's questions; the next question starts it again."""
    machine.run(["systemctl", "kill", "--signal=KILL", "polkit.service"], check=False)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("broken", [restart_bus, kill_bus, kill_polkit, execute_systemd_again])
def test_the_bus_breaks_under_load_and_every_task_ends(machine, broken):
    """Executors start, run and end all the time, because each session has few tasks."""
    script = (
        f"for i in $(seq {SESSIONS}); do"
        f" /opt/flame-bin/flmping -t 6 -d {TASK_MS} --sessions 2 --output json || exit 1; done"
    )
    client = machine.node.background(
        ["sh", "-c", script], timeout=240, env={"FLAME_ENDPOINT": machine.endpoint}
    )
    starts = "journalctl -o cat --no-pager -u 'flame-executor@*' | grep -c '^Started'"
    breaks = 0
    while breaks < BREAKS and not client.done():
        seen = machine.run(["sh", "-c", starts], check=False).stdout
        wait_until(
            lambda seen=seen: client.done() or machine.run(["sh", "-c", starts], check=False).stdout != seen,
            SECONDS,
            "executors start",
        )
        broken(machine)
        breaks += 1
    assert breaks == BREAKS, "there was not enough load"
    reports = client.result().check().stdout
    assert reports.count('"failed":0') + reports.count('"failed": 0') == SESSIONS, reports


def test_what_happened_while_the_bus_was_away_is_known_afterwards(machine):
    dying = session(machine)
    unit = bound_executor(machine, dying)
    with without_bus(machine):
        machine.node.kill(unit)
        wait_until(lambda: unit not in executors(machine), SECONDS, f"{unit} ends")
        # Nobody has to be alive to be asked for it.
        create_tasks(machine, dying, 1, None)
        starting = session(machine)
        create_tasks(machine, starting, 1, None)
    wait_done(machine, dying, 2, DONE_SECONDS)
    wait_done(machine, starting, 1, DONE_SECONDS)
    for done in (dying, starting):
        machine.tool("flmctl", "close", "-s", done)


def test_an_end_that_could_not_be_asked_for_is_asked_for_again(machine):
    closing = session(machine)
    unit = bound_executor(machine, closing)
    given_up = machine.node.journal("-u", AGENT).count(GIVEN_UP)
    with without_bus(machine):
        machine.tool("flmctl", "close", "-s", closing)
        # The agent does not wait for ever, but its unit goes on ...
        wait_until(
            lambda: machine.node.journal("-u", AGENT).count(GIVEN_UP) > given_up,
            SECONDS,
            "the agent gives up",
        )
        assert machine.node.main_pid(unit) > 0
        # ... and has its slot, so that nobody else is ended in its place.
        other = session(machine)
        create_tasks(machine, other, 1, None)
    wait_done(machine, other, 1, DONE_SECONDS)
    wait_until(lambda: unit not in executors(machine), SECONDS, f"{unit} ends")
    assert [name for name in running(machine) if name != unit], "the other executor was ended, too"
    machine.tool("flmctl", "close", "-s", other)


def test_a_start_that_cannot_be_asked_for_fails_and_is_made_up_for(machine):
    waiting = session(machine)
    with without_bus(machine):
        create_tasks(machine, waiting, 1, None)
        wait_until(lambda: UNREACHABLE in events(machine, waiting), SECONDS, "the failure is told")
        assert states(machine, waiting) == ["Pending"]
    wait_done(machine, waiting, 1, DONE_SECONDS)
    machine.tool("flmctl", "close", "-s", waiting)


def events(machine, of):
    """The text of a session's events."""
    return json.dumps(machine.flmctl("view", "session", of))
