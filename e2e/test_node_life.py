"""Who a node is, and when its agent ends: clusters of plain processes."""

import contextlib
import json
import shutil

import pytest
from pings import create_tasks, losses, session, states, wait_done
from supervisor import AGENT, Daemon
from testbed import wait_until

CONFIGURATION = 78
END_SECONDS = 30
DONE_SECONDS = 60
IDLE = "2s"


class Elsewhere(Daemon):
    """An agent on another machine, as far as its files say: it takes the name of a node of the cluster."""

    def __init__(self, cluster, node, home, resources="cpu=1,mem=1g", env=None):
        self.home = home
        self.node = node
        arguments = ("--name", node, "--resources", resources)
        places = {"FLAME_HOME": str(home), "FLAME_SOCKET_DIR": str(home / "s"), **(env or {})}
        super().__init__(cluster, AGENT, f"{node}-elsewhere", arguments, places)

    def log(self):
        """What it has logged."""
        return (self.cluster.prefix / f"logs/{self.name}.log").read_text()

    @property
    def id_file(self):
        """Where it has its id."""
        return self.home / "work/nodes" / self.node / "node-id"


@pytest.fixture
def elsewhere(tmp_path_factory):
    """Makes agents on other machines, and ends them."""
    with contextlib.ExitStack() as stack:

        def make(cluster, node, **words):
            # A short path, because sockets are below it.
            home = tmp_path_factory.mktemp("e")
            (home / "bin").symlink_to(cluster.prefix / "bin")
            daemon = Elsewhere(cluster, node, home, **words)

            def end():
                if daemon.pid and daemon.ended() is None:
                    daemon.kill()

            stack.callback(end)
            return daemon

        yield make


def phases(fleet):
    """The phase of each node by name."""
    return {node["name"]: node["phase"] for node in fleet.nodes()}


def ended(daemon):
    """Waits until a daemon has ended by itself; its exit status."""
    return wait_until(
        lambda: (daemon.ended(),) if daemon.ended() is not None else None, END_SECONDS, "its end"
    )[0]


def test_another_machine_with_the_name_of_a_node_is_refused(make_fleet, elsewhere):
    fleet = make_fleet({"n1": "cpu=1,mem=1g"})
    cluster = fleet.up().cluster
    (first,) = fleet.agents
    work = session(cluster)
    create_tasks(cluster, work, 3, 1000)
    other = elsewhere(cluster, "n1")
    other.start()
    assert ended(other) == CONFIGURATION
    assert "flmctl forget n1" in other.log()
    wait_done(cluster, work, 3)
    assert sum(losses(cluster).values()) == 0
    # Also after a restart of the session manager, and while the first one is away.
    assert first.stop() == 0
    fleet.manager.kill()
    fleet.manager.start()
    wait_until(
        lambda: cluster.tool("flmctl", "list", "nodes", check=False).ok, END_SECONDS, "the manager is back"
    )
    other.start()
    assert ended(other) == CONFIGURATION
    # An administrator says that it is the new n1.
    cluster.tool("flmctl", "forget", "n1")
    other.start()
    wait_until(lambda: phases(fleet) == {"n1": "Ready"}, END_SECONDS, "the other one is n1")
    first.start()
    assert ended(first) == CONFIGURATION
    create_tasks(cluster, work, 1, 1)
    wait_done(cluster, work, 4)


def test_a_copy_of_a_machine_does_not_take_its_executors(make_fleet, elsewhere):
    fleet = make_fleet({"n1": "cpu=1,mem=1g"})
    cluster = fleet.up().cluster
    (first,) = fleet.agents
    work = session(cluster)
    create_tasks(cluster, work, 4, 3000)
    wait_until(lambda: "Running" in states(cluster, work), DONE_SECONDS, "a task runs")
    copy = elsewhere(cluster, "n1")
    copy.id_file.parent.mkdir(parents=True)
    shutil.copy(cluster.prefix / "work/nodes/n1/node-id", copy.id_file)
    copy.start()
    wait_until(
        lambda: "another agent with the name and the id" in copy.log(), END_SECONDS, "the copy is refused"
    )
    wait_done(cluster, work, 4)
    assert sum(losses(cluster).values()) == 0
    assert copy.ended() is None, "it waits for its turn"
    assert first.stop() == 0
    wait_until(lambda: phases(fleet) == {"n1": "Ready"}, END_SECONDS, "the copy is n1")
    create_tasks(cluster, work, 1, 1)
    wait_done(cluster, work, 5)


def test_a_fleet_boots_in_any_order(make_fleet):
    fleet = make_fleet({"n1": "cpu=1,mem=1g", "n2": "cpu=1,mem=1g"})
    cluster = fleet.cluster
    cluster.script("install")
    cluster.configure("")
    for agent in fleet.agents:
        agent.start()

    def waiting():
        logs = [(cluster.prefix / f"logs/{agent.name}.log").read_text() for agent in fleet.agents]
        return all("no link to the session manager" in log for log in logs)

    wait_until(waiting, END_SECONDS, "the agents wait")
    fleet.manager.start()
    wait_until(fleet.all_ready, END_SECONDS, "all nodes ready")
    assert all(agent.ended() is None for agent in fleet.agents)


def test_an_idle_agent_leaves_after_its_work(make_fleet, elsewhere):
    fleet = make_fleet({"n1": "cpu=1,mem=1g"})
    cluster = fleet.up().cluster
    guest = elsewhere(cluster, "n2", env={"FLAME_NODE_IDLE_TIMEOUT": IDLE, "FLAME_NODE_LABELS": "guest=yes"})
    guest.start()
    wait_until(lambda: phases(fleet).get("n2") == "Ready", END_SECONDS, "n2 is ready")
    work = session(cluster, "--node-selector", "guest=yes")
    create_tasks(cluster, work, 1, 5000)
    wait_done(cluster, work, 1)
    assert guest.ended() is None, "it had work for longer than its idle_timeout"
    cluster.tool("flmctl", "close", "session", work)
    assert ended(guest) == 0
    assert phases(fleet) == {"n1": "Ready", "n2": "Left"}
    assert sum(losses(cluster).values()) == 0


def test_an_ephemeral_node_serves_one_session_and_is_forgotten(make_fleet, elsewhere):
    fleet = make_fleet({"n1": "cpu=1,mem=1g"})
    cluster = fleet.up().cluster
    guest = elsewhere(
        cluster,
        "n2",
        resources="cpu=2,mem=2g",
        env={"FLAME_NODE_EPHEMERAL": "true", "FLAME_NODE_LABELS": "guest=yes"},
    )
    guest.start()
    wait_until(lambda: phases(fleet).get("n2") == "Ready", END_SECONDS, "n2 is ready")
    first, second = (session(cluster, "--node-selector", "guest=yes") for _ in range(2))
    create_tasks(cluster, first, 1, 2000)
    wait_until(lambda: states(cluster, first) == ["Running"], DONE_SECONDS, "the first one runs")
    create_tasks(cluster, second, 1, 1)
    explained = cluster.flmctl("explain", "-s", second)
    assert "node_reserved" in [reason["code"] for reason in explained["reasons"]]
    wait_done(cluster, first, 1)
    cluster.tool("flmctl", "close", "session", first)
    assert ended(guest) == 0
    assert states(cluster, second) == ["Pending"]
    assert phases(fleet) == {"n1": "Ready"}
    # Its name is free for another machine.
    next_one = elsewhere(cluster, "n2", env={"FLAME_NODE_LABELS": "guest=yes"})
    next_one.start()
    wait_done(cluster, second, 1)


def test_reserved_resources_and_slots_bound_what_runs(make_fleet, elsewhere):
    fleet = make_fleet({})
    cluster = fleet.up().cluster
    home_of = elsewhere(cluster, "n1", resources="cpu=8,mem=8g")
    conf = home_of.home / "conf"
    conf.mkdir()
    (conf / "node-agent.toml").write_text(
        '[resources]\nreserved_cpu = 2\nreserved_memory = "1g"\nslots = 3\n'
    )
    home_of.start()
    wait_until(lambda: phases(fleet) == {"n1": "Ready"}, END_SECONDS, "n1 is ready")
    shown = json.loads(cluster.tool("flmctl", "view", "--node", "n1", "-o", "json").stdout)
    assert (shown["allocatable"]["cpu"], shown["allocatable"]["memory"]) == (6, 7 << 30)
    work = session(cluster)
    create_tasks(cluster, work, 8, 1500)
    seen = []

    def done():
        seen.append(len(cluster.flmctl("list", "executors")))
        return states(cluster, work) == ["Succeed"] * 8

    wait_until(done, DONE_SECONDS, "the tasks are done")
    assert max(seen) == 3
