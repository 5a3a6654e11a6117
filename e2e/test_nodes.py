"""Nodes that sessions select by labels, and processes that stand still for longer than a node may."""

import contextlib
import os
import signal
import time

from pings import counters, create_tasks, losses, session, states, wait_done
from testbed import wait_until

# A node is lost after 45 s of silence.
STANDSTILL_SECONDS = 60
LOST_SECONDS = 70
BACK_SECONDS = 30
DONE_SECONDS = 60


@contextlib.contextmanager
def standing_still(pid):
    """The process does not run while the block does."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_sessions_run_on_nodes_with_their_labels(make_fleet):
    fleet = make_fleet({"plain": "cpu=2,mem=2g", "gpu": "cpu=2,mem=2g"})
    plain, gpu = fleet.agents
    gpu.label("gpu=yes", "zone=a")
    cluster = fleet.up().cluster
    assert {node["name"]: node["labels"] for node in fleet.nodes()} == {
        "plain": [],
        "gpu": ["gpu=yes", "zone=a"],
    }
    page = cluster.tool("flmctl", "view", "--node", "gpu").stdout
    assert "Labels:" in page and "gpu=yes" in page and "zone=a" in page

    # More than the node has room for, so that the other one is needed if it may be taken.
    selecting = session(cluster, "--node-selector", "gpu=yes")
    create_tasks(cluster, selecting, 12, 200)
    seen = []

    def done():
        seen.extend(each["node"] for each in cluster.flmctl("list", "executors"))
        return states(cluster, selecting) == ["Succeed"] * 12

    wait_until(done, DONE_SECONDS, "the tasks of the selecting session done")
    assert set(seen) == {"gpu"}

    waiting = session(cluster, "--node-selector", "zone=b")
    create_tasks(cluster, waiting, 1, 1)
    explained = cluster.flmctl("explain", "-s", waiting)
    (reason,) = explained["reasons"]
    assert (reason["code"], reason["data"]) == ("no_node_has_the_labels", {"labels": "zone=b"})
    assert "zone=b" in cluster.tool("flmctl", "explain", "-s", waiting).stdout
    assert states(cluster, waiting) == ["Pending"]
    assert plain.stop() == 0
    plain.label("zone=b")
    plain.start()
    wait_done(cluster, waiting, 1)


def test_a_manager_that_stood_still_has_lost_no_node(make_fleet):
    fleet = make_fleet({"n1": "cpu=1,mem=1g", "n2": "cpu=1,mem=1g"})
    cluster = fleet.up().cluster
    tasks = 8
    work = session(cluster)
    create_tasks(cluster, work, tasks, 2000)
    wait_until(lambda: states(cluster, work).count("Running") == 2, DONE_SECONDS, "both nodes at work")
    with standing_still(fleet.manager.pid):
        time.sleep(STANDSTILL_SECONDS)
    wait_done(cluster, work, tasks)
    seen = counters(cluster)
    assert seen["flame_node_events_total"] == 0, "no node was suspect or lost"
    assert losses(cluster) == {}
    assert seen['flame_tasks_ended_total{state="succeeded"}'] == tasks
    assert fleet.all_ready()
    log = (cluster.prefix / "logs/flame-session-manager.log").read_text()
    assert "the session manager did not run for " in log


def test_the_tasks_of_an_agent_that_stands_still_are_given_to_others_once(make_fleet):
    fleet = make_fleet({"n1": "cpu=1,mem=1g", "n2": "cpu=1,mem=1g"})
    cluster = fleet.up().cluster
    work = session(cluster)
    create_tasks(cluster, work, 2, 5000)
    wait_until(lambda: states(cluster, work).count("Running") == 2, DONE_SECONDS, "both nodes at work")
    with standing_still(fleet.agents[0].pid):
        wait_until(
            lambda: [node["phase"] for node in fleet.nodes()] == ["Lost", "Ready"], LOST_SECONDS, "n1 is lost"
        )
        wait_done(cluster, work, 2)
        assert losses(cluster) == {"node_lost": 1}
    wait_until(fleet.all_ready, BACK_SECONDS, "n1 is back")
    # Its result of that task is of an attempt that does not count any more.
    create_tasks(cluster, work, 2, 5000)
    wait_done(cluster, work, 4)
    assert losses(cluster) == {"node_lost": 1}
    assert counters(cluster)['flame_tasks_ended_total{state="succeeded"}'] == 4
