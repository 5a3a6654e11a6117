"""Two agents on one host crash under load: each goes on with its own executors, and with no other."""

import re

import pytest
from executor_units import executors, left_behind
from machine import AGENT, BIN, PREFIX
from testbed import wait_until

pytestmark = pytest.mark.nodes

NODE = "beside"
# Unit of each agent, by the label of its node; the units of its executors.
AGENTS = {"first": AGENT, "second": "flame-node-agent@second.service"}
EXECUTORS = {"first": r"flame-executor@[0-9]+\.service", "second": r"flame-executor@second-[0-9]+\.service"}
SETTINGS = '[node]\nlabels = ["agent={}"]\n[resources]\ncpu = 2\nmem = "1g"\n'
TASKS = 200
TASK = '{"duration": 150, "memory": null}'
CREATE = f'for i in $(seq {TASKS}); do {BIN}/flmctl create task -s "$1" --text "$2" || exit 1; done'
SECONDS = 30
DONE_SECONDS = 90


@pytest.fixture(scope="module")
def machine(make_bed):
    """One node with everything installed and two agents."""
    (machine,) = make_bed(NODE)
    machine.install("--all", "--enable")
    machine.node.write(f"{PREFIX}/conf/node-agent.toml", SETTINGS.format("first"))
    machine.node.write(f"{PREFIX}/conf/node-agent@second.toml", SETTINGS.format("second"))
    machine.run(["systemctl", "restart", *AGENTS.values()])
    machine.wait_ready(NODE, f"{NODE}-second")
    return machine


def runs(machine, agent=None):
    """Process and run of each executor's unit, of this agent or of both."""
    pattern = "|".join([EXECUTORS[agent]] if agent else EXECUTORS.values())
    found = [unit for unit in executors(machine) if re.fullmatch(pattern, unit)]
    return {unit: machine.show(unit, "MainPID", "InvocationID", "ActiveState") for unit in found}


def session(machine, agent):
    """A session with work for the node of this agent."""
    words = ["create", "session", "-a", "flmping", "--node-selector", f"agent={agent}"]
    created = machine.tool("flmctl", *words).stdout.split()[0]
    machine.run(["sh", "-c", CREATE, "sh", created, TASK], env={"FLAME_ENDPOINT": machine.endpoint})
    return created


def succeeded(machine, of):
    """How many tasks of a session have succeeded."""
    return next(
        found["tasks"]["succeed"] for found in machine.flmctl("list", "sessions") if found["id"] == of
    )


def pids(machine):
    """The process of each agent."""
    return {agent: machine.node.main_pid(unit) for agent, unit in AGENTS.items()}


def test_each_agent_goes_on_with_its_own_executors(machine):
    sessions = {agent: session(machine, agent) for agent in AGENTS}
    for killed in (["second"], ["first"], ["first", "second"]):
        before = {agent: succeeded(machine, of) for agent, of in sessions.items()}
        wait_until(
            lambda before=before: all(succeeded(machine, of) > before[a] for a, of in sessions.items()),
            SECONDS,
            "work of both going on",
        )
        found, agents = runs(machine), pids(machine)
        assert all(runs(machine, agent) for agent in AGENTS), found
        for agent in killed:
            machine.run(["kill", "-KILL", str(agents[agent])])

        def back(killed=killed, agents=agents):
            """Those that were killed are there again, and the session manager knows them."""
            now = pids(machine)
            return all(now[agent] not in (0, agents[agent]) for agent in killed) and all(
                "registered" in machine.show(unit, "StatusText")["StatusText"] for unit in AGENTS.values()
            )

        wait_until(back, SECONDS, f"{' and '.join(killed)} back")
        assert runs(machine) == found
        untouched = {agent: pid for agent, pid in agents.items() if agent not in killed}
        assert untouched.items() <= pids(machine).items()
    assert all(succeeded(machine, of) < TASKS for of in sessions.values()), "there was not enough work"
    for unit in AGENTS.values():
        assert "it is stopped" not in machine.node.journal("-u", unit)
    for of in sessions.values():
        wait_until(lambda of=of: succeeded(machine, of) == TASKS, DONE_SECONDS, f"all tasks of {of}")
    # What one of them ends is its own, too.
    others = runs(machine, "second")
    machine.run(["systemctl", "stop", AGENTS["first"]])
    assert runs(machine) == others != {}
    machine.tool("flmctl", "close", "-s", sessions["second"])
    wait_until(lambda: executors(machine) == [], SECONDS, "no executor is left")
    assert left_behind(machine) == []
