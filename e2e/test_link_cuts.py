"""Links between real systemd nodes are cut under load, those of a worker and that of the session manager:
every acknowledged task ends exactly once, with the right output, and nodes are judged as documented.

`make test` has one cut of each length, `make soak` (FLAME_SOAK_SECONDS of at least 60) all of them.
"""

import json
import os
import time
from dataclasses import dataclass, field

import pytest
from load import REST_SECONDS, assert_all_was_well
from machine import AGENT, BIN, MANAGER
from metrics import parse, total
from testbed import wait_until

FULL = float(os.environ.get("FLAME_SOAK_SECONDS", 0)) >= 60
# Whose link is cut, and for how many seconds.
SHORT_CUTS = (("one", 60), ("manager", 20), ("two", 5))
ALL_CUTS = tuple((who, seconds) for who in ("one", "manager") for seconds in (5, 20, 60)) + (("two", 60),)
CUTS = ALL_CUTS if FULL else SHORT_CUTS
# After how much silence a node is suspect and lost; heartbeats are 5 s apart, so the last one was up to 5 s
# before the cut. Looking takes a moment, too.
SUSPECT, LOST = 15, 45
HEARTBEAT, LOOK = 5, 2
# A link that breaks waits at most 5 s before it is tried again, and as long for a try into the void.
BACK_SECONDS = 25
QUIET_SECONDS = 60
LOAD_SECONDS = sum(seconds for _, seconds in CUTS) + 10 * len(CUTS)
pytestmark = [pytest.mark.nodes, pytest.mark.timeout(2 * LOAD_SECONDS + 3 * REST_SECONDS)]

# Done while the link of its node is cut.
LONG_MS = 8_000
LONG_TASKS = 3
METRICS = (
    "import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:9080/metrics').read().decode())"
)
LOADS = (
    ("--sessions", 2, "--batch", 10, "--rate", 100, "--session-time", 10),
    (
        "--sessions",
        2,
        "--batch",
        5,
        "--rate",
        20,
        "--work",
        30,
        "--session-time",
        15,
        "--application",
        "slow",
    ),
)


@pytest.fixture(scope="module")
def fleet(make_bed):
    """The session manager alone, and two workers of (at least) two CPUs."""
    manager, one, two = make_bed("manager", "one", "two")
    endpoint = f"http://{manager.address}:8080"
    for machine in (manager, one, two):
        machine.endpoint = endpoint
    manager.install("--control-plane", "--enable", "--endpoint", endpoint)
    for worker in (one, two):
        worker.install("--worker", "--enable", "--endpoint", endpoint)
        # Three long tasks are on both nodes, and there is room for others.
        worker.drop_in(AGENT, "[Service]\nEnvironment=FLAME_NODE_RESOURCES=cpu=2,mem=4g\n")
        worker.run(["systemctl", "restart", AGENT])
    manager.wait_ready("one", "two")
    return {machine.node.name: machine for machine in (manager, one, two)}


def load(machine, words):
    """Runs the soak client on a machine; a future of its result."""
    command = [f"{BIN}/flame-soak", "--service", f"{BIN}/flame-soak-service", "--time", LOAD_SECONDS, *words]
    limit = LOAD_SECONDS + 2 * REST_SECONDS
    return machine.node.background(command, limit, env={"FLAME_ENDPOINT": machine.endpoint})


def samples(manager):
    """The session manager's metrics."""
    return parse(manager.run(["python3", "-c", METRICS]).stdout)


def phases(manager):
    """What the session manager thinks of its nodes."""
    return {node["name"]: node["phase"] for node in manager.flmctl("list", "nodes")}


def executors(manager, session):
    """On which nodes a session runs."""
    listed = manager.flmctl("list", "executors")
    return [each["node"] for each in listed if each["session_id"] == session and each["state"] == "Bound"]


@dataclass
class Cut:
    """What was seen while a link was cut."""

    who: str
    seconds: int
    # Of each node that the manager cannot reach: phase -> seconds after the cut when it was first seen.
    seen: dict = field(default_factory=dict)
    # Where the long tasks ran before, and who finished them.
    before: list = field(default_factory=list)
    finished: list = field(default_factory=list)
    back: float = 0.0
    refused: int = 0
    lost: int = 0

    def __str__(self):
        seen = "; ".join(
            f"{node}: " + ", ".join(f"{phase} after {at:.1f} s" for phase, at in found.items())
            for node, found in self.seen.items()
        )
        return (
            f"{self.who} cut for {self.seconds} s: {seen}; all ready {self.back:.1f} s after it; long tasks "
            f"ran on {self.before}, finished by {self.finished}; {self.lost} tasks requeued for a lost node, "
            f"{self.refused} late results refused"
        )

    def cut_off(self):
        """The nodes that the manager cannot reach."""
        return ["one", "two"] if self.who == "manager" else [self.who]


def long_tasks(manager):
    """A session with tasks that run on both nodes."""
    words = ["create", "session", "-a", "flmping", "--priority", "5", "--max-instances", str(LONG_TASKS)]
    session = manager.tool("flmctl", *words).stdout.strip()
    text = json.dumps({"duration": LONG_MS, "memory": None})
    for _ in range(LONG_TASKS):
        manager.tool("flmctl", "create", "task", "-s", session, "--text", text)
    wait_until(lambda: len(executors(manager, session)) == LONG_TASKS, 20, "the long tasks run")
    return session


def finishers(manager, session):
    """Who finished the long tasks; nothing until all are done."""
    tasks = manager.flmctl("list", "tasks", "-s", session)
    if any(task["state"] != "Succeed" for task in tasks):
        return None
    return sorted(json.loads(task["output_text"])["message"].split()[2] for task in tasks)


def cut(fleet, who, seconds):
    """Cuts a link and watches what happens, until all is well again."""
    manager, machine = fleet["manager"], fleet[who]
    done = Cut(who, seconds)
    session = long_tasks(manager)
    done.before = sorted(executors(manager, session))
    before = samples(manager)
    machine.bed.cut(machine.node)
    began = time.monotonic()
    try:
        while (now := time.monotonic() - began) < seconds:
            for node, phase in phases(manager).items():
                if node in done.cut_off():
                    done.seen.setdefault(node, {}).setdefault(phase, now)
            time.sleep(min(0.25, max(0.0, seconds - (time.monotonic() - began))))
    finally:
        machine.bed.restore(machine.node)
    began = time.monotonic()
    wait_until(
        lambda: set(phases(manager).values()) == {"Ready"} and samples(manager)["flame_node_links"] == 2,
        BACK_SECONDS,
        "both nodes are registered again",
    )
    done.back = time.monotonic() - began
    done.finished = wait_until(lambda: finishers(manager, session), QUIET_SECONDS, "the long tasks are done")
    manager.tool("flmctl", "close", "-s", session)
    after = samples(manager)
    for name, metric in (
        ("refused", "flame_results_refused_total"),
        ("lost", 'flame_tasks_requeued_total{reason="node_lost"}'),
    ):
        setattr(done, name, total(after, metric) - total(before, metric))
    return done


def judge(done):
    """Nodes are judged by their silence, and only those that are lost lose their tasks."""
    assert set(done.before) == {"one", "two"}, done
    for node in done.cut_off():
        seen = done.seen[node]
        if done.seconds <= SUSPECT - HEARTBEAT:
            assert set(seen) == {"Ready"}, done
        if done.seconds >= SUSPECT + LOOK:
            assert SUSPECT - HEARTBEAT <= seen["Suspect"] <= SUSPECT + LOOK, done
        if done.seconds < LOST - HEARTBEAT:
            assert "Lost" not in seen, done
        if done.seconds >= LOST + LOOK:
            assert LOST - HEARTBEAT <= seen["Lost"] <= LOST + LOOK, done
    if done.seconds < LOST - HEARTBEAT:
        assert done.lost == 0, done
        assert done.finished == done.before, f"who had them finished them: {done}"
    elif done.who != "manager":
        assert set(done.finished) == {"one", "two"} - {done.who}, f"they ran elsewhere: {done}"
        moved = done.before.count(done.who)
        assert done.lost >= moved and done.refused >= moved, f"late results are refused and counted: {done}"


def books(manager, tasks):
    """Whether the manager's records say that all sessions ended, with so many tasks that succeeded."""
    found = manager.flmctl("list", "sessions")
    numbers = {state: sum(each["tasks"][state] for each in found) for state in found[0]["tasks"]}
    assert {each["state"] for each in found} == {"Closed"}
    assert numbers == {"succeed": tasks, **dict.fromkeys(("pending", "running", "failed", "cancelled"), 0)}


def test_every_acknowledged_task_ends_once_whatever_is_cut(fleet, capsys):
    manager = fleet["manager"]
    # A client whose link is never cut, and one that loses it with its node's.
    clients = [load(manager, LOADS[0]), load(fleet["two"], LOADS[1])]
    wait_until(lambda: len(manager.flmctl("list", "sessions")) >= 4, 20, "the clients' sessions")
    for who, seconds in CUTS:
        done = cut(fleet, who, seconds)
        with capsys.disabled():
            print(f"\n{done}", flush=True)
        judge(done)
    results = [client.result() for client in clients]
    reports = [json.loads(result.check().stdout) for result in results]
    tasks = sum(report["tasks"] for report in reports)
    with capsys.disabled():
        print(f"{sum(report['sessions'] for report in reports)} sessions, {tasks} tasks")
    for report in reports:
        assert_all_was_well(report)
    tasks += LONG_TASKS * len(CUTS)
    books(manager, tasks)
    manager.run(["systemctl", "restart", MANAGER])
    manager.wait_ready("one", "two")
    books(manager, tasks)
    wait_until(lambda: not manager.flmctl("list", "executors"), QUIET_SECONDS, "no executor is left")
    for worker in ("one", "two"):
        # (A pattern that does not match the command that looks.)
        for service in ("[f]lame-soak-service", "[f]lmping-service"):
            found = fleet[worker].run(["pgrep", "--full", "--list-full", service], check=False).stdout
            assert found == "", f"left on {worker}: {found}"
