"""Two real machines: the control plane on one, a worker on the other, and what happens between them."""

import json

import pytest
from machine import AGENT, MANAGER
from testbed import wait_until

pytestmark = pytest.mark.nodes

WORK_SECONDS = 120
SLOW_TASKS = 40
SLOW_TASK = '{"duration": 100, "memory": null}'


@pytest.fixture(scope="module")
def fleet(make_bed):
    """Manager and worker, installed with the profiles of their own and joined."""
    manager, worker = make_bed("manager", "worker")
    endpoint = f"http://{manager.address}:8080"
    for machine in (manager, worker):
        machine.endpoint = endpoint
    # The worker first: a fleet must boot in any order.
    worker.install("--worker", "--enable", "--endpoint", endpoint)
    assert worker.active(AGENT), "an agent without a manager is up, waiting"
    assert "waiting" in worker.show(AGENT, "StatusText")["StatusText"]
    manager.install("--control-plane", "--enable", "--endpoint", endpoint)
    manager.wait_ready("worker")
    return manager, worker


def open_work(machine):
    """A session with slow tasks; its id."""
    session = machine.tool("flmctl", "create", "session", "-a", "flmping").stdout.split()[0]
    for _ in range(SLOW_TASKS):
        machine.tool("flmctl", "create", "task", "-s", session, "--text", SLOW_TASK)
    return session


def wait_done(machine, session):
    """Waits until all slow tasks succeeded."""

    def done():
        listing = machine.tool("flmctl", "list", "tasks", "-s", session, "-o", "json", check=False)
        states = [task["state"] for task in json.loads(listing.stdout)] if listing.ok else []
        return len(states) == SLOW_TASKS and set(states) == {"Succeed"}

    wait_until(done, WORK_SECONDS, f"the tasks of {session} done")


def ping(machine, tasks=200):
    """Runs tasks and checks that they all succeeded."""
    report = machine.flmping("-t", str(tasks))
    assert (report["tasks"], report["succeeded"], report["failed"]) == (tasks, tasks, 0)


def test_each_machine_has_only_its_part(fleet):
    manager, worker = fleet
    assert manager.active(MANAGER) and not manager.active(AGENT)
    assert worker.active(AGENT) and not worker.active(MANAGER)
    assert worker.run(["systemctl", "cat", MANAGER], check=False).returncode != 0
    assert "registered" in worker.show(AGENT, "StatusText")["StatusText"]


def test_tasks_cross_the_network(fleet):
    manager, worker = fleet
    ping(manager)
    ping(worker)
    session = manager.tool("flmctl", "create", "session", "-a", "flmping").stdout.split()[0]
    task = ["flmctl", "create", "task", "-s", session, "--text", SLOW_TASK, "--wait"]
    assert "Completed on worker " in manager.tool(*task).stdout


def test_labels_of_an_installed_agent_come_from_a_drop_in(fleet):
    manager, worker = fleet
    session = manager.tool("flmctl", "create", "session", "-a", "flmping", "--node-selector", "zone=a")
    session = session.stdout.split()[0]
    task = ["flmctl", "create", "task", "-s", session, "--text", SLOW_TASK]
    manager.tool(*task)
    (reason,) = manager.flmctl("explain", "-s", session)["reasons"]
    assert (reason["code"], reason["data"]) == ("no_node_has_the_labels", {"labels": "zone=a"})
    worker.drop_in(AGENT, "[Service]\nEnvironment=FLAME_NODE_LABELS=zone=a,gpu=no\n")
    worker.run(["systemctl", "restart", AGENT])
    assert "Completed on worker " in manager.tool(*task, "--wait").stdout
    (node,) = manager.flmctl("list", "nodes")
    assert node["labels"] == ["gpu=no", "zone=a"]


def test_the_manager_reboots_and_the_worker_comes_back_by_itself(fleet):
    manager, worker = fleet
    agent = worker.node.main_pid(AGENT)
    session = open_work(manager)
    manager.bed.reboot(manager.node)
    manager.wait_ready("worker")
    ping(worker)
    wait_done(manager, session)
    assert worker.node.main_pid(AGENT) == agent, "the agent did not have to restart"


def test_the_manager_loses_power(fleet):
    manager, worker = fleet
    session = open_work(manager)
    manager.bed.reboot(manager.node, hard=True)
    manager.wait_ready("worker")
    wait_done(manager, session)
    ping(worker)


def test_the_worker_reboots(fleet):
    manager, worker = fleet
    session = open_work(manager)
    worker.bed.reboot(worker.node)
    manager.wait_ready("worker")
    wait_done(manager, session)
    assert [node["name"] for node in manager.flmctl("list", "nodes")] == ["worker"], (
        "no ghost of the boot before"
    )


def test_a_cut_link_delays_work_and_loses_none(fleet):
    manager, worker = fleet
    session = open_work(manager)
    manager.bed.cut(worker.node)
    try:
        wait_until(lambda: manager.ready_nodes() == [], 60, "the manager notices that the worker is away")
    finally:
        manager.bed.restore(worker.node)
    manager.wait_ready("worker")
    wait_done(manager, session)
    ping(manager)
