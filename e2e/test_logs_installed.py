"""What services write in units of systemd: in the journal of their node, and read from another node."""

import json

import pytest
import talking
from machine import AGENT, BIN, MANAGER, PREFIX
from testbed import wait_until

pytestmark = pytest.mark.nodes

SECONDS = 60
# Says one line on each output when it starts, and goes on saying lines while it serves.
SERVICE = f"""#!/bin/sh
echo out of a service
echo err of a service >&2
(number=0; while sleep 0.1; do number=$((number + 1)); echo tick $number >&2; done) &
exec {PREFIX}/bin/flmexec-service
"""


@pytest.fixture(scope="module")
def fleet(make_bed):
    """A machine with everything, and one that only asks and works, too."""
    whole, worker = make_bed("whole", "worker")
    endpoint = f"http://{whole.address}:8080"
    for machine in (whole, worker):
        machine.endpoint = endpoint
        machine.node.write("/opt/talks", SERVICE, "755")
    whole.install("--all", "--enable", "--endpoint", endpoint)
    worker.install("--worker", "--enable", "--endpoint", endpoint)
    whole.wait_ready("whole", "worker")
    whole.tool("flmctl", "register", "application", "talks", "--command", "/opt/talks")
    worker.node.write("/opt/numbers", talking.script(f"{PREFIX}/bin"), "755")
    whole.tool("flmctl", "register", "application", "numbers", "--command", "/opt/numbers")
    return whole, worker


def logs(machine, *words):
    out = machine.tool("flmctl", "logs", *words, "-o", "json").stdout
    return [json.loads(line) for line in out.splitlines()]


def test_a_log_is_in_the_journal_and_followed_live_from_another_node(fleet):
    whole, worker = fleet
    for node, reader in ((whole, worker), (worker, whole)):
        session = whole.tool(
            "flmctl", "create", "session", "-a", "talks", "--resreq", "cpu=1,mem=64m", "--max-instances", "1"
        ).stdout.strip()
        other = worker if node is whole else whole
        whole.tool("flmctl", "cordon", str(other))
        text = json.dumps({"language": "shell", "code": "true"})
        whole.tool("flmctl", "create", "task", "-s", session, "--text", text, "--wait")
        whole.tool("flmctl", "uncordon", str(other))

        follow = f"{BIN}/flmctl logs -f -s {session} -o json | grep --max-count=1 'tick [0-9]*00\"'"
        found = reader.run(
            ["sh", "-c", follow], check=False, timeout=SECONDS, env={"FLAME_ENDPOINT": reader.endpoint}
        )
        assert found.ok, (found, logs(reader, "-s", session))
        line = json.loads(found.stdout)
        assert line["node"] == str(node) and line["output"] == "err", line

        whole.tool("flmctl", "close", "-s", session)
        lines = logs(reader, "-s", session)
        said = [(line["output"], line["text"]) for line in lines]
        assert said.count(("out", "out of a service")) == said.count(("err", "err of a service")) == 1, said
        assert ("err", "tick 1") in said and {line["node"] for line in lines} == {str(node)}
        in_journal = node.node.journal("-u", "flame-executor@*", "--output=cat")
        assert "out of a service" in in_journal and "tick 1" in in_journal


def test_readers_leave_no_process_behind(fleet):
    whole, worker = fleet

    def readers():
        return whole.run(["pgrep", "--exact", "journalctl"], check=False).stdout.split()

    wait_until(lambda: not readers(), SECONDS, "no journalctl on the node")


def test_the_log_of_an_agent_is_that_of_its_unit(fleet):
    whole, worker = fleet
    lines = [line["text"] for line in logs(whole, "--node", "worker")]
    assert any("registered with cluster" in line for line in lines), lines
    assert worker.active(AGENT)


class Follower:
    """`flmctl logs -f` on a machine, which goes on while the test does something else."""

    def __init__(self, machine, name, *words):
        self.machine = machine
        self.path = f"/tmp/follower-{name}"
        command = f"{BIN}/flmctl logs -f {' '.join(words)} -o json >{self.path} 2>&1 </dev/null"
        self.pid = machine.run(
            ["sh", "-c", f"({command}; echo $? >{self.path}.status) >/dev/null 2>&1 & echo $!"],
            env={"FLAME_ENDPOINT": machine.endpoint},
        ).stdout.strip()

    def entries(self):
        whole = self.machine.run(["cat", self.path]).stdout.rpartition("\n")[0]
        return [json.loads(line) for line in whole.splitlines()]

    def lines(self):
        return [entry for entry in self.entries() if "note" not in entry]

    def notes(self):
        return [entry["note"] for entry in self.entries() if "note" in entry]

    def status(self):
        """Its exit status, once it has ended."""
        return self.machine.run(["cat", f"{self.path}.status"], check=False).stdout.strip()


def shown(entries):
    """Lines and notes of `logs`."""
    return [entry for entry in entries if "note" not in entry], [
        (entry["note"], entry["node"]) for entry in entries if "note" in entry
    ]


def test_what_is_followed_in_the_journal_comes_once_whatever_happens_to_the_session_manager(fleet):
    whole, worker = fleet
    whole.tool("flmctl", "cordon", "whole")
    size = ("--resreq", "cpu=1,mem=64m", "--min-instances", "1", "--max-instances", "1")
    session = whole.tool("flmctl", "create", "session", "-a", "numbers", *size).stdout.strip()
    followers = [Follower(whole, "all", "-s", session), Follower(worker, "there", "-s", session)]
    wait_until(lambda: all(follower.lines() for follower in followers), SECONDS, "each reads")
    followers += [
        Follower(whole, "new", "-s", session, "-n", "0"),
        Follower(whole, "agent", "--node", "worker", "-n", "0"),
    ]
    wait_until(followers[2].lines, SECONDS, "what is new is read")
    for count in (1, 2):
        since = len(followers[0].lines())
        whole.run(["systemctl", "kill", "--signal=KILL", MANAGER])

        def said(note, count=count):
            return all(follower.notes().count(note) == count for follower in followers)

        def goes_on(since=since):
            return len(followers[0].lines()) > since

        wait_until(lambda said=said: said("connection_lost"), SECONDS, "the loss is said")
        wait_until(lambda said=said: said("connection_back"), SECONDS, "all are connected again")
        wait_until(goes_on, SECONDS, "more lines")
        wait_until(
            lambda count=count: (
                sum("registered with" in line["text"] for line in followers[3].lines()) == count
            ),
            SECONDS,
            "the log of the agent goes on, too",
        )
    text = json.dumps({"language": "shell", "code": "sleep 1"})
    for _ in range(2):
        whole.tool("flmctl", "create", "task", "-s", session, "--text", text, "--wait")
    whole.tool("flmctl", "close", "-s", session)
    wait_until(
        lambda: [follower.status() for follower in followers[:3]] == ["0"] * 3, SECONDS, "they end with it"
    )
    kept, notes = shown(logs(worker, "-s", session))
    assert notes == [] and len(talking.numbers(kept)) == 2

    def order(line):
        return line["time"], line["output"], line["text"]

    for follower in followers[:2]:
        assert sorted(follower.lines(), key=order) == sorted(kept, key=order)
        talking.assert_each_once(follower.lines())
    talking.assert_each_once(followers[2].lines(), from_start=False)
    for output, said in talking.numbers(followers[2].lines()).items():
        assert said[0] > 1 and said[-1] == talking.numbers(kept)[output][-1], output

    # The same session, which is over, in parts.
    last, _ = shown(logs(whole, "-s", session, "-n", "7"))
    assert last == kept[-7:]
    assert shown(logs(whole, "-s", session, "--node", "worker")) == (kept, [])
    words = ("logs", "-s", session, "--node", "whole")
    refused = whole.tool("flmctl", *words, check=False)
    assert not refused.ok and "node whole has no lines of the session" in refused.stderr, refused
    of_tasks = [shown(logs(whole, "-s", session, "-t", str(task)))[0] for task in (1, 2)]
    for lines in of_tasks:
        talking.assert_each_once(lines, from_start=False)
        assert 40 < len(lines) < len(kept) / 2, len(lines)
        assert lines == [line for line in kept if line in lines]
    assert of_tasks[0][-1]["time"] <= of_tasks[1][5]["time"]
    whole.tool("flmctl", "uncordon", "whole")

    # The agent's log is read by whoever asks until somebody stops it.
    of_agent = [line["text"] for line in followers[3].lines()]
    journal = [line["text"] for line in logs(whole, "--node", "worker")]
    assert len(of_agent) >= 2 and journal[-len(of_agent) :] == of_agent
    assert followers[3].status() == ""
    whole.run(["pkill", "--signal", "INT", "--parent", followers[3].pid])
    wait_until(lambda: followers[3].status() == "130", SECONDS, "an interrupt ends it")


def test_a_node_that_is_gone_is_named_and_the_rest_is_shown(fleet):
    whole, worker = fleet
    size = ("--resreq", "cpu=1,mem=64m", "--min-instances", "1", "--max-instances", "1")
    sessions = []
    for other in ("worker", "whole"):
        whole.tool("flmctl", "cordon", other)
        session = whole.tool("flmctl", "create", "session", "-a", "talks", *size).stdout.strip()
        sessions.append(session)

        def writes(session=session):
            return whole.tool("flmctl", "logs", "-s", session, check=False).ok

        wait_until(writes, SECONDS, "it writes")
        whole.tool("flmctl", "close", "-s", session)
        whole.tool("flmctl", "uncordon", other)
    on_whole, on_worker = sessions
    worker.run(["systemctl", "stop", AGENT])
    # Nor does a session manager that was started anew forget where a session ran.
    whole.run(["systemctl", "restart", MANAGER])
    whole.wait_ready("whole")
    missing = whole.tool("flmctl", "logs", "-s", on_worker, "-o", "json", check=False)
    assert not missing.ok and json.loads(missing.stderr)["error"]["code"] == "node_away", missing
    assert "node worker is not connected" in missing.stderr
    lines, notes = shown(logs(whole, "-s", on_whole))
    assert lines and notes == []
    worker.run(["systemctl", "start", AGENT])
    whole.wait_ready("whole", "worker")
    lines, notes = shown(logs(whole, "-s", on_worker))
    assert lines and notes == []
