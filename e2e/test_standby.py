"""A unit stands by: an executor takes it, and whatever happens to it, executors start."""

import json

import pytest
from executor_units import executors, left_behind, standbys
from machine import AGENT, BIN, whole
from testbed import wait_until

pytestmark = pytest.mark.nodes

SECONDS = 30
RUN = ("InvocationID", "MainPID")


@pytest.fixture(scope="module")
def machine(make_bed):
    """One node with everything installed."""
    machine = whole(make_bed, "standby")
    strict = ["--command", f"{BIN}/flmping-service", "--label", "sandbox=strict"]
    machine.tool("flmctl", "register", "application", "strict", *strict)
    return machine


@pytest.fixture
def standby(machine):
    """The unit that stands by."""
    wait_until(lambda: len(standbys(machine)) == 1, SECONDS, "one unit stands by")
    (unit,) = standbys(machine)
    return unit


@pytest.fixture(autouse=True)
def nothing_left(machine):
    """Each test ends without executors."""
    yield
    wait_until(lambda: executors(machine) == [], SECONDS, "no executor is left")
    assert left_behind(machine) == []


def session(machine, application="flmping", request="cpu=1,mem=64m"):
    """A new session whose one task has ended well, so that its executor waits for more."""
    words = ["-a", application, "--resreq", request, "--max-instances", "1"]
    made = machine.tool("flmctl", "create", "session", *words).stdout.split()[0]
    text = json.dumps({"duration": None, "memory": None})
    machine.tool("flmctl", "create", "task", "-s", made, "--text", text, "--wait")
    return made


def test_an_executor_takes_the_unit_that_stands_by_and_another_one_is_made(machine, standby):
    before = machine.show(standby, *RUN)
    assert machine.run(["cat", f"/proc/{before['MainPID']}/comm"]).stdout == "flame-executor\n"
    made = session(machine, request="cpu=1,mem=48m")
    assert executors(machine) == [standby]
    assert machine.show(standby, *RUN) == before
    assert machine.run(["cat", f"/proc/{before['MainPID']}/comm"]).stdout == "flmping-service\n"
    limits = machine.show(standby, "MemoryMax", "CPUQuotaPerSecUSec", "StatusText")
    assert limits == {"MemoryMax": str(48 << 20), "CPUQuotaPerSecUSec": "1s", "StatusText": ""}
    wait_until(lambda: len(standbys(machine)) == 1, SECONDS, "another unit stands by")
    machine.tool("flmctl", "close", "-s", made)


def test_an_executor_starts_although_the_unit_is_gone(machine, standby):
    machine.run(["systemctl", "kill", "--signal=KILL", standby])
    wait_until(lambda: standby not in standbys(machine), SECONDS, "the unit is gone")
    machine.tool("flmctl", "close", "-s", session(machine))


def test_an_executor_starts_although_the_launcher_does_not_answer(machine, standby):
    slot = standby.split("@")[1].removesuffix(".service")
    machine.run(["rm", f"/run/flame-executor/{slot}/spec.sock"])
    made = session(machine)
    assert "cannot be used" in machine.node.journal("-u", AGENT)
    machine.tool("flmctl", "close", "-s", made)


def test_a_stricter_sandbox_is_not_the_one_that_stands_by(machine, standby):
    before = machine.show(standby, *RUN)
    made = session(machine, "strict")
    (unit,) = executors(machine)
    assert unit.startswith("flame-executor-strict@")
    assert machine.show(standby, *RUN) == before
    assert standbys(machine) == [standby]
    machine.tool("flmctl", "close", "-s", made)


def test_nobody_else_says_what_it_runs(machine, standby):
    slot = standby.split("@")[1].removesuffix(".service")
    path = f"/run/flame-executor/{slot}/spec.sock"
    connect = f"import socket; socket.socket(socket.AF_UNIX).connect({path!r})"
    said = machine.run(["setpriv", "--reuid=nobody", "--clear-groups", "python3", "-c", connect], check=False)
    assert "PermissionError" in said.stderr, said
    # Root reaches the socket, and is not heard.
    ask = (
        f"import socket; s = socket.socket(socket.AF_UNIX); s.connect({path!r});"
        " s.settimeout(20); print(s.recv(9))"
    )
    assert machine.run(["python3", "-c", ask]).stdout == "b''\n"
    assert standbys(machine) == [standby]


def test_an_agent_that_ends_leaves_none(machine, standby):
    machine.run(["systemctl", "stop", AGENT])
    assert standbys(machine) == executors(machine) == []
    machine.run(["systemctl", "start", AGENT])
    machine.wait_ready("standby")
    # One that crashes is followed by one that ends it and makes its own.
    wait_until(lambda: len(standbys(machine)) == 1, SECONDS, "a unit stands by")
    (unit,) = standbys(machine)
    before = machine.show(unit, *RUN)
    pid = machine.node.main_pid(AGENT)
    machine.node.kill(AGENT)
    wait_until(lambda: machine.node.main_pid(AGENT) not in (0, pid), SECONDS, "the agent is back")
    machine.wait_ready("standby")

    def another():
        now = standbys(machine)
        return len(now) == 1 and machine.show(now[0], *RUN) != before

    wait_until(another, SECONDS, "another unit stands by")
