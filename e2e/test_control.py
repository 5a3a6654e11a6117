"""Tasks that are ended early, nodes out of service, and why a session does not run: on real processes."""

import json
import time

import pytest
from cluster import LocalCluster
from testbed import wait_until

LONG = '{"duration": 600000, "memory": null}'
SHORT = '{"duration": 1, "memory": null}'


@pytest.fixture(scope="module")
def cluster(places):
    """A cluster of one node that these tests may take out of service."""
    made = LocalCluster()
    places.append(made)
    try:
        yield made.up()
    finally:
        places.remove(made)
        made.down()


def create(cluster, *words):
    return cluster.tool("flmctl", "create", "session", "-a", "flmping", *words).stdout.strip()


def add(cluster, session, text, *words):
    return cluster.tool("flmctl", "create", "task", "-s", session, "--text", text, *words).stdout.strip()


def states(cluster, session):
    return {task["id"]: task["state"] for task in cluster.flmctl("list", "tasks", "-s", session)}


def reasons(cluster, session):
    return {reason["code"]: reason for reason in cluster.flmctl("explain", "-s", session)["reasons"]}


def services(cluster):
    return len(cluster.processes()) - 2


def running(cluster, session, task):
    wait_until(lambda: states(cluster, session)[task] == "Running", 30, f"task {task} runs")


def test_a_running_task_is_cancelled_with_its_process(cluster):
    session = create(cluster, "--max-instances", "1")
    endless, waiting, short = (add(cluster, session, text) for text in (LONG, LONG, SHORT))
    running(cluster, session, endless)
    cluster.tool("flmctl", "cancel", "-s", session, "-t", waiting, "--reason", "not needed")
    began = time.monotonic()
    cluster.tool("flmctl", "cancel", "-s", session, "-t", endless)
    assert states(cluster, session)[endless] == "Cancelled", "at once"
    wait_until(lambda: states(cluster, session)[short] == "Succeed", 30, "the task behind it runs")
    assert time.monotonic() - began < 5, "nobody waited for the end of the task"
    again = cluster.flmctl("cancel", "-s", session, "-t", endless)
    assert (again["tasks"], again["cancelled"]) == ([endless], 0)
    ended = cluster.tool("flmctl", "cancel", "-s", session, "-t", short, check=False)
    assert not ended.ok and "has succeeded already" in ended.stderr
    events = cluster.flmctl("view", "task", waiting, "-s", session)["events"]
    assert (events[-1]["code"], events[-1]["message"]) == (4, "not needed")
    cluster.tool("flmctl", "close", "-s", session)


def test_a_session_is_closed_although_its_tasks_run(cluster):
    session = create(cluster)
    tasks = [add(cluster, session, LONG) for _ in range(3)]
    running(cluster, session, tasks[0])
    refused = cluster.tool("flmctl", "close", "-s", session, check=False)
    assert not refused.ok and "Cannot close session with running tasks" in refused.stderr
    cluster.tool("flmctl", "close", "--cancel-running", "-s", session)
    assert set(states(cluster, session).values()) == {"Cancelled"}
    wait_until(lambda: services(cluster) == 0, 20, "the services are gone")


def test_a_task_that_runs_too_long_fails(cluster):
    session = create(cluster, "--task-timeout", "1.5", "--max-instances", "1")
    overdue = add(cluster, session, LONG)
    in_time = add(cluster, session, '{"duration": 500, "memory": null}')
    wait_until(lambda: states(cluster, session)[in_time] == "Succeed", 30, "the next task has its own time")
    task = cluster.flmctl("view", "task", overdue, "-s", session)
    assert task["state"] == "Failed"
    assert "task_timeout" in task["events"][-1]["message"]
    assert cluster.flmctl("view", "session", session)["task_timeout_ms"] == 1500
    cluster.tool("flmctl", "close", "-s", session)


def test_a_drained_node_runs_nothing_and_stays_so(cluster):
    name = cluster.flmctl("list", "nodes")[0]["name"]
    session = create(cluster)
    task = add(cluster, session, '{"duration": 3000, "memory": null}')
    running(cluster, session, task)
    drained = cluster.tool("flmctl", "drain", name, "--wait", "--reason", "a new kernel")
    assert f"node {name} drained" in drained.stdout
    assert states(cluster, session)[task] == "Succeed", "what ran was finished"
    waiting = add(cluster, session, SHORT)
    node = cluster.flmctl("view", "node", name)
    assert (node["state"], node["cordoned"], node["draining"], node["executors"]) == ("Ready", True, True, 0)
    assert list(reasons(cluster, session)) == ["node_draining"]
    cluster.script("restart")
    wait_until(
        lambda: [n["phase"] for n in cluster.flmctl("list", "nodes")] == ["Ready"], 30, "the node is back"
    )
    assert list(reasons(cluster, session)) == ["node_draining"], "a restart does not take it back"
    connected = cluster.tool("flmctl", "forget", name, check=False)
    assert not connected.ok and "is connected" in connected.stderr
    cluster.tool("flmctl", "uncordon", name)
    wait_until(lambda: states(cluster, session)[waiting] == "Succeed", 30, "the node works again")
    cluster.tool("flmctl", "close", "-s", session)


def test_why_a_session_does_not_run(cluster):
    idle = create(cluster)
    assert list(reasons(cluster, idle)) == ["nothing_to_do"]
    cluster.tool("flmctl", "close", "-s", idle)
    assert list(reasons(cluster, idle)) == ["closed"]
    large = create(cluster, "--resreq", "cpu=1,mem=1m,gpu=1")
    add(cluster, large, SHORT)
    reason = reasons(cluster, large)["no_node_is_large_enough"]
    assert reason["data"]["needs"].endswith("gpu=1")
    page = cluster.tool("flmctl", "explain", "-s", large).stdout
    assert reason["text"] in " ".join(page.split()) or reason["text"] in page
    cluster.tool("flmctl", "close", "-s", large)
    missing = cluster.tool("flmctl", "explain", "-s", "nobody", "-o", "json", check=False)
    assert json.loads(missing.stderr)["error"]["code"] == "not_found"


def test_room_is_held_by_a_session_of_higher_priority(cluster):
    cpus = cluster.flmctl("list", "nodes")[0]["allocatable"]["cpu"]
    urgent = create(cluster, "--priority", "5", "--resreq", f"cpu={cpus},mem=1m")
    task = add(cluster, urgent, LONG)
    running(cluster, urgent, task)
    waiting = create(cluster, "--resreq", "cpu=1,mem=1m")
    add(cluster, waiting, SHORT)
    held = reasons(cluster, waiting)["room_is_held"]
    assert [(h["session_id"], h["priority"]) for h in held["holders"]] == [(urgent, 5)]
    cluster.tool("flmctl", "close", "--cancel-running", "-s", urgent)
    wait_until(lambda: set(states(cluster, waiting).values()) == {"Succeed"}, 30, "it has room now")
    cluster.tool("flmctl", "close", "-s", waiting)
