"""An installation of a user: units of her own service manager, nothing needs root, and nothing is left."""

import json

import pytest
from ann import HOME, PREFIX, RUNTIME, Ann
from machine import BIN, FLMADM, difference
from testbed import wait_until

pytestmark = pytest.mark.nodes

UNITS = ("flame.target", "flame-session-manager.service", "flame-node-agent.service")
WORK_SECONDS = 60


@pytest.fixture(scope="module")
def ann(make_bed):
    """A user whose service manager runs without a session of hers, and all files before the installation."""
    (machine,) = make_bed("shared")
    ann = Ann(machine)
    ann.before = ann.files()
    ann.units = loaded(ann)
    return ann


@pytest.fixture(scope="module")
def endpoint(ann):
    """The address of her session manager, with everything installed and running."""
    done = json.loads(ann.install("--all", "--enable", "-o", "json").stdout)
    assert done["prefix"] == PREFIX
    return done["endpoint"]


def loaded(ann):
    """Names of the units that her service manager knows, enabled files included."""
    names = []
    for what in ("list-units", "list-unit-files"):
        lines = ann.run(["systemctl", "--user", what, "--all", "--plain", "--no-legend"]).stdout
        names += [line.split()[0] for line in lines.splitlines()]
    return sorted(name for name in names if "flame" in name and not name.startswith("opt-"))


def flmping(ann, endpoint, tasks):
    """How many of so many tasks of hers succeed."""
    done = ann.run([f"{BIN}/flmping", "-t", str(tasks), "--output", "json"], env={"FLAME_ENDPOINT": endpoint})
    return json.loads(done.stdout)["succeeded"]


def test_tasks_run_in_units_of_the_user(ann, endpoint):
    for unit in UNITS:
        assert ann.active(unit), unit
        enabled = ann.run(["systemctl", "--user", "is-enabled", unit]).stdout.strip()
        assert enabled == "enabled"
    assert flmping(ann, endpoint, 100) == 100
    users = ann.machine.run(["ps", "-eo", "user:20=,comm="]).stdout.splitlines()
    of_flame = [line.split() for line in users if line.split()[1].startswith(("flame-", "flmping"))]
    assert of_flame and {user for user, _ in of_flame} == {"ann"}, of_flame
    assert ann.flmadm("status", "--user").ok
    assert ann.machine.run(["test", "-e", "/etc/systemd/system/flame.target"], check=False).returncode == 1


def test_nobody_else_may_look_at_it(ann, endpoint):
    for below in ("data", f"{RUNTIME}/flame"):
        mode = ann.run(["stat", "-c", "%a", below if below.startswith("/") else f"{PREFIX}/{below}"])
        assert mode.stdout.strip() == "700"


def doctor(ann, *words, code=0, env=None):
    """What doctor finds in her installation, by the names of the checks."""
    answer = ann.flmadm("doctor", "--user", "-o", "json", *words, check=False, env=env)
    assert answer.returncode == code, (answer.stdout, answer.stderr)
    report = json.loads(answer.stdout)
    assert report["mode"] == "user" and report["healthy"] is (code == 0)
    return {found["id"]: found for found in report["checks"]}


def test_doctor_looks_at_what_is_hers(ann, endpoint):
    found = doctor(ann)
    for check in (
        "session-bus",
        "runtime-directory",
        "lingering",
        "systemd-version",
        "ports",
        "endpoint",
        "disk-space",
        "services",
        "file-drift",
        "unit-drift",
        "units-read",
        "leftovers",
        "old-processes",
    ):
        assert found[check]["state"] == "ok", found[check]
    assert found["delegation"]["state"] in ("ok", "failed"), found["delegation"]
    assert not {"polkit", "polkit-permission", "accounts", "user-namespaces", "executors"} & set(found)
    target = f"{HOME}/.config/systemd/user/flame.target"
    ann.run(["sh", "-c", f"echo '# mine' >> {target}"])
    found = doctor(ann, code=5)
    assert found["unit-drift"]["state"] == "failed" and target in found["unit-drift"]["evidence"]
    assert found["units-read"]["state"] == "failed", found["units-read"]
    assert found["units-read"]["remedy"] == "systemctl --user daemon-reload"
    ann.install("--all")
    doctor(ann)
    found = doctor(ann, code=5, env={"XDG_RUNTIME_DIR": "/nonexistent"})
    for check in ("session-bus", "runtime-directory"):
        assert found[check]["state"] == "failed", found[check]
    assert "enable-linger" in found["session-bus"]["remedy"]


def test_a_second_run_changes_nothing(ann, endpoint):
    def invocations():
        return [ann.run(["systemctl", "--user", "show", "-P", "InvocationID", unit]).stdout for unit in UNITS]

    before = invocations()
    assert json.loads(ann.install("--all", "--enable", "-o", "json").stdout)["changed"] == []
    assert invocations() == before


def test_a_killed_daemon_comes_back(ann, endpoint):
    show = ["systemctl", "--user", "show", "-P", "MainPID", UNITS[2]]
    pid = ann.run(show).stdout.strip()
    ann.run(["kill", "-9", pid])
    wait_until(
        lambda: ann.run(show).stdout.strip() not in ("0", pid), WORK_SECONDS, "the agent started again"
    )
    assert flmping(ann, endpoint, 10) == 10


def test_an_instance_of_a_user_is_beside_it(ann, endpoint):
    done = json.loads(ann.install("--all", "--enable", "--instance", "test", "-o", "json").stdout)
    assert done["prefix"] == f"{PREFIX}-test"
    assert ann.active("flame-test-node-agent.service")
    ann.flmadm("uninstall", "--user", "--instance", "test", "--force", "--no-backup")
    assert flmping(ann, endpoint, 10) == 10


def test_it_is_told_whose_an_installation_is(ann, endpoint):
    plain = ann.flmadm("status", "--prefix", PREFIX, check=False)
    assert plain.returncode == 1 and "--user" in plain.stderr
    root = ann.machine.run([FLMADM, "install", "--user", "--all", "--bin-dir", BIN], check=False)
    assert root.returncode == 1 and "root" in root.stderr
    away = {"XDG_RUNTIME_DIR": "/nonexistent"}
    lost = ann.install("--client", "--worker", env=away, check=False)
    assert lost.returncode == 4 and "enable-linger" in lost.stderr


def test_lingering_is_explained_where_it_is_off(ann, endpoint):
    assert "linger" not in ann.install("--all").stdout
    # Without loginctl, which would end her service manager at once, because she has no session.
    mark = "/var/lib/systemd/linger/ann"
    ann.machine.run(["rm", mark])
    try:
        assert "loginctl enable-linger" in ann.install("--all").stdout
    finally:
        ann.machine.run(["touch", mark])


def test_nothing_is_left(ann, endpoint):
    ann.flmadm("uninstall", "--user", "--force", "--no-backup")
    left = ann.machine.run(["pgrep", "-l", "flame|flmping"], check=False).stdout
    assert left == ""
    assert difference(ann.before, ann.files(), without=()) == []
    assert loaded(ann) == ann.units == []
