"""An installation of a user: units of her own service manager, nothing needs root, and nothing is left."""

import json

import pytest
from machine import BIN, FLMADM
from testbed import wait_until

pytestmark = pytest.mark.nodes

UID = 1000
HOME = "/home/ann"
RUNTIME = f"/run/user/{UID}"
PREFIX = f"{HOME}/.local/share/flame"
UNITS = ("flame.target", "flame-session-manager.service", "flame-node-agent.service")
WORK_SECONDS = 60
ENVIRONMENT = {"HOME": HOME, "XDG_RUNTIME_DIR": RUNTIME, "NO_COLOR": "1"}
# The directory of the journal, and what any program of the user leaves in the manager that runs all the time.
OTHERS = ("/var/log/journal", f"{RUNTIME}/systemd/", "/run/systemd/", "/run/log/", "/tmp/systemd-private-")


class Ann:
    """A user of the machine who is not root."""

    def __init__(self, machine):
        self.machine = machine

    def run(self, command, check=True, env=None, timeout=120):
        """Runs a command as her, as in a session of hers."""
        words = [f"{key}={value}" for key, value in {**ENVIRONMENT, **(env or {})}.items()]
        user = ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--init-groups", "env", *words]
        return self.machine.run([*user, *command], check=check, timeout=timeout)

    def flmadm(self, *words, **options):
        """flmadm on her installation."""
        return self.run([FLMADM, *words], **options)

    def install(self, *words, **options):
        """Installs the prebuilt programs for her."""
        return self.flmadm("install", "--user", "--skip-build", "--bin-dir", BIN, *words, **options)

    def active(self, unit):
        """Whether her service manager calls the unit active."""
        return self.run(["systemctl", "--user", "is-active", unit], check=False).stdout.strip() == "active"


@pytest.fixture(scope="module")
def ann(make_bed):
    """A user whose service manager runs without a session of hers, and all files before the installation."""
    (machine,) = make_bed("shared")
    machine.run(["useradd", "--create-home", f"--uid={UID}", "--shell=/bin/sh", "ann"])
    machine.run(["loginctl", "enable-linger", "ann"])
    ann = Ann(machine)
    wait_until(
        lambda: (
            ann.run(["systemctl", "--user", "is-system-running"], check=False).stdout.strip() == "running"
        ),
        WORK_SECONDS,
        "the service manager of ann",
    )
    # The first use of the bus starts it, and it makes a directory.
    ann.run(["busctl", "--user", "list"])
    ann.before = files(machine)
    ann.units = loaded(ann)
    return ann


@pytest.fixture(scope="module")
def endpoint(ann):
    """The address of her session manager, with everything installed and running."""
    done = json.loads(ann.install("--all", "--enable", "-o", "json").stdout)
    assert done["prefix"] == PREFIX
    return done["endpoint"]


def files(machine):
    """All files, without what does not belong to anybody's installation."""
    return {path: what for path, what in machine.files().items() if not path.startswith(OTHERS)}


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
    after = files(ann.machine)
    changed = [
        f"{path}: {ann.before.get(path)} -> {after.get(path)}"
        for path in sorted(ann.before.keys() | after.keys())
        if ann.before.get(path) != after.get(path)
    ]
    assert changed == []
    assert loaded(ann) == ann.units == []
