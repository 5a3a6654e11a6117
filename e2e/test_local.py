"""hack/local-test.sh: every command twice, two clusters side by side, nothing left behind."""

import json
import os
import signal
import socket

import pytest
from cluster import LocalCluster
from testbed import wait_until

DAEMONS = ("flame-session-manager", "flame-node-agent")
NOT_RUNNING = 3


@pytest.fixture
def cluster(places):
    """A cluster that is not installed yet."""
    made = LocalCluster()
    places.append(made)
    yield made
    places.remove(made)
    made.down()


def test_every_command_works_twice(cluster):
    for _ in range(2):
        assert cluster.script("status", check=False).returncode == NOT_RUNNING
        cluster.script("stop")
        cluster.script("logs")
    for _ in range(2):
        cluster.script("install")
    for _ in range(2):
        cluster.script("start")
        cluster.script("status")
    assert cluster.flmping("-t", "50")["succeeded"] == 50
    first = [cluster.pid(name) for name in DAEMONS]
    cluster.script("start")
    assert [cluster.pid(name) for name in DAEMONS] == first, "a start of what runs changes nothing"
    for _ in range(2):
        cluster.script("restart")
    assert [cluster.pid(name) for name in DAEMONS] != first
    assert cluster.flmping("-t", "50")["succeeded"] == 50
    assert "flame-session-manager.log" in cluster.script("logs").stdout
    for _ in range(2):
        stopped = cluster.script("stop")
        assert "outlived" not in stopped.stderr and "killing" not in stopped.stderr
        assert cluster.processes() == []
    for _ in range(2):
        cluster.script("uninstall")
        assert not (cluster.prefix / "bin/flmctl").exists()
    for _ in range(2):
        cluster.script("clean")
    assert not cluster.prefix.exists()


def test_stop_ends_services_that_run_tasks(cluster):
    cluster.up()
    session = cluster.tool("flmctl", "create", "session", "-a", "flmping").stdout.split()[0]
    for _ in range(4):
        cluster.tool(
            "flmctl", "create", "task", "-s", session, "--text", '{"duration": 600000, "memory": null}'
        )

    def running():
        return [task for task in cluster.flmctl("list", "tasks", "-s", session) if task["state"] == "Running"]

    wait_until(running, 30, "a long task running")
    assert len(cluster.processes()) > len(DAEMONS), "the service is a process of its own"
    stopped = cluster.script("stop")
    assert cluster.processes() == []
    assert "outlived" not in stopped.stderr, stopped


def test_work_survives_a_restart(cluster):
    cluster.up()
    session = cluster.tool("flmctl", "create", "session", "-a", "flmping").stdout.split()[0]
    for _ in range(20):
        cluster.tool("flmctl", "create", "task", "-s", session, "--text", '{"duration": 50, "memory": null}')
    cluster.script("restart")

    def all_done():
        states = [task["state"] for task in cluster.flmctl("list", "tasks", "-s", session)]
        return len(states) == 20 and set(states) == {"Succeed"}

    wait_until(all_done, 60, "all tasks done after the restart")


@pytest.mark.parametrize("daemon", DAEMONS)
def test_a_killed_daemon_is_started_again_by_start(cluster, daemon):
    cluster.up()
    os.kill(cluster.pid(daemon), signal.SIGKILL)
    wait_until(lambda: cluster.script("status", check=False).returncode == NOT_RUNNING, 10, "status sees it")
    cluster.script("start")
    report = cluster.flmping("-t", "20")
    assert (report["tasks"], report["succeeded"], report["failed"]) == (20, 20, 0)


def test_two_clusters_side_by_side(cluster, places):
    other = LocalCluster()
    places.append(other)
    try:
        cluster.up()
        other.up()
        session = cluster.tool("flmctl", "create", "session", "-a", "flmping").stdout.split()[0]
        assert cluster.flmping("-t", "20")["succeeded"] == 20
        assert other.flmping("-t", "20")["succeeded"] == 20
        mine = {entry["id"] for entry in cluster.flmctl("list", "sessions")}
        assert session in mine
        assert mine.isdisjoint({entry["id"] for entry in other.flmctl("list", "sessions")})
        other.script("stop")
        assert cluster.flmping("-t", "20")["succeeded"] == 20, "the other's stop does not reach this one"
    finally:
        places.remove(other)
        other.down()


def test_start_says_that_the_port_is_taken(cluster):
    cluster.script("install")
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", cluster.port))
        taken.listen()
        result = cluster.script("start", check=False)
    assert not result.ok and f"port {cluster.port} is in use" in result.stderr
    assert cluster.processes() == []
    cluster.script("start")
    assert json.loads(cluster.tool("flmping", "-t", "5", "--output", "json").stdout)["succeeded"] == 5
