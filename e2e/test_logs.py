"""What services write, read through the session manager: of all nodes, live and later, and a lot of it."""

import json
import re
import signal
import subprocess
import threading
import time

import pytest
from testbed import wait_until

SECONDS = 60
FLOOD_MIB = 100


@pytest.fixture(scope="module")
def fleet(make_module_fleet):
    """A manager and two nodes with room for one executor each."""
    return make_module_fleet({"n1": "cpu=1,mem=1g", "n2": "cpu=1,mem=1g"}).up()


@pytest.fixture(scope="module")
def cluster(fleet):
    """The fleet's cluster, with an application that runs shell scripts."""
    return fleet.cluster


def create(cluster, *words):
    size = ("--resreq", "cpu=1,mem=1m")
    return cluster.tool("flmctl", "create", "session", "-a", "flmexec", *size, *words).stdout.strip()


def add(cluster, session, code, *words):
    text = json.dumps({"language": "shell", "code": code})
    return cluster.tool("flmctl", "create", "task", "-s", session, "--text", text, *words)


def close(cluster, *sessions):
    for session in sessions:
        cluster.tool("flmctl", "close", "-s", session, "--cancel-running")
    wait_until(lambda: not cluster.flmctl("list", "executors"), SECONDS, "no executor")


def logs(cluster, *words):
    """Lines and notes of flmctl logs."""
    out = cluster.tool("flmctl", "logs", *words, "-o", "json").stdout
    entries = [json.loads(line) for line in out.splitlines()]
    return [entry for entry in entries if "note" not in entry], [
        entry for entry in entries if "note" in entry
    ]


def texts(lines, start="say"):
    return [line["text"] for line in lines if line["text"].startswith(start)]


# To the standard error of the service: what a script itself writes is the result of its task.
SAY = "echo say {} >/proc/$PPID/fd/2"


def test_lines_of_both_nodes_are_one_log_also_when_the_session_is_over(fleet, cluster):
    session = create(cluster)
    for number in range(6):
        add(cluster, session, f"sleep 0.1; {SAY.format(number)}; sleep 0.2")

    def said():
        return sorted(texts(logs(cluster, "-s", session)[0])) == [f"say {number}" for number in range(6)]

    wait_until(said, SECONDS, "all lines")
    for when in ("while it is open", "closed", "managers and agents are others"):
        lines, notes = logs(cluster, "-s", session)
        assert said() and notes == [], when
        assert {line["node"] for line in lines} == {"n1", "n2"}, when
        assert [line["time"] for line in lines] == sorted(line["time"] for line in lines), when
        assert {line["output"] for line in lines if line["text"].startswith("say")} == {"err"}
        assert len({line["executor"] for line in lines}) == 2
        of_task = texts(logs(cluster, "-s", session, "-t", "3")[0])
        assert of_task == ["say 2"], when
        last = [line["text"] for line in logs(cluster, "-s", session, "-n", "2")[0]]
        assert last == [line["text"] for line in lines][-2:], when
        on_n1 = logs(cluster, "-s", session, "--node", "n1")[0]
        assert on_n1 == [line for line in lines if line["node"] == "n1"], when
        if when == "while it is open":
            close(cluster, session)
        elif when == "closed":
            fleet.stop()
            for daemon in fleet.daemons():
                daemon.start()
            wait_until(fleet.all_ready, SECONDS, "all nodes ready")
    page = cluster.tool("flmctl", "logs", "-s", session, "-n", "1").stdout
    assert re.fullmatch(r"\S+T\S+\.\d{6}\S+ n\d e\S+ (out|err) .*\n", page), page


def test_what_is_not_there_is_an_error(cluster):
    session = create(cluster)
    for words, code in [
        (("-s", "nobody"), "not_found"),
        (("-s", session, "-t", "7"), "not_found"),
        (("-s", session, "--node", "n9"), "not_found"),
        (("--node", "n9"), "not_found"),
        (("-s", session), "nothing_kept"),
        (("--node", "n1"), "node_failed"),
    ]:
        refused = cluster.tool("flmctl", "logs", *words, "-o", "json", check=False)
        assert not refused.ok, words
        assert json.loads(refused.stderr)["error"]["code"] == code, (words, refused.stderr)
    close(cluster, session)


class Follower:
    """`flmctl logs -f`, and all that it has said so far."""

    def __init__(self, cluster, *words):
        command = [cluster.prefix / "bin/flmctl", "logs", "-f", *words, "-o", "json"]
        self.process = subprocess.Popen(
            [str(word) for word in command], env=cluster.env, stdout=subprocess.PIPE, text=True
        )
        self.entries = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        for line in self.process.stdout:
            self.entries.append(json.loads(line))

    def said(self):
        return [entry["text"] for entry in self.entries if "note" not in entry]

    def notes(self):
        return [(entry["note"], entry["node"]) for entry in self.entries if "note" in entry]

    def ended(self):
        status = self.process.wait(SECONDS)
        self._reader.join()
        return status

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self._reader.join()


def test_a_log_is_followed_over_the_loss_of_a_node_until_the_session_is_closed(fleet, cluster):
    session = create(cluster, "--max-instances", "2")
    with Follower(cluster, "-s", session) as follower:
        for number in range(2):
            add(cluster, session, SAY.format(number) + "; sleep 0.5")
        wait_until(lambda: {"say 0", "say 1"} <= set(follower.said()), SECONDS, "lines of both nodes")

        def all_done():
            return {task["state"] for task in cluster.flmctl("list", "tasks", "-s", session)} == {"Succeed"}

        # Else what runs on the node is run, and says what it says, once more.
        wait_until(all_done, SECONDS, "nothing runs")
        lost = fleet.agents[0]
        lost.kill()
        wait_until(lambda: ("node_away", "n1") in follower.notes(), SECONDS, "it is named")
        add(cluster, session, SAY.format("on the other"))
        wait_until(lambda: "say on the other" in follower.said(), SECONDS, "the other node goes on")
        lost.start()
        wait_until(lambda: ("node_back", "n1") in follower.notes(), SECONDS, "it is back")
        wait_until(fleet.all_ready, SECONDS, "it takes work")
        for number in range(4):
            add(cluster, session, SAY.format(f"again {number}") + "; sleep 1")
        wait_until(
            lambda: {f"say again {number}" for number in range(4)} <= set(follower.said()),
            SECONDS,
            "all lines",
        )
        back = {
            entry["node"] for entry in follower.entries if "note" not in entry and "again" in entry["text"]
        }
        assert back == {"n1", "n2"}
        said = [text for text in follower.said() if text.startswith("say")]
        assert len(said) == len(set(said)) == 7, "nothing came twice"
        close(cluster, session)
        assert follower.ended() == 0


def test_a_flood_of_lines_delays_no_task_even_if_nobody_reads_it(make_fleet):
    one_node = make_fleet({"n1": "cpu=2,mem=1g"}).up()
    cluster = one_node.cluster
    session, other = create(cluster, "--max-instances", "1"), create(cluster, "--max-instances", "1")
    line = "x" * 99
    # Stopped: it takes nothing from its connection.
    with Follower(cluster, "-s", session) as reader, Follower(cluster, "-s", session) as stopped:
        stopped.process.send_signal(signal.SIGSTOP)
        flood = add(cluster, session, f"yes {line} | head -c {FLOOD_MIB}M >/proc/$PPID/fd/2").stdout.strip()
        slowest, tasks, begin = 0.0, 0, time.monotonic()
        while cluster.flmctl("view", "task", flood, "-s", session)["state"] != "Succeed" or tasks < 10:
            assert time.monotonic() - begin < SECONDS
            asked = time.monotonic()
            add(cluster, other, "true", "--wait")
            slowest, tasks = max(slowest, time.monotonic() - asked), tasks + 1
        assert slowest < 3, f"{tasks} tasks, the slowest took {slowest:.1f} s"
        assert [node["phase"] for node in one_node.nodes()] == ["Ready"]
        wait_until(lambda: ("lines_missing", "n1") in reader.notes(), SECONDS, "it is told what is missing")
        stopped.process.send_signal(signal.SIGCONT)
    files = sorted((cluster.prefix / "logs/executors").glob("*.err.*"))
    assert len(files) == 2 and sum(path.stat().st_size for path in files) < 17 << 20, files
    close(cluster, session, other)
