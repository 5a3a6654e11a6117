"""flmadm dev: a supervised cluster without systemd and root, in the foreground and in the background."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
from cluster import bin_dir
from dev import END_SECONDS, DevCluster
from testbed import wait_until
from testbed.command import run, wait_for_exit

MANAGER = "flame-session-manager"
AGENT = "flame-node-agent"
NOTHING, NOT_ACTIVE = 3, 5


@pytest.fixture
def make_dev(places):
    """Makes clusters that are not installed yet, and removes them."""
    with contextlib.ExitStack() as stack:

        def make(prefix=None):
            cluster = DevCluster(prefix)
            stack.callback(cluster.remove)
            places.append(cluster)
            stack.callback(places.remove, cluster)
            return cluster

        yield make


@pytest.fixture
def cluster(make_dev):
    """A cluster that is not installed yet."""
    return make_dev()


def listener(port):
    """A program that has the port."""
    taken = socket.socket()
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    taken.bind(("127.0.0.1", port))
    taken.listen()
    return taken


def test_every_command_works_twice_in_the_background(cluster):
    for _ in range(2):
        assert cluster.dev("status", check=False).returncode == NOTHING
        assert "Nothing runs" in cluster.dev("down").stdout
        assert "No logs" in cluster.dev("logs").stdout
    assert list(cluster.prefix.iterdir()) == [], "asking makes nothing"
    first = cluster.up()
    assert f"is ready at {cluster.endpoint} with 1 node" in first.stdout
    before = cluster.status()
    assert before["active"] and [daemon["name"] for daemon in before["daemons"]] == [MANAGER, AGENT]
    assert cluster.flmping(20) == 20
    again = cluster.up()
    assert "runs already" in again.stdout
    assert cluster.status() == before, "nothing was changed"
    assert json.loads(cluster.up("-o", "json").stdout)["started"] is False
    assert cluster.dev("status").returncode == 0
    assert f"{MANAGER}.log" in cluster.dev("logs").stdout
    assert (
        len(json.loads(cluster.dev("logs", AGENT, "-n", "1", "-o", "json").stdout)["logs"][0]["lines"]) == 1
    )
    cluster.dev("restart")
    after = cluster.status()
    assert after["active"] and after["supervisor"] != before["supervisor"]
    supervisor = cluster.supervisor()
    stopped = cluster.dev("down")
    assert stopped.stdout.splitlines()[:2] == [f"  stopped {AGENT}", f"  stopped {MANAGER}"], "agents first"
    assert cluster.processes() == [] and wait_for_exit(supervisor, 1)
    assert "Nothing runs" in cluster.dev("down").stdout
    assert cluster.dev("status", check=False).returncode == NOT_ACTIVE
    for _ in range(2):
        cluster.dev("down", "--clean")
        assert not cluster.prefix.exists()


def test_the_foreground_shows_the_logs_and_ends_with_ctrl_c(cluster):
    process = cluster.foreground()
    assert cluster.flmping(20) == 20
    wait_until(lambda: f"{AGENT}      | " in cluster.said(), 10, "prefixed lines")
    assert f"{MANAGER} | " in cluster.said()
    assert cluster.status()["supervisor"] == process.pid
    assert "runs already" in cluster.up().stdout
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(END_SECONDS) == 0
    assert cluster.processes() == []
    said = cluster.said()
    assert said.index(f"stopped {AGENT}") < said.index(f"stopped {MANAGER}"), "agents first"


def test_the_foreground_is_ended_by_down_and_by_sigterm(cluster):
    process = cluster.foreground()
    cluster.dev("down")
    assert process.wait(END_SECONDS) == 0
    assert cluster.processes() == []
    process = cluster.foreground()
    process.terminate()
    assert process.wait(END_SECONDS) == 0
    assert cluster.processes() == []


@pytest.mark.parametrize("daemon", (MANAGER, AGENT))
def test_a_killed_daemon_is_started_again(cluster, daemon):
    cluster.up()
    before = cluster.daemon(daemon)
    cluster.kill(before["pid"])

    def is_back():
        state = cluster.status()
        return state["active"] and state

    state = wait_until(is_back, 30, "everything runs again")
    after = next(found for found in state["daemons"] if found["name"] == daemon)
    assert after["pid"] != before["pid"]
    assert (after["restarts"], after["last_exit"]) == (1, "signal 9")
    assert cluster.flmping(20) == 20
    assert f"{daemon} ended (signal 9)" in cluster.dev("logs", "supervisor").stdout


def test_a_daemon_that_cannot_live_is_given_up(cluster):
    process = cluster.foreground()
    # What would take its place again cannot run.
    (cluster.prefix / "bin" / MANAGER).unlink()
    cluster.kill(cluster.daemon(MANAGER)["pid"])
    assert process.wait(END_SECONDS) == NOT_ACTIVE
    said = cluster.said()
    assert said.count(f"{MANAGER} ended (") == 5, "the start limit"
    assert f"{MANAGER} ended 6 times within 60 s" in said
    assert f"--- the end of {cluster.prefix}/logs/{MANAGER}.log" in said
    assert cluster.processes() == []


def test_daemons_end_with_a_supervisor_that_was_killed(cluster):
    cluster.up()
    cluster.busy()
    pids = cluster.processes()
    assert len(pids) > 2, "the service is a process of its own"
    cluster.kill(cluster.supervisor())
    assert cluster.dev("status", check=False).returncode == NOT_ACTIVE
    cluster.dev("down")
    assert cluster.processes() == []
    for pid in pids:
        assert wait_for_exit(pid, 1)
    # And again, with an up that finds what is left.
    cluster.up()
    cluster.kill(cluster.supervisor())
    assert "is ready" in cluster.up().stdout
    assert cluster.flmping(5) == 5


def test_down_ends_what_ignores_the_end(cluster):
    cluster.up()
    cluster.busy()
    agent = cluster.daemon(AGENT)["pid"]
    os.kill(agent, signal.SIGSTOP)
    started = time.monotonic()
    cluster.dev("down")
    assert time.monotonic() - started > 14, "it had its time"
    assert cluster.processes() == []
    assert f"{AGENT} has not ended: killing it" in cluster.dev("logs", "supervisor").stdout


def test_several_nodes(cluster):
    cluster.up("--nodes", "3", "--resources", "cpu=2,mem=1g")
    state = cluster.status()
    assert [daemon["name"] for daemon in state["daemons"]] == [MANAGER, *(f"{AGENT}@n{n}" for n in (1, 2, 3))]
    host = socket.gethostname()
    assert {node["name"]: node["state"] for node in state["nodes"]} == {
        f"{host}-n{n}": "Ready" for n in (1, 2, 3)
    }
    assert cluster.flmping(100) == 100
    cluster.dev("restart")
    assert len(cluster.status()["daemons"]) == 4, "as before"
    cluster.dev("down")
    assert cluster.processes() == []


def test_two_clusters_at_once_without_an_endpoint(make_dev):
    first, second = make_dev(), make_dev()
    # So that the usual port is taken, by whomever.
    with contextlib.suppress(OSError):
        usual = listener(8080)
    reports = [json.loads(made.dev("up", "--detach", "-o", "json").stdout) for made in (first, second)]
    endpoints = [report["endpoint"] for report in reports]
    assert len({*endpoints, "http://127.0.0.1:8080"}) == 3, endpoints
    for made, endpoint in zip((first, second), endpoints, strict=True):
        assert made.flmping(10, endpoint) == 10
    first.dev("down")
    assert second.flmping(10, endpoints[1]) == 10
    usual.close()
    # The port is remembered.
    assert json.loads(first.dev("up", "--detach", "-o", "json").stdout)["endpoint"] == endpoints[0]


def test_a_port_in_use_is_named_and_another_can_be_chosen(cluster):
    with listener(cluster.port):
        refused = cluster.up(check=False)
        # By what install looks at first; once it is installed, by the start.
        assert refused.returncode == NOTHING
        assert f"127.0.0.1:{cluster.port} (Frontend) is held by" in refused.stderr
        assert "--endpoint" in refused.stderr
        assert cluster.processes() == []
        other = DevCluster(cluster.prefix).endpoint
        moved = cluster.dev("up", "--detach", "--endpoint", other)
        assert f"is ready at {other}" in moved.stdout
        assert cluster.flmping(5, other) == 5
    refused = cluster.up(check=False)
    assert refused.returncode == 1 and f"runs at {other}" in refused.stderr


def test_a_broken_configuration_is_said_and_nothing_is_started(cluster):
    cluster.up()
    config = cluster.prefix / "conf/flame-cluster.yaml"
    good = config.read_text()
    config.write_text(good + "  nonsense: 1\n")
    refused = cluster.dev("restart", check=False)
    assert refused.returncode == NOTHING and "nonsense" in refused.stderr
    assert cluster.flmping(5) == 5, "what runs is left alone"
    cluster.dev("down")
    refused = cluster.up(check=False)
    assert refused.returncode == NOTHING and "nonsense" in refused.stderr
    assert cluster.processes() == []
    # What only the daemon notices.
    config.write_text(good)
    (cluster.prefix / "conf/node-agent.toml").write_text("[node]\nnonsense = 1\n")
    refused = cluster.up(check=False)
    assert refused.returncode == NOT_ACTIVE
    assert f"{AGENT} cannot use its configuration" in refused.stderr and "nonsense" in refused.stderr
    assert cluster.processes() == []
    (cluster.prefix / "conf/node-agent.toml").unlink()
    cluster.up()


def test_sockets_of_a_long_prefix_have_room(make_dev, tmp_path):
    cluster = make_dev(tmp_path / ("long" * 20))
    before = set(Path("/tmp").glob("flame-*"))
    cluster.up()
    assert cluster.flmping(10) == 10
    made = set(Path("/tmp").glob("flame-*")) - before
    cluster.dev("down")
    assert made and not any(path.exists() for path in made if path.is_dir() and (path / "executors").exists())


def test_nobody_starts_what_is_not_supervised(cluster):
    cluster.up("--no-supervisor")
    assert cluster.status()["supervisor"] is None
    cluster.kill(cluster.daemon(AGENT)["pid"])
    manager = cluster.daemon(MANAGER)["pid"]
    assert cluster.dev("status", check=False).returncode == NOT_ACTIVE
    cluster.up("--no-supervisor")
    assert cluster.daemon(MANAGER)["pid"] == manager, "only what is missing is started"
    assert cluster.flmping(5) == 5


def test_followed_logs_show_what_is_added(cluster):
    cluster.up()
    lines = cluster.prefix / "followed"
    with open(lines, "w") as output:
        follower = subprocess.Popen(
            [bin_dir() / "flmadm", "dev", "logs", "--prefix", cluster.prefix, "-f", "-n", "1"],
            stdin=subprocess.DEVNULL,
            stdout=output,
        )
    try:
        wait_until(lambda: f"{AGENT}.log" in lines.read_text(), 10, "the ends of the logs")
        cluster.kill(cluster.daemon(AGENT)["pid"])
        wait_until(lambda: "is started again" in lines.read_text(), 10, "the supervisor's line")
    finally:
        follower.kill()
        follower.wait()
    lines.unlink()


def test_an_update_keeps_the_data(cluster):
    cluster.up()
    session = run(
        [bin_dir() / "flmctl", "create", "session", "-a", "flmping"],
        env={**os.environ, "FLAME_ENDPOINT": cluster.endpoint},
    ).stdout.split()[0]
    cluster.dev("down")
    (cluster.prefix / "bin/flmping").unlink()
    cluster.up("--bin-dir", bin_dir())
    assert (cluster.prefix / "bin/flmping").exists()
    listing = run(
        [bin_dir() / "flmctl", "list", "sessions", "-o", "json"],
        env={**os.environ, "FLAME_ENDPOINT": cluster.endpoint},
    ).stdout
    assert session in listing
