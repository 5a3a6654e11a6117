"""Closed sessions end up removed, and the state can be carried to another cluster while work goes on."""

import collections
import json
import sqlite3
import subprocess
import time
from contextlib import closing, contextmanager
from datetime import UTC, datetime

from cluster import LocalCluster
from testbed import wait_until

WORK_SECONDS = 120
# The session manager looks at the size of its state that often; twice, with time for the removal.
LOOK_SECONDS = 45


@contextmanager
def installed(places, *settings):
    """A cluster that is installed and not started, with these lines in the part `cluster`."""
    cluster = LocalCluster()
    places.append(cluster)
    try:
        cluster.script("install")
        path = cluster.prefix / "conf/flame-cluster.yaml"
        keys = tuple(f"{line.split(':')[0]}:" for line in settings)
        lines = [line for line in path.read_text().splitlines() if not line.strip().startswith(keys)]
        at = lines.index("cluster:") + 1
        path.write_text("\n".join([*lines[:at], *(f"  {line}" for line in settings), *lines[at:], ""]))
        yield cluster
    finally:
        places.remove(cluster)
        cluster.down()


def sessions(cluster):
    """Ids of all sessions."""
    return [found["id"] for found in cluster.flmctl("list", "sessions")]


def closed_session(cluster, name, *tasks):
    """A closed session of an application that cannot be started, with these files as inputs of tasks."""
    cluster.tool("flmctl", "create", "session", "-a", "never", "-s", name)
    for path in tasks:
        cluster.tool("flmctl", "create", "task", "-s", name, "--input", path)
    cluster.tool("flmctl", "close", "session", name)


def rows(cluster, session):
    """How many tasks of the session with that number are in the state file."""
    with closing(sqlite3.connect(f"file:{cluster.prefix}/data/flame.db?mode=ro", uri=True)) as state:
        return state.execute("SELECT count(*) FROM tasks WHERE key >> 32 = ?", [session]).fetchone()[0]


def squares(cluster, session, tasks):
    """Checks the output of every task."""
    for number in range(1, tasks + 1):
        output = cluster.tool("flmctl", "view", "task", str(number), "-s", session, "--raw").stdout
        assert bytes(json.loads(output)["data"]).decode() == f"{number * number}\n"


def ended(cluster, session):
    """How many tasks of a session have ended."""
    tasks = cluster.flmctl("view", "session", session)["tasks"]
    return tasks["succeed"] + tasks["failed"] + tasks["cancelled"]


def test_a_backup_under_load_is_the_whole_state_of_another_cluster(places, tmp_path):
    squared, pinged = 40, 20_000
    backup = tmp_path / "flame.backup"
    with installed(places) as first:
        first.script("start")
        first.tool("flmctl", "create", "session", "-a", "flmexec", "-s", "squares")
        for number in range(1, squared + 1):
            script = {"language": "shell", "code": f"sleep 0.2; echo $(({number} * {number}))"}
            first.tool("flmctl", "create", "task", "-s", "squares", "--text", json.dumps(script))
        flmping = [first.prefix / "bin/flmping", "-p", "-t", str(pinged), "--output", "json"]
        with subprocess.Popen(flmping, env=first.env, stdout=subprocess.PIPE, text=True) as client:
            wait_until(lambda: len(sessions(first)) == 2, WORK_SECONDS, "flmping's session")
            ping = next(name for name in sessions(first) if name != "squares")
            wait_until(lambda: ended(first, ping) > 0, WORK_SECONDS, "work going on")
            before = ended(first, ping)
            written = first.flmctl("backup", str(backup))
            after = ended(first, ping)
            report = json.loads(client.communicate(timeout=WORK_SECONDS)[0])
        assert report["succeeded"] == pinged, "nobody noticed the backup"
        assert written["size"] == backup.stat().st_size
        originals = {task["id"]: task["output"] for task in first.flmctl("list", "tasks", "-s", ping)}
        assert first.tool("flmctl", "backup", str(backup), check=False).returncode == 1, "it exists"

    with installed(places) as second:
        manager = [
            second.prefix / "bin/flame-session-manager",
            "--config",
            second.prefix / "conf/flame-cluster.yaml",
        ]
        work = second.prefix / "work"
        work.mkdir(exist_ok=True)
        restored = subprocess.run(
            [*manager, "--restore", backup],
            cwd=work,
            env={**second.env, "FLAME_HOME": str(second.prefix)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert "restored 2 sessions" in restored.stdout
        # The tasks that were open run here from now on, with outputs of their own.
        started = datetime.now(UTC)
        second.script("start")
        refused = subprocess.run(
            [*manager, "--restore", backup],
            cwd=work,
            env={**second.env, "FLAME_HOME": str(second.prefix)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert refused.returncode == 1 and "in use by another process" in refused.stderr + refused.stdout
        tasks = second.flmctl("list", "tasks", "-s", ping)
        assert [task["id"] for task in tasks] == [str(number) for number in range(1, len(tasks) + 1)]
        in_backup = [
            task
            for task in tasks
            if task["state"] == "Succeed" and datetime.fromisoformat(task["completion_time"]) < started
        ]
        assert before <= len(in_backup), "what had ended before is in the backup"
        assert all(task["output"] == originals[task["id"]] for task in in_backup)
        # What was open at that moment runs to its end here.
        wait_until(lambda: ended(second, ping) == len(tasks), WORK_SECONDS, "the open tasks of flmping")
        wait_until(lambda: ended(second, "squares") == squared, WORK_SECONDS, "the open tasks of flmexec")
        states = collections.Counter(task["state"] for task in second.flmctl("list", "tasks", "-s", ping))
        assert states == {"Succeed": len(tasks)}, f"{states}; {after} had ended after the backup"
        squares(second, "squares", squared)


def test_without_durable_storage_there_is_no_backup(places, tmp_path):
    with installed(places, "storage: none") as cluster:
        cluster.script("start")
        refused = cluster.tool("flmctl", "backup", str(tmp_path / "backup"), check=False)
        assert refused.returncode == 1 and "in memory only" in refused.stderr
        assert not list(tmp_path.iterdir())


def test_closed_sessions_go_by_number_and_age(places):
    with installed(places, "limits: {max_sessions: 2}", "retention: {max_age: 15s}") as cluster:
        cluster.script("start")
        cluster.tool("flmctl", "register", "application", "never", "--command", "/bin/false")
        cluster.tool("flmctl", "create", "session", "-a", "never", "-s", "open")
        started = time.monotonic()
        for name in ("a", "b", "c", "d"):
            closed_session(cluster, name)
        if time.monotonic() - started < 10:
            assert sessions(cluster) == ["open", "c", "d"], "more than two, and the first go first"
        wait_until(lambda: sessions(cluster) == ["open"], LOOK_SECONDS, "only the open session is left")
        assert time.monotonic() - started >= 15


def test_closed_sessions_go_when_the_state_is_too_large(places, tmp_path):
    payload = tmp_path / "payload"
    payload.write_bytes(bytes(range(256)) * 4096)
    with installed(places, "retention: {max_size: 8M}") as cluster:
        cluster.script("start")
        cluster.tool("flmctl", "register", "application", "never", "--command", "/bin/false")
        for name in ("a", "b"):
            closed_session(cluster, name, *[payload] * 5)
        wait_until(lambda: sessions(cluster) == ["b"], LOOK_SECONDS, "the older session is removed")
        wait_until(lambda: rows(cluster, 1) == 0, LOOK_SECONDS, "its rows are deleted")
        assert rows(cluster, 2) == 5
        output = cluster.tool("flmctl", "view", "task", "5", "-s", "b", "-o", "json").stdout
        assert json.loads(output)["input_size"] == payload.stat().st_size


def test_a_large_session_is_deleted_while_others_work(places):
    tasks = 60_000
    with installed(places) as cluster:
        cluster.script("start")
        assert cluster.flmping("-p", "-t", str(tasks))["succeeded"] == tasks
        (large,) = sessions(cluster)
        with subprocess.Popen(
            [cluster.prefix / "bin/flmping", "-p", "-t", "10000", "--output", "json"],
            env=cluster.env,
            stdout=subprocess.PIPE,
            text=True,
        ) as client:
            wait_until(lambda: len(sessions(cluster)) == 2, WORK_SECONDS, "the second session")
            cluster.tool("flmctl", "delete", "session", large)
            assert large not in sessions(cluster), "gone at once"
            report = json.loads(client.communicate(timeout=WORK_SECONDS)[0])
        assert report["succeeded"] == 10_000
        # The session manager stops while it deletes, and goes on where it was.
        cluster.script("stop")
        cluster.script("start")
        wait_until(lambda: rows(cluster, 1) == 0, WORK_SECONDS, "all rows are deleted")
        assert rows(cluster, 2) == 10_000
        assert large not in sessions(cluster)
