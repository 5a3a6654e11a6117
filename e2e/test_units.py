"""Executors as units of systemd: what the agent may do, what an executor may not, and what is left behind."""

import json
import os
import re
from pathlib import Path

import pytest
from executor_units import executors, left_behind
from machine import AGENT, BIN, MANAGER, PREFIX, whole
from testbed import wait_until

pytestmark = pytest.mark.nodes

UNITS = Path(__file__).resolve().parent.parent / "units"
TEMPLATES = ("flame-executor", "flame-executor-strict", "flame-executor-open")
SYSTEMD = (
    "org.freedesktop.systemd1",
    "/org/freedesktop/systemd1",
    "org.freedesktop.systemd1.Manager",
)
# Exposure of a unit as systemd-analyze counts it, 10 is the worst.
EXPOSED_AT_MOST = {
    "flame-node-agent.service": 1.5,
    "flame-node-agent@.service": 1.5,
    "flame-session-manager.service": 1.5,
    "flame-executor-strict@.service": 1.5,
    "flame-executor@.service": 2.6,
}
REFUSED = "authentication required|Access denied|Permission denied"
UNITS_TOOL = f"{BIN}/flame-units"
# `make soak` makes 1,000 of them.
STARTS = int(os.environ.get("FLAME_UNIT_STARTS", "200"))


@pytest.fixture(scope="module")
def machine(make_bed):
    """One node with everything installed."""
    return whole(make_bed, "units")


@pytest.fixture
def stopped(machine):
    """The node without its agent, whose place the test takes."""
    machine.run(["systemctl", "stop", AGENT])
    yield machine
    machine.run(["systemctl", "start", AGENT])
    machine.wait_ready("units")


def as_user(machine, user, *command, check=True, timeout=120):
    """Runs a command as this user."""
    words = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", *command]
    return machine.run(words, check=check, timeout=timeout)


def call(machine, method, signature, *arguments, user="flame"):
    """Calls systemd over D-Bus as this user."""
    words = ["busctl", "call", *SYSTEMD, method, signature, *map(str, arguments)]
    return as_user(machine, user, *words, check=False)


def units_tool(machine, *words, timeout=300):
    """Starts executors as the agent does."""
    groups = ["--regid=flame", "--groups=systemd-journal"]
    return machine.run(
        ["setpriv", "--reuid=flame", *groups, UNITS_TOOL, *map(str, words)], timeout=timeout
    ).stdout


def limits_of_slots(machine):
    """Directories in which systemd keeps the limits of each unit."""
    listed = machine.run(["ls", "/run/systemd/system.control"], check=False).stdout.split()
    return sorted(name for name in listed if name.startswith("flame-executor"))


@pytest.mark.parametrize("unit", sorted(EXPOSED_AT_MOST))
def test_exposure(machine, unit):
    text = machine.node.read(f"/etc/systemd/system/{unit}")
    machine.node.write(f"/root/exposure/{unit}", text)
    report = machine.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", f"/root/exposure/{unit}"]
    ).stdout
    level = float(re.search(r"Overall exposure level for \S+: ([0-9.]+)", report)[1])
    assert level <= EXPOSED_AT_MOST[unit], report


def test_all_units_are_verified(machine):
    installed = machine.run(
        ["find", "/etc/systemd/system", "-maxdepth", "1", "-type", "f", "-name", "flame*"]
    ).stdout.split()
    assert len(installed) >= len(list(UNITS.glob("*.service")))
    # Its program is there only while something is changed.
    whole = [path for path in installed if not path.endswith("/flame-recovery.service")]
    verified = machine.run(["systemd-analyze", "verify", "--man=no", *whole], check=False)
    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")
    # Of a template systemd looks at an instance.
    names = {path.rsplit("/", 1)[1] for path in installed}
    assert names >= {
        path.name for pattern in ("*.service", "*.slice", "*.target") for path in UNITS.glob(pattern)
    }
    instances = [f"/etc/systemd/system/{name.replace('@.', '@x-0.')}" for name in names if "@." in name]
    machine.run(["sh", "-c", 'for unit; do ln -s "${unit%@*}@.service" "$unit"; done', "sh", *instances])
    try:
        verified = machine.run(["systemd-analyze", "verify", "--man=no", *instances], check=False)
    finally:
        machine.run(["rm", *instances])
    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_agent_may_run_executors(stopped, template):
    unit = f"{template}@7.service"
    limit = call(stopped, "SetUnitProperties", "sba(sv)", unit, "true", 1, "MemoryMax", "t", 100000000)
    assert limit.ok, limit
    assert call(stopped, "StartUnit", "ss", unit, "replace").ok
    assert call(stopped, "StopUnit", "ss", unit, "replace").ok
    # A unit that is not loaded cannot be killed, but that is not a question of permission.
    assert "not loaded" in call(stopped, "KillUnit", "ssi", unit, "all", 9).stderr


@pytest.mark.parametrize(
    ("method", "signature", "arguments"),
    [
        ("StartUnit", "ss", (MANAGER, "replace")),
        ("StopUnit", "ss", ("systemd-journald.service", "replace")),
        ("StartUnit", "ss", ("flame-executors.slice", "replace")),
        ("StartUnit", "ss", ("xflame-executor@0.service", "replace")),
        ("RestartUnit", "ss", ("flame-executor@0.service", "replace")),
        ("KillUnit", "ssi", ("dbus.service", "all", 9)),
        ("SetUnitProperties", "sba(sv)", ("dbus.service", "true", 1, "MemoryMax", "t", 100000000)),
        ("SetUnitProperties", "sba(sv)", ("flame.slice", "true", 1, "MemoryMax", "t", 100000000)),
        *(
            (
                "StartTransientUnit",
                "ssa(sv)a(sa(sv))",
                (unit, "replace", 2, "Description", "s", "x", "PIDs", "au", 1, 1, 0),
            )
            for unit in ("x.service", "flame-executor@5.service", "flame-executor@0.scope")
        ),
        ("EnqueueUnitJob", "sss", (MANAGER, "stop", "replace")),
        ("EnqueueUnitJob", "sss", ("flame-executor@0.service", "restart", "replace")),
        ("ReloadOrRestartUnit", "ss", ("flame-executor@0.service", "replace")),
        ("TryRestartUnit", "ss", ("flame-executor@0.service", "replace")),
        ("ResetFailedUnit", "s", ("dbus.service",)),
        ("ResetFailed", "", ()),
        ("Reload", "", ()),
        ("Reexecute", "", ()),
        ("Reboot", "", ()),
        ("PowerOff", "", ()),
        ("Halt", "", ()),
        ("SetEnvironment", "as", (1, "LD_PRELOAD=/tmp/x.so")),
        ("EnableUnitFiles", "asbb", (1, "debug-shell.service", "true", "false")),
        ("LinkUnitFiles", "asbb", (1, "/tmp/x.service", "true", "false")),
        ("MaskUnitFiles", "asbb", (1, "dbus.service", "true", "false")),
        ("DisableUnitFiles", "asb", (1, MANAGER, "false")),
        ("SetDefaultTarget", "sb", ("rescue.target", "true")),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_the_agent_may_do_nothing_else(machine, method, signature, arguments):
    words = [signature] if signature else []
    refused = as_user(
        machine, "flame", "busctl", "call", *SYSTEMD, method, *words, *map(str, arguments), check=False
    )
    assert not refused.ok
    assert re.search(REFUSED, refused.stderr), refused


@pytest.mark.parametrize(
    ("method", "signature", "arguments"),
    [
        ("FreezeUnit", "s", ()),
        ("CleanUnit", "sas", (1, "runtime")),
        ("BindMountUnit", "sssbb", ("/etc", "/mnt", "false", "false")),
        ("ReloadUnit", "ss", ("replace",)),
        ("RestartUnit", "ss", ("replace",)),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_the_agent_may_only_begin_limit_and_end_an_executor(stopped, method, signature, arguments):
    unit = "flame-executor@0.service"
    units_tool(stopped, "--leave")
    try:
        refused = call(stopped, method, signature, unit, *arguments)
        assert stopped.node.main_pid(unit) > 0
    finally:
        units_tool(stopped, "--adopt")
    assert not refused.ok
    assert re.search(REFUSED, refused.stderr), refused


@pytest.mark.parametrize("what", ["Reboot", "PowerOff", "Halt"])
def test_the_agent_may_not_ask_logind_either(machine, what):
    login = ["org.freedesktop.login1", "/org/freedesktop/login1", "org.freedesktop.login1.Manager"]
    refused = as_user(machine, "flame", "busctl", "call", *login, what, "b", "false", check=False)
    assert not refused.ok
    assert re.search(REFUSED, refused.stderr), refused


def test_the_agent_cannot_change_what_an_executor_is(machine):
    """SetUnitProperties is for limits: systemd takes no other property of a unit that has a file."""
    for name, kind, value in (("User", "s", "root"), ("ExecStart", "a(sasb)", 0)):
        refused = call(
            machine, "SetUnitProperties", "sba(sv)", "flame-executor@0.service", "true", 1, name, kind, value
        )
        assert "Cannot set property" in refused.stderr, refused


def test_nobody_makes_a_transient_unit_of_an_executors_name(machine):
    made = machine.run(
        ["busctl", "call", *SYSTEMD, "StartTransientUnit", "ssa(sv)a(sa(sv))"]
        + ["flame-executor@5.service", "replace", "1", "Description", "s", "x", "0"],
        check=False,
    )
    assert "has a fragment file" in made.stderr, made


def test_other_users_may_not_run_executors(machine):
    assert not call(machine, "StartUnit", "ss", "flame-executor@0.service", "replace", user="flame-exec").ok


def test_an_executor_may_write_where_it_is_told_to(stopped):
    command = 'set -e; for d in "$PWD" /tmp /var/tmp; do echo x > $d/x; cat $d/x; done >&2; pwd >&2'
    assert units_tool(stopped, "--run", command).splitlines()[1:] == ["x", "x", "x", "/var/tmp/work"]
    # Nothing of it is there for the next one in the same slot.
    again = units_tool(stopped, "--run", "ls -A /var/tmp/work /tmp >&2")
    assert "x" not in again.splitlines()[1:], again


def test_no_network_in_the_strict_sandbox(stopped):
    command = (
        "/usr/bin/python3 -c 'import socket; socket.socket(socket.AF_INET)' 2>/dev/null || echo none >&2"
    )
    assert "none" in units_tool(stopped, "--profile", "strict", "--run", command)
    assert "none" not in units_tool(stopped, "--run", command)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("echo first >&2; exit 3", ["exited with status 3", "first"]),
        ("echo out; echo err >&2; kill -SEGV $$", ["was killed by signal 11 (SIGSEGV)", "err"]),
        ("for i in $(seq 30); do echo line $i >&2; done; exit 1", ["line 11", "line 30"]),
    ],
)
def test_an_end_is_told_with_the_last_words(stopped, command, words):
    told = units_tool(stopped, "--run", command)
    for word in words:
        assert word in told
    assert "out\n" not in told and "line 10\n" not in told


def test_the_limits_are_those_of_the_request(stopped):
    units_tool(stopped, "--resources", "cpu=2,mem=64m", "--leave")
    names = ["MemoryMax", "MemoryHigh", "CPUQuotaPerSecUSec", "CPUWeight", "TasksMax", "DevicePolicy"]
    shown = stopped.show("flame-executor@0.service", *names)
    assert shown == {
        "MemoryMax": str(64 << 20),
        "MemoryHigh": str(62 << 20),
        "CPUQuotaPerSecUSec": "2s",
        "CPUWeight": "200",
        "TasksMax": "16384",
        "DevicePolicy": "closed",
    }
    adopted = units_tool(stopped, "--adopt")
    assert re.fullmatch(r"e0 pid \d+ true\n", adopted), adopted
    assert executors(stopped) == []


def test_what_nobody_knows_is_stopped(stopped):
    units_tool(stopped, "--leave")
    stopped.run(["sh", "-c", "rm /run/flame/records/*"])
    assert units_tool(stopped, "--adopt") == ""
    wait_until(lambda: executors(stopped) == [], 30, "the unknown unit is stopped")
    assert left_behind(stopped) == []


@pytest.mark.timeout(900)
def test_many_starts_leave_nothing_but_the_limits_of_the_slots(stopped):
    at_once = 20
    report = units_tool(stopped, "--starts", STARTS, "--at-once", at_once, timeout=900)
    assert report.startswith(f"{STARTS} starts"), report
    assert executors(stopped) == []
    assert left_behind(stopped) == []
    failed = stopped.run(["systemctl", "list-units", "--state=failed", "--plain", "--no-legend"]).stdout
    assert failed == ""
    slots = [name for name in limits_of_slots(stopped) if name.startswith("flame-executor@")]
    assert len(slots) <= at_once + 1


def test_a_session_runs_in_units(machine):
    report = machine.flmping("-t", "100")
    assert (report["succeeded"], report["failed"]) == (100, 0)
    session = machine.tool("flmctl", "create", "session", "-a", "flmping").stdout.split()[0]
    slow = json.dumps({"duration": 2000, "memory": None})
    machine.tool("flmctl", "create", "task", "-s", session, "--text", slow)
    wait_until(lambda: executors(machine) != [], 30, "an executor's unit")
    unit = executors(machine)[0]
    assert machine.show(unit, "User", "Slice", "DynamicUser") == {
        "User": "flame-0",
        "Slice": "flame-executors.slice",
        "DynamicUser": "yes",
    }
    assert machine.node.main_pid(unit) > 0
    wait_until(
        lambda: [task["state"] for task in machine.flmctl("list", "tasks", "-s", session)] == ["Succeed"],
        60,
        "the task ends",
    )
    machine.tool("flmctl", "close", "-s", session)
    wait_until(lambda: executors(machine) == [], 60, "no executor is left")
    assert left_behind(machine) == []


def test_a_missing_rule_is_named(machine):
    rule = "/etc/polkit-1/rules.d/50-flame.rules"
    text = machine.node.read(rule)
    machine.run(["rm", rule])
    try:
        wait_until(
            lambda: not call(machine, "StopUnit", "ss", "flame-executor@9.service", "replace").ok,
            30,
            "polkit knows",
        )
        machine.run(["systemctl", "restart", AGENT], check=False)
        journal = machine.node.wait_until(
            ["sh", "-c", f"journalctl -u {AGENT} --no-pager -n 50 | grep 'polkit does not let'"]
        ).stdout
        assert "flmadm install" in journal and "FLAME_NODE_RUNTIME=process" in journal
    finally:
        machine.node.write(rule, text)
        machine.run(["systemctl", "reset-failed", AGENT], check=False)
        machine.run(["systemctl", "restart", AGENT], check=False)
        machine.wait_ready("units")


def test_the_process_runtime_is_a_drop_in_away(machine):
    drop_in = f"/etc/systemd/system/{AGENT}.d/process-runtime.conf"
    machine.run(["install", "-D", f"{PREFIX}/share/process-runtime.conf", drop_in])
    try:
        machine.run(["systemctl", "daemon-reload"])
        machine.run(["systemctl", "restart", AGENT])
        machine.wait_ready("units")
        assert machine.flmping("-t", "50")["succeeded"] == 50
        assert executors(machine) == []
    finally:
        machine.run(["rm", "-r", f"/etc/systemd/system/{AGENT}.d"])
        machine.run(["systemctl", "daemon-reload"])
        machine.run(["systemctl", "restart", AGENT])
        machine.wait_ready("units")
