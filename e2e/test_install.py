"""flmadm on a real systemd machine: install, run, break, mend, uninstall, and nothing is left."""

import json

import pytest
from machine import AGENT, BIN, FLMADM, MANAGER, NOT_FLAME, PREFIX, difference
from testbed import wait_until

pytestmark = pytest.mark.nodes

UNITS = ("flame.target", MANAGER, AGENT)
WORK_SECONDS = 90
RESTART_SECONDS = 30
STOP_SECONDS = 30
# A boot makes these anew, or adds to them; what names Flame would be ours even there.
MADE_BY_A_BOOT = ("/run/", "/tmp/", "/var/tmp/systemd-private-", "/var/log/wtmp:")
SLOW_TASK = '{"duration": 100, "memory": null}'


@pytest.fixture(scope="module")
def machine(make_bed):
    """One node, without Flame at first; the listing of its files is taken then."""
    (machine,) = make_bed("solo")
    machine.before = machine.files()
    return machine


@pytest.fixture(scope="module")
def installation(machine):
    """Installs everything, once."""
    return machine.install("--all", "--enable")


@pytest.fixture
def installed(machine, installation):
    """The node with everything installed; running, whatever an earlier test did."""
    if machine.run(["test", "-e", f"{PREFIX}/manifest.toml"], check=False).ok:
        machine.run(["systemctl", "start", "flame.target"])
        machine.wait_ready("solo")
    return machine


def new_session(machine, tasks):
    """A session with this many tasks of 100 ms that are still open."""
    session = machine.tool("flmctl", "create", "session", "-a", "flmping").stdout.split()[0]
    create = (
        f'for i in $(seq {tasks}); do {BIN}/flmctl create task -s {session} --text "$TASK" || exit 1; done'
    )
    machine.run(["sh", "-c", create], env={"TASK": SLOW_TASK, "FLAME_ENDPOINT": machine.endpoint})
    return session


def task_states(machine, session):
    """The states of all tasks of a session."""
    return [task["state"] for task in machine.flmctl("list", "tasks", "-s", session)]


def wait_all_succeed(machine, session, tasks):
    """Waits until all tasks of the session succeeded, each exactly once."""

    def done():
        listing = machine.tool("flmctl", "list", "tasks", "-s", session, "-o", "json", check=False)
        states = [task["state"] for task in json.loads(listing.stdout)] if listing.ok else []
        return len(states) == tasks and set(states) == {"Succeed"}

    wait_until(done, WORK_SECONDS, f"{tasks} tasks of {session} done")


def test_everything_is_active_and_says_how_it_is(installed):
    for unit in UNITS:
        assert installed.active(unit), unit
        assert installed.run(["systemctl", "is-enabled", unit]).stdout.strip() == "enabled"
    for unit in (MANAGER, AGENT):
        shown = installed.show(unit, "Type", "StatusText", "Result", "User", "NRestarts")
        assert shown["Type"] == "notify" and shown["Result"] == "success" and shown["NRestarts"] == "0"
        assert len(shown["StatusText"].split()) >= 2, f"{unit} says nothing in STATUS: {shown}"
        assert (
            shown["StatusText"] in installed.run(["systemctl", "status", "--no-pager", "--full", unit]).stdout
        )
    assert "registered" in installed.show(AGENT, "StatusText")["StatusText"]
    assert installed.show("flame-executor-manager.service", "Id")["Id"] == AGENT, (
        "the alias leads to the agent"
    )
    for unit in (MANAGER, AGENT):
        assert installed.show(unit, "Slice")["Slice"] == "flame.slice"


def test_the_daemons_are_not_root(installed):
    for unit in (MANAGER, AGENT):
        pid = installed.node.main_pid(unit)
        assert installed.run(["ps", "-o", "user=", "-p", str(pid)]).stdout.strip() == "flame"


def test_a_thousand_tasks_succeed(installed):
    report = installed.flmping("-t", "1000")
    assert (report["tasks"], report["succeeded"], report["failed"]) == (1000, 1000, 0)
    assert report["tasks_per_second"] > 0 and report["p99_ms"] >= report["p50_ms"] > 0
    assert "Succe" in installed.tool("flmping", "-t", "10").stdout


def test_the_logs_are_in_the_journal(installed):
    for unit in (MANAGER, AGENT):
        lines = installed.run(
            ["journalctl", "--no-pager", "--output=cat", "-u", unit, "_COMM=" + unit[:15]]
        ).stdout
        assert lines.strip(), f"journalctl -u {unit} shows nothing of the daemon itself"


def test_status_tells_and_has_an_exit_code(installed):
    status = installed.run([FLMADM, "status"])
    for unit in (MANAGER, AGENT):
        assert unit.removesuffix(".service") in status.stdout
    installed.run(["systemctl", "stop", AGENT])
    assert "inactive" in installed.run([FLMADM, "status"], check=False).stdout
    installed.run(["systemctl", "start", AGENT])
    installed.wait_ready("solo")


@pytest.mark.parametrize("units", [["flame.target"], [AGENT, MANAGER]], ids=["target", "services"])
def test_stop_and_start_lose_nothing(installed, units):
    session = new_session(installed, 30)
    installed.run(["systemctl", "stop", *units])
    for unit in (MANAGER, AGENT):  # the target's own stop is over before that of its parts
        wait_until(lambda unit=unit: not installed.active(unit), STOP_SECONDS, f"{unit} stopped")
        assert installed.show(unit, "Result")["Result"] == "success"
    left = installed.run(["pgrep", "--list-full", "--uid", "flame"], check=False).stdout
    assert left == "", f"processes outlive the stop of flame.target: {left}"
    installed.run(["systemctl", "start", *units])
    installed.wait_ready("solo")
    wait_all_succeed(installed, session, 30)


@pytest.mark.parametrize("unit", [MANAGER, AGENT])
def test_a_restart_of_one_daemon_loses_nothing(installed, unit):
    session = new_session(installed, 20)
    installed.run(["systemctl", "restart", unit])
    installed.wait_ready("solo")
    wait_all_succeed(installed, session, 20)


@pytest.mark.parametrize("unit", [MANAGER, AGENT])
def test_a_killed_daemon_comes_back_and_work_finishes(installed, unit):
    session = new_session(installed, 20)
    killed = installed.node.kill(unit)
    wait_until(
        lambda: installed.node.main_pid(unit) not in (0, killed), RESTART_SECONDS, f"{unit} runs again"
    )
    installed.wait_active(unit)
    wait_all_succeed(installed, session, 20)
    assert int(installed.show(unit, "NRestarts")["NRestarts"]) >= 1


def test_a_second_install_over_running_daemons(installed):
    """Copying over a running binary must not fail with ETXTBSY, and state must survive."""
    session = new_session(installed, 5)
    installed.install("--all", "--enable", "--force")
    installed.wait_ready("solo")
    wait_all_succeed(installed, session, 5)
    assert installed.flmping("-t", "100")["succeeded"] == 100


def test_a_dry_run_changes_nothing(installed):
    before = installed.files()
    planned = installed.install("--all", "--enable", "--dry-run")
    assert planned.stdout.strip(), "a dry run says what it would do"
    assert "flame-session-manager" in planned.stdout
    after = installed.files()
    ignored = (f"{PREFIX}/data/", f"{PREFIX}/work/", "/run/systemd/")  # the running daemons' own
    changes = [line for line in difference(before, after) if not line.startswith(ignored)]
    assert changes == []


def test_uninstall_leaves_nothing(installed):
    """The last word: the whole file system as it was before the installation."""
    command = [FLMADM, "uninstall", "--no-backup", "--force", "--remove-user"]
    installed.run(command)
    assert difference(installed.before, installed.files()) == [], f"left out of the comparison: {NOT_FLAME}"
    assert (
        installed.run(["systemctl", "list-units", "--all", "--plain", "--no-legend", "flame*"]).stdout == ""
    )
    assert installed.run(["id", "flame"], check=False).returncode != 0
    assert installed.run(["pgrep", "--list-full", "flame"], check=False).stdout == ""


def test_uninstall_twice_is_no_error(installed):
    again = installed.run([FLMADM, "uninstall", "--no-backup", "--force", "--remove-user"], check=False)
    assert again.returncode == 0, again
    assert difference(installed.before, installed.files()) == []


def test_everything_comes_back_after_a_reboot(installed):
    """Installed again, rebooted, and uninstalled by the installed flmadm itself."""
    installed.install("--all", "--enable")
    installed.wait_ready("solo")
    session = new_session(installed, 10)
    installed.bed.reboot(installed.node)
    installed.wait_ready("solo")
    for unit in UNITS:
        assert installed.active(unit), unit
    wait_all_succeed(installed, session, 10)
    installed.run([f"{PREFIX}/bin/flmadm", "uninstall", "--no-backup", "--force", "--remove-user"])
    changes = difference(installed.before, installed.files())
    assert [line for line in changes if not line.startswith(MADE_BY_A_BOOT) or "flame" in line] == []
