"""What services write, read through the session manager: of all nodes, live and later, and a lot of it."""

import contextlib
import json
import os
import re
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
import talking
from testbed import wait_until

SECONDS = 60
FLOOD_MIB = 100
# What flmctl may read at the same time from one address, and how many want to.
READERS_ALLOWED, READERS = 8, 20
# What readers who do not read may cost the session manager and the agent.
GROWTH_MIB = 16


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
        (("--node", "n1", "-f"), "node_failed"),
        (("-s", session, "--node", "n1"), "nothing_kept"),
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

    def lines(self):
        return [entry for entry in list(self.entries) if "note" not in entry]

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


@pytest.fixture(scope="module")
def talks(cluster):
    """An application whose service writes all the time."""
    path = cluster.prefix / "talks"
    path.write_text(talking.script(cluster.prefix / "bin"))
    path.chmod(0o755)
    cluster.tool("flmctl", "register", "application", "talks", "--command", str(path))
    return "talks"


def test_what_is_followed_comes_once_whatever_happens_to_the_session_manager(fleet, cluster, talks):
    size = ("--resreq", "cpu=1,mem=1m", "--min-instances", "2", "--max-instances", "2")
    session = cluster.tool("flmctl", "create", "session", "-a", talks, *size).stdout.strip()
    with contextlib.ExitStack() as stack:
        whole = stack.enter_context(Follower(cluster, "-s", session))

        def both_write(since=0):
            return {line["node"] for line in whole.lines()[since:]} == {"n1", "n2"}

        wait_until(both_write, SECONDS, "lines of both nodes")
        new = stack.enter_context(Follower(cluster, "-s", session, "-n", "0"))
        last = stack.enter_context(Follower(cluster, "-s", session, "-n", "5", "--node", "n2"))
        followers = (whole, new, last)
        for number in range(4):
            wait_until(lambda: all(follower.lines() for follower in followers), SECONDS, "each reads")
            if number < 3:
                fleet.manager.kill()
            else:
                fleet.manager.stop()

            def said(note, count=number + 1):
                return all(follower.notes().count((note, None)) == count for follower in followers)

            wait_until(lambda said=said: said("connection_lost"), SECONDS, "the loss is said")
            since = len(whole.lines())
            fleet.manager.start()
            wait_until(lambda said=said: said("connection_back"), SECONDS, "all are connected again")
            wait_until(lambda since=since: both_write(since), SECONDS, "lines of both nodes once more")
        wait_until(fleet.all_ready, SECONDS, "all nodes are back")
        close(cluster, session)
        assert [follower.ended() for follower in followers] == [0, 0, 0]
    kept, notes = logs(cluster, "-s", session)
    assert notes == [] and len(talking.numbers(kept)) == 4

    def order(line):
        return line["time"], line["node"], line["executor"], line["output"]

    assert sorted(whole.lines(), key=order) == sorted(kept, key=order)
    talking.assert_each_once(whole.lines())
    for follower in (new, last):
        talking.assert_each_once(follower.lines(), from_start=False)
        for output, said in talking.numbers(follower.lines()).items():
            assert said[-1] == talking.numbers(kept)[output][-1], output
    assert {line["node"] for line in last.lines()} == {"n2"}
    assert not any(note == "lines_missing" for follower in followers for note, _ in follower.notes())

    # A session manager that was started anew knows where the session ran before it hears of the nodes.
    gone = fleet.agents[1]
    gone.kill()
    fleet.manager.kill()
    fleet.manager.start()

    def only_the_other():
        return [node["name"] for node in fleet.nodes() if node["state"] == "Ready"] == ["n1"]

    wait_until(only_the_other, SECONDS, "one node is back")
    rest, notes = logs(cluster, "-s", session)
    assert rest == [line for line in kept if line["node"] == "n1"]
    assert [(note["note"], note["node"]) for note in notes] == [("node_away", "n2")]
    gone.start()
    wait_until(fleet.all_ready, SECONDS, "both nodes are back")


def resident(daemon):
    """MiB of a daemon's memory."""
    pages = int(Path(f"/proc/{daemon.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def test_readers_who_do_not_read_cost_nothing_and_are_limited(make_fleet):
    one_node = make_fleet({"n1": "cpu=1,mem=1g"}).up()
    cluster = one_node.cluster
    session = create(cluster, "--max-instances", "1")
    add(cluster, session, SAY.format("first"), "--wait")
    with contextlib.ExitStack() as stack:
        readers = [stack.enter_context(Follower(cluster, "-s", session)) for _ in range(READERS_ALLOWED)]
        wait_until(lambda: all("say first" in reader.said() for reader in readers), SECONDS, "all read")
        for _ in range(READERS - READERS_ALLOWED):
            refused = cluster.tool("flmctl", "logs", "-f", "-s", session, "-o", "json", check=False)
            error = json.loads(refused.stderr)["error"]
            assert not refused.ok and error["code"] == "resource_exhausted", refused
            assert f"{READERS_ALLOWED} logs are read by this address" in error["message"], error
        for reader in readers:
            reader.process.send_signal(signal.SIGSTOP)
        daemons = (one_node.manager, one_node.agents[0])
        before = [resident(daemon) for daemon in daemons]
        line = "x" * 99
        add(cluster, session, f"yes {line} | head -c {FLOOD_MIB}M >/proc/$PPID/fd/2", "--wait")
        grown = [resident(daemon) - former for daemon, former in zip(daemons, before, strict=True)]
        print(f"before {before}, grown {grown} MiB")
        assert max(grown) < GROWTH_MIB, f"session manager and agent: {grown} MiB more than {before}"
        # They read on, and one that goes away makes room.
        for reader in readers:
            reader.process.send_signal(signal.SIGCONT)
        wait_until(
            lambda: all(("lines_missing", "n1") in reader.notes() for reader in readers),
            SECONDS,
            "all read on",
        )
        readers[0].process.kill()

        def there_is_room():
            return cluster.tool("flmctl", "logs", "-s", session, "-n", "1", check=False).ok

        wait_until(there_is_room, SECONDS, "room for another")
    close(cluster, session)
