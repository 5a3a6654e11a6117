"""flmadm's verbs of daily life on a real systemd machine: services, status, logs, settings and drift."""

import json
import time

import pytest
from machine import AGENT, FLMADM, MANAGER, PREFIX, whole

pytestmark = pytest.mark.nodes

CONFIG = f"{PREFIX}/conf/flame-cluster.yaml"
# An ordinary user: nobody is on every machine, and has no groups that may read the journal.
AS_USER = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
STATUS_SECONDS = 1.0


@pytest.fixture(scope="module")
def machine(make_bed):
    """One node with everything."""
    return whole(make_bed, "verbs")


@pytest.fixture(autouse=True)
def running(machine):
    """Everything runs, whatever an earlier test did."""
    flmadm(machine, "start")
    machine.wait_ready("verbs")


def flmadm(machine, *words, check=True, user=False):
    return machine.run([*(AS_USER if user else ()), FLMADM, *words], check=check)


def document(machine, *words, **options):
    return json.loads(flmadm(machine, *words, "-o", "json", **options).stdout)


def test_stop_returns_when_nothing_runs_and_start_when_everything_works(machine):
    before = {unit: machine.node.main_pid(unit) for unit in (MANAGER, AGENT)}
    stopped = document(machine, "stop")
    assert all(unit["active_state"] == "inactive" for unit in stopped["units"]), stopped
    left = machine.run(["pgrep", "--list-full", "--uid", "flame"], check=False).stdout
    assert left == "", f"processes outlive flmadm stop: {left}"
    status = flmadm(machine, "status", check=False)
    assert status.returncode == 5 and "does not answer" in status.stdout
    assert "already inactive" in flmadm(machine, "stop").stdout
    started = document(machine, "start")
    assert [unit["name"] for unit in started["units"]] == [MANAGER, AGENT, "flame.target"]
    assert all(unit["active_state"] == "active" and unit["changed"] for unit in started["units"]), started
    for unit, pid in before.items():
        assert machine.node.main_pid(unit) not in (0, pid)
    machine.wait_ready("verbs")


def test_one_service_is_restarted_by_its_short_name(machine):
    before = {unit: machine.node.main_pid(unit) for unit in (MANAGER, AGENT)}
    flmadm(machine, "restart", "node-agent")
    assert machine.node.main_pid(AGENT) != before[AGENT]
    assert machine.node.main_pid(MANAGER) == before[MANAGER]
    wrong = flmadm(machine, "restart", "node-agnet", check=False)
    assert wrong.returncode == 1 and AGENT in wrong.stderr


def test_units_are_enabled_and_disabled(machine):
    def enabled():
        return machine.run(["systemctl", "is-enabled", AGENT], check=False).stdout.strip()

    assert document(machine, "disable", "node-agent")["units"][0]["unit_file_state"] == "disabled"
    assert enabled() == "disabled" and machine.active(AGENT)
    flmadm(machine, "enable")
    assert enabled() == "enabled"


def test_a_service_that_does_not_start_shows_why(machine):
    good = machine.node.read(CONFIG)
    flmadm(machine, "stop", "session-manager")
    machine.node.write(CONFIG, "cluster: [")
    failed = flmadm(machine, "start", "session-manager", check=False)
    assert failed.returncode == 5 and "flame-cluster.yaml" in failed.stderr, failed.stderr
    checked = flmadm(machine, "config", "check", check=False)
    assert checked.returncode == 3
    machine.node.write(CONFIG, good)
    flmadm(machine, "config", "check")


def test_status_is_for_everybody_and_quick(machine):
    began = time.monotonic()
    status = document(machine, "status", user=True)
    assert time.monotonic() - began < STATUS_SECONDS
    assert [port["answers"] for port in status["ports"]] == [True] * 3, status["ports"]
    assert [(node["name"], node["state"]) for node in status["nodes"]] == [("verbs", "ready")]
    units = {unit["name"]: unit for unit in status["units"]}
    for unit in (MANAGER, AGENT):
        assert units[unit]["program"] == "current" and units[unit]["unit_file_state"] == "enabled"


def test_a_replaced_program_is_old_until_the_restart(machine):
    program = f"{PREFIX}/bin/flame-session-manager"
    machine.run(["sh", "-c", f"cp -p {program} {program}.new && mv {program}.new {program}"])

    def runs(user):
        units = document(machine, "status", user=user)["units"]
        return next(unit["program"] for unit in units if unit["name"] == MANAGER)

    assert (runs(user=False), runs(user=True)) == ("old", "old")
    flmadm(machine, "restart", "session-manager")
    assert (runs(user=False), runs(user=True)) == ("current", "current")
    flmadm(machine, "verify")


def test_logs_show_the_lines_of_the_services(machine):
    lines = [
        json.loads(line) for line in flmadm(machine, "logs", "-n", "500", "-o", "json").stdout.splitlines()
    ]
    assert {MANAGER, AGENT} <= {line["unit"] for line in lines}
    only = flmadm(machine, "logs", "session-manager", "-n", "3").stdout.splitlines()
    assert only and all("flame-session-manager" in line for line in only if not line.startswith(" "))
    assert flmadm(machine, "logs", "--since", "1h", "-n", "2", "-o", "json").stdout.count("\n") == 2
    # A user without the right is told so, and not that there are no lines.
    refused = flmadm(machine, "logs", check=False, user=True)
    assert refused.returncode == 4 and "systemd-journal" in refused.stderr, refused.stderr


def test_a_setting_takes_effect_after_the_restart(machine):
    before = machine.node.main_pid(MANAGER), machine.node.main_pid(AGENT)
    report = document(machine, "config", "set", "cluster.metrics.listen", "127.0.0.1:9099", "--restart")
    assert report["restart"] == [MANAGER] and report["restarted"]
    assert machine.node.main_pid(MANAGER) != before[0] and machine.node.main_pid(AGENT) == before[1]
    read = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:9099/metrics').status)"
    assert machine.run(["python3", "-c", read]).stdout.strip() == "200"
    text = machine.node.read(CONFIG)
    assert "# Where the session manager is reached" in text, "comments stay"
    assert flmadm(machine, "config", "get", "cluster.metrics.listen", user=True).stdout == "127.0.0.1:9099\n"
    flmadm(machine, "config", "unset", "cluster.metrics.listen", "--restart")
    labels = document(machine, "config", "set", "node.labels", '["zone=a"]', "--restart")
    assert labels["restart"] == [AGENT]
    machine.wait_ready("verbs")
    nodes = machine.flmctl("list", "nodes")
    assert nodes[0]["labels"] == ["zone=a"], nodes
    kind = document(machine, "config", "get", "runtime.kind", user=True)
    assert (kind["value"], kind["from"]) == ("systemd", "FLAME_NODE_RUNTIME of the unit")


def test_a_setting_that_cannot_be_used_is_refused(machine):
    before = machine.node.read(CONFIG)
    for words in (
        ("cluster.endpoint", "ftp://x"),
        ("cluster.limits.max_executors", "0"),
        ("cluster.nam", "x"),
    ):
        assert flmadm(machine, "config", "set", *words, check=False).returncode == 1, words
    # The first of them would do alone.
    pair = ("cluster.name", "x", "cluster.limits.max_executors", "0")
    assert flmadm(machine, "config", "set", *pair, check=False).returncode == 1
    assert flmadm(machine, "config", "set", "cluster.name", "x", check=False, user=True).returncode == 3
    assert machine.node.read(CONFIG) == before


def test_users_may_not_change_services(machine):
    for verb in ("start", "stop", "restart", "enable", "disable"):
        refused = flmadm(machine, verb, check=False, user=True)
        assert refused.returncode == 4 and "sudo" in refused.stderr, refused.stderr


def test_drift_is_found_and_mended(machine):
    assert document(machine, "verify")["intact"]
    unit = f"/etc/systemd/system/{AGENT}"
    machine.run(
        ["sh", "-c", f"echo '# mine' >>{unit}; echo x >>{PREFIX}/bin/flmping; rm {PREFIX}/bin/flmexec"]
    )
    machine.run(["chmod", "666", f"{PREFIX}/bin/flmctl"])
    machine.run(["chown", "flame", f"{PREFIX}/sbin/flmadm"])
    found = document(machine, "verify", check=False)
    kinds = {(finding["kind"], finding["what"].rsplit("/", 1)[-1]) for finding in found["findings"]}
    assert (
        not found["intact"]
        and {
            ("changed", AGENT),
            ("unit", AGENT),
            ("changed", "flmping"),
            ("missing", "flmexec"),
            ("mode", "flmctl"),
            ("owner", "flmadm"),
        }
        <= kinds
    ), found
    assert flmadm(machine, "verify", check=False).returncode == 3
    machine.install("--all")
    machine.run(["chown", "root", f"{PREFIX}/sbin/flmadm"])
    machine.run(["chmod", "755", f"{PREFIX}/bin/flmctl"])
    flmadm(machine, "verify")
