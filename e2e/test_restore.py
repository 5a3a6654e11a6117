"""The backup of an uninstall is taken up by an installation, or refused before anything is written."""

import json

import pytest
from machine import FLMADM, PREFIX, difference, whole
from pings import create_tasks, session, wait_done
from testbed import wait_until

pytestmark = pytest.mark.nodes

NODE = "restored"
INSTALLATION = 3
TASKS = 5
START_SECONDS = 30
CONFIG = f"{PREFIX}/conf/flame-cluster.yaml"
# What is done to a backup in $B, and what is told then.
DAMAGES = [
    ("truncate -s -1 $B/data/flame.db", "data/flame.db was changed"),
    ("rm $B/data/flame.db", "data/flame.db is missing"),
    ("touch $B/data/flame.db-wal", "data/flame.db-wal was not in it"),
    ("sed -i s/^/x/ $B/nodes/*/node-id", "node-id was changed"),
    ("echo '  polices: []' >> $B/conf/flame-cluster.yaml", "polices"),
    ("echo '[rutime]' >> $B/conf/node-agent.toml", "rutime"),
    ("echo '[[' >> $B/manifest.toml", "manifest.toml is broken"),
    ("rm -r $B/conf $B/data $B/nodes", "is no backup"),
]


@pytest.fixture(scope="module")
def machine(make_bed):
    """A node from which Flame was removed with a backup, and what was there before."""
    machine = whole(make_bed, NODE)
    machine.run([FLMADM, "config", "set", "cluster.limits.max_sessions", "77", "--restart"])
    machine.wait_ready(NODE)
    done = session(machine)
    create_tasks(machine, done, TASKS, 1)
    wait_done(machine, done, TASKS)
    machine.records = records(machine, done)
    machine.session = done
    machine.config = machine.node.read(CONFIG)
    report = machine.run([FLMADM, "uninstall", "--force", "-o", "json"]).stdout
    machine.backup = json.loads(report)["backup"]
    assert machine.backup.startswith(f"{PREFIX}.backup.")
    assert not machine.run(["test", "-e", PREFIX], check=False).ok
    return machine


def records(machine, of):
    """All that the session manager knows of the sessions, and of the tasks of one."""
    return machine.flmctl("list", "sessions"), machine.flmctl("list", "tasks", "-s", of)


def restore(machine, backup, *words):
    """Installs what was backed up."""
    return machine.install("--restore", backup, *words, check=False)


def test_a_broken_backup_is_refused_before_anything_is_written(machine):
    before = machine.files()
    broken = "/var/tmp/broken"
    for damage, told in DAMAGES:
        machine.run(["cp", "--archive", machine.backup, broken])
        machine.run(["sh", "-c", damage], env={"B": broken})
        result = restore(machine, broken, "--enable")
        assert result.returncode == INSTALLATION and told in result.stderr, result
        machine.run(["rm", "-r", broken])
    assert difference(before, machine.files()) == []


def test_records_and_configuration_are_back(machine):
    result = restore(machine, machine.backup, "--enable")
    assert result.ok, result
    machine.wait_ready(NODE)
    assert machine.node.read(CONFIG) == machine.config
    known = json.loads(
        machine.run([FLMADM, "config", "get", "cluster.limits.max_sessions", "-o", "json"]).stdout
    )
    assert "77" in json.dumps(known)
    wait_until(
        lambda: machine.tool("flmctl", "list", "sessions", check=False).ok, START_SECONDS, "the sessions"
    )
    sessions, tasks = records(machine, machine.session)
    assert tasks == machine.records[1]
    before = {each["id"]: each for each in machine.records[0]}
    after = {each["id"]: each for each in sessions}
    assert {name: after.get(name) for name in before} == before
    machine.flmping("-t", "10")


def test_what_is_preserved_is_taken_up(machine):
    """Data that stays in its place belongs to the same node, too."""
    machine.run([FLMADM, "uninstall", "--force", "--no-backup", "--preserve-data", "--preserve-config"])
    machine.install("--all", "--enable")
    machine.wait_ready(NODE)
    assert machine.node.read(CONFIG) == machine.config
    assert records(machine, machine.session)[1] == machine.records[1]
    machine.flmping("-t", "10")


def test_a_backup_is_not_mixed_with_what_is_there(machine):
    before = machine.show("flame-session-manager.service", "InvocationID")
    result = restore(machine, machine.backup)
    assert result.returncode == INSTALLATION and "is there already" in result.stderr, result
    assert machine.show("flame-session-manager.service", "InvocationID") == before
