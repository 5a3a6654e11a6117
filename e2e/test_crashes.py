"""Processes are killed under load: every acknowledged task ends, once, with the right output."""

import json
import os
import signal
import subprocess

import pytest
from cluster import LocalCluster
from testbed import wait_until

MANAGER, AGENT = "flame-session-manager", "flame-node-agent"
WORK_SECONDS = 120


@pytest.fixture
def cluster(places):
    """A cluster that may be broken."""
    made = LocalCluster()
    places.append(made)
    yield made.up()
    places.remove(made)
    made.down()


def services(cluster):
    """Pids of the service processes: the agent's children."""
    agent = cluster.pid(AGENT)
    listed = subprocess.run(["pgrep", "-P", str(agent)], capture_output=True, text=True, check=False)
    return [int(pid) for pid in listed.stdout.split()]


def progress(cluster, session):
    """How many tasks of the session have ended."""
    tasks = next(found["tasks"] for found in cluster.flmctl("list", "sessions") if found["id"] == session)
    return tasks["succeed"] + tasks["failed"] + tasks["cancelled"]


def break_everything(cluster, session, tasks):
    """Kills the manager, a service and the agent, each while work goes on, and starts what systemd would."""
    for victim in (MANAGER, None, AGENT):
        before = progress(cluster, session)
        # (On a machine with many cores all may be done before the last of them is killed.)
        wait_until(
            lambda before=before: progress(cluster, session) > before or before == tasks,
            WORK_SECONDS,
            "work going on",
        )
        if victim:
            os.kill(cluster.pid(victim), signal.SIGKILL)
        else:
            for pid in services(cluster)[:1]:
                os.kill(pid, signal.SIGKILL)
        cluster.script("start")


def test_every_acknowledged_task_of_a_batch_client_succeeds_whatever_is_killed(cluster):
    tasks = 30_000
    flmping = [cluster.prefix / "bin/flmping", "-p", "-t", str(tasks), "--output", "json"]
    with subprocess.Popen(flmping, env=cluster.env, stdout=subprocess.PIPE, text=True) as client:
        wait_until(lambda: cluster.flmctl("list", "sessions"), WORK_SECONDS, "a session")
        (session,) = [found["id"] for found in cluster.flmctl("list", "sessions")]
        break_everything(cluster, session, tasks)
        report = json.loads(client.communicate(timeout=WORK_SECONDS)[0])
    # A call that was under way when the manager died is repeated under the same id, so its tasks exist once.
    assert (report["succeeded"], report["failed"]) == (tasks, 0)
    listed = cluster.flmctl("list", "tasks", "-s", session)
    assert sorted(int(task["id"]) for task in listed) == list(range(1, tasks + 1))
    assert {task["state"] for task in listed} == {"Succeed"}


def test_outputs_are_those_of_their_inputs_whatever_is_killed(cluster):
    tasks = 150
    session = cluster.tool("flmctl", "create", "session", "-a", "flmexec").stdout.split()[0]
    for number in range(1, tasks + 1):
        script = json.dumps(
            {"language": "shell", "code": f"sleep 0.1; echo {number} squared: $(({number} * {number}))"}
        )
        cluster.tool("flmctl", "create", "task", "-s", session, "--text", script)
    break_everything(cluster, session, tasks)
    wait_until(lambda: progress(cluster, session) == tasks, WORK_SECONDS, "all tasks ended")
    for number in range(1, tasks + 1):
        output = cluster.tool("flmctl", "view", "task", str(number), "-s", session, "--raw").stdout
        text = bytes(json.loads(output)["data"]).decode()
        assert text == f"{number} squared: {number * number}\n"
