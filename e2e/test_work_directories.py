"""Work directories on a real systemd machine: what is listed can be written to, and nothing else."""

import json
import re

import pytest
from machine import AGENT, BIN, FLMADM, PREFIX, difference
from testbed import wait_until

pytestmark = pytest.mark.nodes

NODE = "work"
SETTINGS = f"{PREFIX}/conf/node-agent.toml"
UNITS = "/etc/systemd/system"
DROP_INS = [
    f"{UNITS}/{template}@.service.d/50-flame-work.conf"
    for template in ("flame-executor", "flame-executor-strict")
]
LISTED = "/srv/work"
# Everything that a path in a unit file could be misread for.
ODD = '/srv/my 100% "odd" \\ work;#'
MISSING = "/srv/missing"
OTHER = "/srv/other"
SECONDS = 60
# systemd takes the numbers of users of executors from here. Their names cannot be asked for in a sandbox.
DYNAMIC = range(61184, 65520)
# Where the service runs, as whom, and what it is to do.
SCRIPT = "readlink /proc/$PPID/cwd; id -u; "


@pytest.fixture(scope="module")
def machine(make_bed):
    """One node with everything installed, directories, and applications that work in them."""
    (machine,) = make_bed(NODE)
    machine.before = machine.files()
    machine.install("--all", "--enable")
    machine.wait_ready(NODE)
    # Anybody may write to the one that is not listed: it is the sandbox that says no.
    machine.run(["mkdir", LISTED, ODD, OTHER])
    machine.run(["chgrp", "flame-work", LISTED, ODD])
    machine.run(["chmod", "2770", LISTED, ODD])
    machine.run(["chmod", "0777", OTHER])
    for name, directory, *words in (
        ("listed", LISTED),
        ("odd", ODD),
        ("strict", LISTED, "--label", "sandbox=strict"),
        ("other", OTHER),
    ):
        machine.tool(
            *("flmctl", "register", "application", name, "--working-directory", directory, *words),
            *("--command", f"{PREFIX}/bin/flmexec-service", "--delay-release", "0"),
        )
    return machine


def lists(machine, *directories):
    """Writes the settings of the agent."""
    machine.node.write(SETTINGS, f"[runtime]\nwork_directories = {json.dumps(directories)}\n")


def applied(machine, *words):
    """Installs again, which applies the settings; what flmadm says."""
    said = machine.install("--all", "--enable", *words)
    machine.wait_ready(NODE)
    return said.stdout


@pytest.fixture
def listed(machine):
    """The node, whose executors may write to LISTED and ODD."""
    lists(machine, LISTED, ODD, MISSING)
    applied(machine)
    return machine


def script(machine, application, code):
    """Runs a script in an executor of the application; the lines that it prints."""
    return machine.tool("flmexec", "-a", application, "-c", code).stdout.splitlines()


def own_words(machine):
    """What the present run of the agent has logged."""
    run = machine.show(AGENT, "InvocationID")["InvocationID"]
    return machine.node.journal(f"_SYSTEMD_INVOCATION_ID={run}")


def installed_files(machine):
    """Everything that an installation may change, with hashes, but for what the daemons write."""
    places = [UNITS, "/etc/group", *(f"{PREFIX}/{name}" for name in ("bin", "conf", "manifest.toml"))]
    return machine.run(["find", *places, "-type", "f", "-exec", "sha256sum", "{}", "+"]).stdout.splitlines()


def test_the_first_file_of_settings_explains_everything_and_says_nothing(machine):
    text = machine.node.read(SETTINGS)
    assert "#work_directories = " in text and "#kind = " in text
    checked = machine.run([f"{PREFIX}/bin/flame-node-agent", "--check", "--node-config", SETTINGS])
    assert "node-agent.toml, line" not in checked.stdout, checked


def test_an_agent_says_what_is_still_to_do(machine):
    lists(machine, LISTED)
    machine.run(["systemctl", "restart", AGENT])
    machine.wait_ready(NODE)
    for template in ("flame-executor@", "flame-executor-strict@"):
        warning = f"cannot write to {LISTED}, which runtime.work_directories lists: no drop-in of {template}"
        assert warning in own_words(machine)
    assert "run flmadm install" in own_words(machine)
    code = SCRIPT + f"touch {LISTED}/x 2>&1 || true"
    assert "Read-only file system" in script(machine, "listed", code)[-1]
    planned = machine.install("--all", "--enable", "--dry-run").stdout
    assert f'agent uses  runtime.work_directories = ["{LISTED}"] (node-agent.toml, line 2)' in planned
    for path in DROP_INS:
        assert re.search(f"would make +file {path}\n", planned), planned
    before = own_words(machine)
    applied(machine)
    assert own_words(machine) != before, "the agent was restarted"
    assert "cannot write" not in own_words(machine)


@pytest.mark.parametrize(("application", "directory"), [("listed", LISTED), ("odd", ODD), ("strict", LISTED)])
def test_an_application_writes_to_its_listed_directory(listed, application, directory):
    code = SCRIPT + f'cd "/proc/$PPID/cwd" && echo {application} > {application} && cat {application}'
    where, user, read = script(listed, application, code)
    assert (where, read) == (directory, application) and int(user) in DYNAMIC
    made = listed.run(["stat", "--format=%G %a", f"{directory}/{application}"]).stdout.split()
    # The group may write, and others see nothing.
    assert made[0] == "flame-work" and made[1] in ("660", "600"), made


def test_executors_of_different_slots_share_a_listed_directory(listed):
    shared = f"{LISTED}/shared"
    wait = f"until test -e {shared}/done; do sleep 0.1; done"
    begin = f"umask 0007; mkdir {shared}; id -u > {shared}/users; {wait}"
    command = ["env", f"FLAME_ENDPOINT={listed.endpoint}", f"{BIN}/flmexec", "-a", "listed", "-c", begin]
    first = listed.node.background(command)
    listed.node.wait_until(["test", "-s", f"{shared}/users"], SECONDS)
    users = script(listed, "listed", f"id -u >> {shared}/users && touch {shared}/done && cat {shared}/users")
    assert len(set(users)) == 2 and all(int(user) in DYNAMIC for user in users), users
    assert first.result().ok, first.result()
    # So do those without a sandbox.
    tool = ["setpriv", "--reuid=flame", "--regid=flame", "--groups=systemd-journal", f"{BIN}/flame-units"]
    listed.run(["systemctl", "stop", AGENT])
    try:
        command = f"echo open >> {shared}/users; id -un >&2; tail -n 1 {shared}/users >&2"
        assert listed.run([*tool, "--profile", "none", "--run", command]).stdout.splitlines()[1:] == [
            "flame-exec",
            "open",
        ]
    finally:
        listed.run(["systemctl", "start", AGENT])
        listed.wait_ready(NODE)


def test_what_is_not_listed_is_refused_and_read_only(listed):
    listed.run(["touch", f"{OTHER}/by-root"])
    for application in ("listed", "strict"):
        said = script(listed, application, f"ls {OTHER}; touch {OTHER}/x 2>&1 || true")
        assert said[0] == "by-root" and "Read-only file system" in said[1], said
    session = listed.tool("flmctl", "create", "session", "-a", "other").stdout.split()[0]
    task = json.dumps({"language": "shell", "code": "true"})
    listed.tool("flmctl", "create", "task", "-s", session, "--text", task)

    def events():
        return [event["message"] for event in listed.flmctl("view", "session", session)["events"]]

    wait_until(lambda: any("runtime.work_directories" in event for event in events()), SECONDS, "a refusal")
    assert any(f"working directory {OTHER} is below none" in event for event in events()), events()
    listed.tool("flmctl", "close", "-s", session)


def test_others_of_the_machine_get_nothing_with_the_group(listed):
    """The group is for what an administrator gives to it: nothing else on the machine has it."""
    found = listed.run(
        ["find", "/", "-xdev", "-group", "flame-work", "-not", "-path", "/proc/*", "-print"]
    ).stdout.splitlines()
    assert [path for path in found if not path.startswith(("/srv/", "/run/"))] == []
    for path in (f"{PREFIX}/work/nodes", f"{PREFIX}/data", "/run/flame"):
        said = script(listed, "listed", f"id -Gn; ls {path} 2>&1 || true")
        assert "flame-work" in said[0].split() and "flame" not in said[0].split(), said
        assert "denied" in said[1] or "No such file" in said[1], said


def test_a_second_installation_changes_nothing(listed):
    before = listed.node.main_pid(AGENT)
    files = [listed.node.read(path) for path in DROP_INS]
    said = listed.install("--all", "--enable", "-o", "json").stdout
    report = json.loads(said)
    assert report["changed"] == []
    assert any(MISSING in note for note in report["notes"]), report["notes"]
    assert listed.node.main_pid(AGENT) == before
    assert [listed.node.read(path) for path in DROP_INS] == files
    for template in ("flame-executor", "flame-executor-strict"):
        unit = f"{UNITS}/{template}@.service"
        verified = listed.run(["systemd-analyze", "verify", "--man=no", unit], check=False)
        assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")


@pytest.mark.parametrize(
    ("directory", "why"),
    [
        ("/", "has much in it"),
        ("/etc", "belongs to the system"),
        ("/usr/local/share", "belongs to the system"),
        ("/run/flame", "belongs to the system"),
        (f"{PREFIX}/data", "belongs to Flame itself"),
        ("/home/me", "homes are hidden"),
        ("/tmp/x", "a directory of its own"),
        ("/srv/link", "leads to /etc"),
        ("/srv/a\nReadWritePaths=/etc", "cannot stand in a unit file"),
        ("relative", "no absolute path"),
        ("/srv/../etc", 'without ".."'),
    ],
)
def test_what_is_not_for_applications_is_refused_before_anything_is_changed(listed, directory, why):
    listed.run(["ln", "-sfn", "/etc", "/srv/link"])
    lists(listed, LISTED, directory)
    before = installed_files(listed)
    refused = listed.install("--all", "--enable", "--force", check=False)
    assert refused.returncode == 3 and why in refused.stderr and "line 2" in refused.stderr, refused
    assert installed_files(listed) == before


def test_a_directory_that_is_not_listed_any_more_is_read_only_again(listed):
    lists(listed, ODD)
    applied(listed)
    code = f"touch {LISTED}/late 2>&1 || true"
    assert "Read-only file system" in script(listed, "odd", code)[-1]
    lists(listed)
    said = applied(listed)
    for path in DROP_INS:
        assert f"removal of {path}" in said
        assert not listed.run(["test", "-e", path.rpartition("/")[0]], check=False).ok
    assert listed.show("flame-executor@0.service", "ReadWritePaths")["ReadWritePaths"] == ""


def test_uninstall_leaves_nothing(listed):
    """Not even the group and the drop-ins; what is in the directories is the administrator's."""
    listed.run([FLMADM, "uninstall", "--no-backup", "--force", "--remove-user"])
    assert listed.run(["getent", "group", "flame-work"], check=False).returncode != 0
    assert listed.run(["test", "-e", f"{LISTED}/shared/users"]).ok
    listed.run(["rm", "-r", LISTED, ODD, OTHER, "/srv/link"])
    assert difference(listed.before, listed.files()) == []
