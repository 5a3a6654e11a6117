"""What monitoring sees: metrics and health over HTTP, gRPC health, the journal's fields and message ids."""

import json
import re
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import grpc
import pytest
from cluster import METRICS_DISTANCE, LocalCluster, bin_dir
from machine import AGENT, MANAGER, whole
from smalldisk import SmallDisk, why_not
from supervisor import Supervisor
from testbed import wait_until
from testbed.command import run

TASKS = 20_000
SERVING = b"\x08\x01"
NOT_SERVING = b"\x08\x02"
DISK = 8 << 20
# What is shorter than 3 s counts as time, and what is longer than 30 s is a case for the watchdog.
STALL_SECONDS = 6
PAGE = Path(__file__).resolve().parent.parent / "docs/observability.md"


def get(port, path):
    """Status and body of what a port on this machine answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def scrape(cluster):
    """The samples of a cluster's session manager."""
    status, text = get(cluster.port + METRICS_DISTANCE, "/metrics")
    assert status == 200
    lines = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in lines}


def check(cluster, service=b""):
    """The raw answer of the gRPC health service."""
    request = b"\x0a" + bytes([len(service)]) + service if service else b""
    with grpc.insecure_channel(f"127.0.0.1:{cluster.port}") as channel:
        call = channel.unary_unary("/grpc.health.v1.Health/Check")
        return call(request, timeout=10)


def test_metrics_agree_with_the_clients(local_cluster):
    cluster = local_cluster
    before = scrape(cluster)
    seen, reports = [], []
    load = threading.Thread(target=lambda: reports.append(cluster.flmping("-p", "-t", str(TASKS))))
    load.start()
    while load.is_alive():
        seen.append(scrape(cluster))
    load.join()
    assert reports and reports[0]["succeeded"] == TASKS
    after = scrape(cluster)
    grown = {name: after[name] - before.get(name, 0) for name in after}
    assert grown["flame_tasks_created_total"] == TASKS
    assert grown['flame_tasks_ended_total{state="succeeded"}'] == TASKS
    assert grown['flame_tasks_ended_total{state="failed"}'] == 0
    requeued = sum(value for name, value in grown.items() if name.startswith("flame_tasks_requeued_total"))
    assert grown["flame_tasks_handed_out_total"] == TASKS + requeued
    assert grown["flame_commit_records_sum"] >= 2 * TASKS, (
        "each task is stored when it comes and when it ends"
    )
    assert 0 < grown["flame_commit_records_count"] == grown["flame_commit_duration_seconds_count"]
    assert after["flame_records_waiting"] == 0
    assert after['flame_tasks{state="pending",session_state="open"}'] == 0
    assert grown['flame_session_events_total{event="created"}'] == 1

    created = [sample["flame_tasks_created_total"] for sample in [before, *seen, after]]
    assert created == sorted(created), "counters only grow"
    open_tasks = [
        sum(value for name, value in sample.items() if name.startswith("flame_tasks{")) for sample in seen
    ]
    assert max(open_tasks) > 0, "the work was seen while it ran"
    for sample in seen:
        ended = sum(value for name, value in sample.items() if name.startswith("flame_tasks_ended_total"))
        waits = sum(value for name, value in sample.items() if name.startswith("flame_tasks{"))
        assert ended + waits == sample["flame_tasks_created_total"], "one sample is one moment"


def test_metrics_agree_with_flmctl(local_cluster):
    cluster = local_cluster
    session = cluster.tool("flmctl", "create", "session", "-a", "flmping").stdout.split()[0]
    for _ in range(3):
        cluster.tool("flmctl", "create", "task", "-s", session, "--text", '{"duration": 100, "memory": null}')
    wait_until(
        lambda: {task["state"] for task in cluster.flmctl("list", "tasks", "-s", session)} == {"Succeed"},
        30,
        "three tasks done",
    )
    sample = scrape(cluster)
    states = {name: value for name, value in sample.items() if name.startswith("flame_nodes{")}
    assert sum(states.values()) == len(cluster.flmctl("list", "nodes"))
    assert (
        sample["flame_node_links"]
        == sample['flame_nodes{state="ready"}']
        == sample["flame_nodes_taking_work"]
    )
    sessions = [listed["state"] for listed in cluster.flmctl("list", "sessions")]
    assert sample['flame_sessions{state="open"}'] == sessions.count("Open")
    assert sample['flame_sessions{state="closed"}'] == sessions.count("Closed")
    _, text = get(cluster.port + METRICS_DISTANCE, "/metrics")
    assert session not in text, "no label has values without bound"
    cluster.tool("flmctl", "close", "-s", session)


def test_health_is_told_over_http_and_grpc(local_cluster):
    assert get(local_cluster.port + METRICS_DISTANCE, "/healthz") == (200, "ok\n")
    assert get(local_cluster.port + METRICS_DISTANCE, "/secrets")[0] == 404
    for service in (b"", b"flame.v1.Frontend", b"flame.v1.FrontendBatch", b"flame.v1.Control"):
        assert check(local_cluster, service) == SERVING
    with pytest.raises(grpc.RpcError) as refused:
        check(local_cluster, b"flame.v1.Nothing")
    assert refused.value.code() == grpc.StatusCode.NOT_FOUND


def test_a_port_in_use_ends_the_daemon_and_says_what_to_do(local_cluster, places, tmp_path):
    # Its neighbour's ports are free: clusters may have ports side by side.
    other = LocalCluster(port=local_cluster.port + 2)
    places.append(other)
    try:
        other.script("install")
        taken = f"127.0.0.1:{local_cluster.port + METRICS_DISTANCE}"
        config = (other.prefix / "conf/flame-cluster.yaml").read_text()
        path = tmp_path / "flame-cluster.yaml"
        path.write_text(f'{config}  metrics: {{listen: "{taken}"}}\n')
        refused = run([bin_dir() / "flame-session-manager", "--config", path], False, 20, env=other.env)
        assert refused.returncode == 1
        assert f"cannot listen on {taken} for metrics" in refused.stderr
        assert "choose another address in cluster.metrics.listen, or none" in refused.stderr
        other.script("start")
        assert get(other.port + METRICS_DISTANCE, "/healthz") == (200, "ok\n")
        assert other.flmping("-t", "50")["succeeded"] == 50
        other.configure("metrics: {listen: none}")
        other.script("restart")
        assert other.flmping("-t", "50")["succeeded"] == 50
        with pytest.raises(urllib.error.URLError):
            get(other.port + METRICS_DISTANCE, "/healthz")
    finally:
        places.remove(other)
        other.down()


@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
def test_a_full_disk_is_not_healthy(places):
    cluster = LocalCluster()
    places.append(cluster)
    try:
        cluster.up()
        port = cluster.port + METRICS_DISTANCE
        with SmallDisk(cluster.prefix / "data", DISK) as disk:
            supervisor = Supervisor(cluster, disk.within)
            supervisor.kill()
            supervisor.start()
            wait_until(lambda: answers(port), 30, "the manager is back")
            disk.fill()

            def failing():
                # It is noticed when something has to be stored.
                cluster.tool("flmctl", "create", "session", "-a", "flmping", check=False)
                return get(port, "/healthz")[0] == 503

            wait_until(failing, 60, "the manager says that it cannot store")
            assert "nothing new is taken" in get(port, "/healthz")[1]
            wait_until(lambda: check(cluster) == NOT_SERVING, 10, "gRPC says so, too")
            sample = scrape(cluster)
            assert sample["flame_store_failing"] == 1 and sample["flame_commit_failures_total"] >= 1
            assert sample["flame_records_waiting"] >= 1
            disk.empty()
            wait_until(lambda: get(port, "/healthz")[0] == 200, 30, "the manager can store again")
            wait_until(lambda: check(cluster) == SERVING, 10, "gRPC says so, too")
            assert scrape(cluster)["flame_store_failing"] == 0
            supervisor.kill()
    finally:
        places.remove(cluster)
        cluster.down()


def answers(port):
    """Whether there is somebody who says that all is well."""
    try:
        return get(port, "/healthz")[0] == 200
    except OSError:
        return False


def message_ids():
    """The documented table: name of an event -> its MESSAGE_ID."""
    return {
        name: number for number, name in re.findall(r"^\| `(\w{32})` \| (\w+) \|", PAGE.read_text(), re.M)
    }


def journal(machine, *matches):
    """The journal's entries that match, oldest first."""
    lines = machine.run(["journalctl", "--no-pager", "-o", "json", *matches]).stdout.splitlines()
    return [json.loads(line) for line in lines]


def log_filter(machine, unit, text):
    """Has a unit log more from its next start on."""
    machine.drop_in(unit, f"[Service]\nEnvironment=FLAME_LOG={text}\n")


@pytest.mark.nodes
def test_the_journal_has_fields_and_message_ids(make_bed):
    machine = whole(make_bed, "lone")
    ids = message_ids()

    def events(name, *matches):
        return journal(machine, f"MESSAGE_ID={ids[name]}", *matches)

    def await_event(name, *matches):
        wait_until(lambda: events(name, *matches), 30, f"{name} in the journal")
        return events(name, *matches)[-1]

    assert {entry["_SYSTEMD_UNIT"] for entry in events("DaemonReady")} == {MANAGER, AGENT}
    assert await_event("NodeRegistered")["FLAME_NODE"] == "lone"

    # A session that goes well leaves two lines: the journal drops what is above its rate.
    session = machine.tool("flmctl", "create", "session", "-a", "flmping").stdout.split()[0]
    machine.tool(
        "flmctl", "create", "task", "-s", session, "--text", '{"duration": 1, "memory": null}', "--wait"
    )
    machine.tool("flmctl", "close", "-s", session)
    await_event("SessionClosed", f"FLAME_SESSION={session}")
    wait_until(lambda: machine.flmctl("list", "executors") == [], 30, "no executor left")
    lines = [entry["MESSAGE_ID"] for entry in journal(machine, f"FLAME_SESSION={session}")]
    assert lines == [ids["SessionCreated"], ids["SessionClosed"]]

    # Who looks closely sees what the executors do.
    log_filter(machine, MANAGER, "info,flame_session_manager::notices=debug")
    log_filter(machine, AGENT, "info,flame_node_agent::agent=debug")
    machine.run(["systemctl", "restart", MANAGER, AGENT])
    machine.wait_ready("lone")
    registered = len(events("NodeRegistered"))
    ready = len(events("DaemonReady", f"_SYSTEMD_UNIT={MANAGER}"))

    # A session with a service that dies once.
    session = machine.tool("flmctl", "create", "session", "-a", "flmping").stdout.split()[0]
    mine = f"FLAME_SESSION={session}"
    assert "flmping" in await_event("SessionCreated", mine)["MESSAGE"]
    task = ["create", "task", "-s", session, "--text", '{"duration": 2000, "memory": null}']
    machine.tool("flmctl", *task)
    bound = await_event("ExecutorBound", mine)
    assert (bound["FLAME_NODE"], bound["PRIORITY"]) == ("lone", "7")
    assert bound["FLAME_EXECUTOR"] in bound["MESSAGE"]

    def running():
        return [
            found for found in machine.flmctl("list", "tasks", "-s", session) if found["state"] == "Running"
        ]

    wait_until(running, 30, "the task running")
    machine.run(["pkill", "--signal", "KILL", "--full", "[f]lmping-service"])
    died = await_event("ExecutorDied", mine)
    assert (died["FLAME_EXECUTOR"], died["FLAME_TASK"], died["PRIORITY"]) == (
        bound["FLAME_EXECUTOR"],
        "1",
        "4",
    )
    wait_until(
        lambda: machine.flmctl("list", "tasks", "-s", session)[0]["state"] == "Succeed",
        30,
        "the task done",
    )
    machine.tool("flmctl", "close", "-s", session)
    assert "1 succeeded" in await_event("SessionClosed", mine)["MESSAGE"]
    await_event("ExecutorReleased", mine)
    # Both daemons' lines about the session are found at once.
    units = {entry["_SYSTEMD_UNIT"] for entry in journal(machine, mine)}
    assert units == {MANAGER, AGENT}
    agent_lines = journal(machine, mine, f"_SYSTEMD_UNIT={AGENT}")
    assert all(entry.get("FLAME_NODE") == "lone" for entry in agent_lines if "FLAME_EXECUTOR" in entry)

    # An application that cannot be started.
    machine.tool("flmctl", "register", "application", "broken", "--command", "/nonexistent/service")
    session = machine.tool("flmctl", "create", "session", "-a", "broken").stdout.split()[0]
    machine.tool("flmctl", "create", "task", "-s", session, "--text", "x")
    await_event("ExecutorBindFailed", f"FLAME_SESSION={session}")
    await_event("SessionPaused", f"FLAME_SESSION={session}")

    # The agent goes and comes back; the manager restarts.
    machine.run(["systemctl", "stop", AGENT])
    for name in ("NodeDraining", "NodeLeft"):
        assert await_event(name)["FLAME_NODE"] == "lone"
    assert await_event("DaemonStopping", f"_SYSTEMD_UNIT={AGENT}")["FLAME_NODE"] == "lone"
    machine.run(["systemctl", "start", AGENT])
    machine.wait_ready("lone")
    assert len(events("NodeRegistered")) == registered + 1
    machine.run(["systemctl", "restart", MANAGER])
    await_event("DaemonStopping", f"_SYSTEMD_UNIT={MANAGER}")
    machine.wait_ready("lone")
    assert len(events("DaemonReady", f"_SYSTEMD_UNIT={MANAGER}")) == ready + 1

    # The node is taken out of service and back.
    machine.tool("flmctl", "cordon", "lone", "--reason", "a new kernel")
    assert "a new kernel" in await_event("NodeCordoned", "FLAME_NODE=lone")["MESSAGE"]
    machine.tool("flmctl", "uncordon", "lone")
    assert await_event("NodeUncordoned")["FLAME_NODE"] == "lone"

    # A manager that does not run for a moment says so, and its node is none the worse.
    manager = machine.node.main_pid(MANAGER)
    machine.run(["kill", "-STOP", str(manager)])
    time.sleep(STALL_SECONDS)
    machine.run(["kill", "-CONT", str(manager)])
    stalled = await_event("DaemonStalled")
    assert (stalled["_SYSTEMD_UNIT"], stalled["PRIORITY"]) == (MANAGER, "4")
    assert events("NodeSuspect") == []

    # People see neither numbers nor prefixes in their lines.
    text = machine.run(["journalctl", "--no-pager", "-u", MANAGER, "-o", "cat"]).stdout
    assert not any(number in text for number in ids.values())
    # The port of metrics is not open to the network.
    address = machine.run(["ss", "--listening", "--tcp", "--numeric", "--no-header"]).stdout
    assert re.search(r"127\.0\.0\.1:9080\s", address) and "0.0.0.0:9080" not in address
