"""What services write in units of systemd: in the journal of their node, and read from another node."""

import json

import pytest
from machine import AGENT, BIN, PREFIX
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
    whole.flame("flmctl", "register", "application", "talks", "--command", "/opt/talks")
    return whole, worker


def logs(machine, *words):
    out = machine.flame("flmctl", "logs", *words, "-o", "json").stdout
    return [json.loads(line) for line in out.splitlines()]


def test_a_log_is_in_the_journal_and_followed_live_from_another_node(fleet):
    whole, worker = fleet
    for node, reader in ((whole, worker), (worker, whole)):
        session = whole.flame(
            "flmctl", "create", "session", "-a", "talks", "--resreq", "cpu=1,mem=64m", "--max-instances", "1"
        ).stdout.strip()
        other = worker if node is whole else whole
        whole.flame("flmctl", "cordon", str(other))
        text = json.dumps({"language": "shell", "code": "true"})
        whole.flame("flmctl", "create", "task", "-s", session, "--text", text, "--wait")
        whole.flame("flmctl", "uncordon", str(other))

        follow = f"{BIN}/flmctl logs -f -s {session} -o json | grep --max-count=1 'tick [0-9]*00\"'"
        found = reader.run(
            ["sh", "-c", follow], check=False, timeout=SECONDS, env={"FLAME_ENDPOINT": reader.endpoint}
        )
        assert found.ok, (found, logs(reader, "-s", session))
        line = json.loads(found.stdout)
        assert line["node"] == str(node) and line["output"] == "err", line

        whole.flame("flmctl", "close", "-s", session)
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
