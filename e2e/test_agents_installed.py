"""Agents as units of systemd: several on one host, ends that stay ends, and daemons that hang."""

import json
from pathlib import Path

import pytest
from machine import AGENT, BIN, MANAGER, PREFIX, whole
from testbed import wait_until

pytestmark = pytest.mark.nodes

HERE = Path(__file__).resolve().parent
SECOND = "flame-node-agent@second.service"
NODE = "life"
NODE_OF_SECOND = "life-second"
CONFIGURATION = "78"
END_SECONDS = 40
WORK_SECONDS = 90
TASKS = 20
TASK = '{"duration": 100, "memory": null}'
# Long enough for a loaded machine, and much shorter than the unit's own.
WATCHDOG_SECONDS = 4
WATCHDOG = f"[Service]\nWatchdogSec={WATCHDOG_SECONDS}s\n"
# The thread whose work each daemon's watchdog is about.
LOOPS = {MANAGER: "store", AGENT: "flame-node-agen"}
SETTINGS = """
[node]
labels = ["agent=second"]
[resources]
cpu = 1
mem = "1g"
"""


@pytest.fixture(scope="module")
def machine(make_bed):
    """One node with everything installed."""
    return whole(make_bed, NODE)


@pytest.fixture
def second(machine):
    """The settings file of the agent called second, which is stopped in the end."""
    path = f"{PREFIX}/conf/node-agent@second.toml"
    machine.node.write(path, SETTINGS)
    yield path
    machine.run(["systemctl", "stop", SECOND], check=False)
    machine.run(["systemctl", "reset-failed", SECOND], check=False)
    machine.run(["rm", "-f", path])
    machine.tool("flmctl", "forget", NODE_OF_SECOND, check=False)


def session(machine, tasks, *words):
    """A new session of flmping with this many tasks of 100 ms."""
    created = machine.tool("flmctl", "create", "session", "-a", "flmping", *words).stdout.split()[0]
    create = (
        f'for i in $(seq {tasks}); do {BIN}/flmctl create task -s {created} --text "$TASK" || exit 1; done'
    )
    machine.run(["sh", "-c", create], env={"TASK": TASK, "FLAME_ENDPOINT": machine.endpoint})
    return created


def wait_done(machine, of, tasks):
    """Waits until all tasks of a session succeeded."""

    def done():
        listing = machine.tool("flmctl", "list", "tasks", "-s", of, "-o", "json", check=False)
        states = [task["state"] for task in json.loads(listing.stdout)] if listing.ok else []
        return states == ["Succeed"] * tasks

    wait_until(done, WORK_SECONDS, f"{tasks} tasks of {of} done")


def node_id(machine, name):
    """The id of a node."""
    return machine.run(["cat", f"{PREFIX}/work/nodes/{name}/node-id"]).stdout.strip()


def ended(machine, unit):
    """Waits until a unit is down; how it ended."""
    down = ("inactive", "failed")
    wait_until(
        lambda: machine.show(unit, "ActiveState")["ActiveState"] in down, END_SECONDS, f"{unit} is down"
    )
    return machine.show(unit, "ActiveState", "Result", "ExecMainStatus", "NRestarts")


def test_a_second_agent_is_a_node_of_its_own(machine, second):
    machine.run(["systemctl", "start", SECOND])
    machine.wait_ready(NODE, NODE_OF_SECOND)
    assert node_id(machine, NODE) != node_id(machine, NODE_OF_SECOND)
    work = session(machine, TASKS, "--node-selector", "agent=second")
    listed = ["systemctl", "list-units", "--plain", "--no-legend", "flame-executor@*"]
    wait_until(
        lambda: "flame-executor@second-0.service" in machine.run(listed).stdout,
        END_SECONDS,
        "an executor of it",
    )
    wait_done(machine, work, TASKS)
    assert "registered with " in machine.show(SECOND, "StatusText")["StatusText"]
    # Each agent stops for itself.
    machine.run(["systemctl", "stop", SECOND])
    machine.wait_ready(NODE)
    assert ended(machine, SECOND)["Result"] == "success"
    assert machine.flmping("-t", "50")["succeeded"] == 50


def test_an_agent_that_left_by_itself_is_not_started_again(machine, second):
    machine.node.write(second, SETTINGS + '[life]\nidle_timeout = "2s"\n')
    machine.run(["systemctl", "start", SECOND])
    assert ended(machine, SECOND) == {
        "ActiveState": "inactive",
        "Result": "success",
        "ExecMainStatus": "0",
        "NRestarts": "0",
    }
    nodes = {node["name"]: node["phase"] for node in machine.flmctl("list", "nodes")}
    assert nodes == {NODE: "Ready", NODE_OF_SECOND: "Left"}


def test_an_agent_whose_identity_cannot_be_used_stays_down(machine, second):
    machine.run(["systemctl", "start", SECOND])
    machine.wait_ready(NODE, NODE_OF_SECOND)
    machine.run(["systemctl", "stop", SECOND])
    # Another machine takes the name: this one has a new id.
    machine.run(["rm", f"{PREFIX}/work/nodes/{NODE_OF_SECOND}/node-id"])
    machine.run(["systemctl", "start", SECOND])
    found = ended(machine, SECOND)
    assert (found["ActiveState"], found["ExecMainStatus"], found["NRestarts"]) == (
        "failed",
        CONFIGURATION,
        "0",
    )
    journal = machine.node.journal("-u", SECOND)
    assert f"flmctl forget {NODE_OF_SECOND}" in journal
    machine.tool("flmctl", "forget", NODE_OF_SECOND)
    machine.run(["systemctl", "start", SECOND])
    machine.wait_ready(NODE, NODE_OF_SECOND)
    # So does a configuration that is wrong.
    machine.run(["systemctl", "stop", SECOND])
    machine.node.write(second, "[life]\nidel_timeout = 1\n")
    machine.run(["systemctl", "start", SECOND], check=False)
    assert ended(machine, SECOND)["ExecMainStatus"] == CONFIGURATION
    assert "line 2: unknown key" in machine.node.journal("-u", SECOND)


@pytest.mark.parametrize("unit", [MANAGER, AGENT])
def test_a_daemon_whose_work_stands_still_is_started_again_and_nothing_is_lost(machine, unit):
    drop_in = f"/run/systemd/system/{unit}.d/watchdog.conf"
    machine.node.write(drop_in, WATCHDOG)
    machine.node.write("/root/freeze.py", (HERE / "freeze.py").read_bytes())
    machine.run(["systemctl", "daemon-reload"])
    machine.run(["systemctl", "restart", unit])
    machine.wait_ready(NODE)
    try:
        restarts = int(machine.show(unit, "NRestarts")["NRestarts"])
        work = session(machine, TASKS)
        hung = machine.node.main_pid(unit)
        holding = machine.node.background(
            ["python3", "/root/freeze.py", hung, LOOPS[unit], END_SECONDS], timeout=END_SECONDS + 10
        )

        def restarted():
            if holding.done():
                assert holding.result().ok, holding.result()
            return machine.node.main_pid(unit) not in (0, hung)

        wait_until(restarted, END_SECONDS, f"{unit} was started again")
        assert int(machine.show(unit, "NRestarts")["NRestarts"]) == restarts + 1
        assert "Watchdog timeout" in machine.node.journal("-u", unit)
        machine.wait_active(unit)
        machine.wait_ready(NODE)
        wait_done(machine, work, TASKS)
    finally:
        machine.run(["rm", "-f", drop_in])
        machine.run(["systemctl", "daemon-reload"])
        machine.run(["systemctl", "restart", unit])
