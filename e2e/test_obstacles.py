"""What stands in the way of an installation or an upgrade is told, and everything is as it was before."""

import contextlib

import pytest
from machine import AGENT, BIN, FLMADM, MANAGER, difference
from releases import CRASHES, CRASHES_LATER, HANGS, shelve, upgrade
from small_mounts import Small, full, read_only

pytestmark = pytest.mark.nodes

NODE = "obstacles"
DISK = "/opt/small"
PREFIX = f"{DISK}/flame"
UNITS = "/etc/systemd/system"
INSTALLATION, START = 3, 5
UNINSTALL = [FLMADM, "uninstall", "--no-backup", "--remove-user", "--force", "--prefix", PREFIX]
# What services write while they run, the journal of theirs, and what executors have that come and go.
LIVING = (
    f"{PREFIX}/data",
    f"{PREFIX}/work",
    f"{PREFIX}/logs",
    "/run/flame",
    "/run/flame-executor",
    "/run/credentials",
)


@pytest.fixture(scope="module")
def machine(make_bed):
    """A node with a disk of its own for Flame, without Flame."""
    (machine,) = make_bed(NODE)
    machine.run(["mkdir", DISK])
    machine.disk = Small(machine, DISK, 800)
    machine.run(["systemctl", "start", "polkit"])
    machine.newer = shelve(machine, "newer")
    machine.before = machine.files()
    return machine


@pytest.fixture
def bare(machine):
    """The node without Flame, which it is afterwards, too."""
    yield machine
    assert difference(machine.before, machine.files()) == []


@pytest.fixture(scope="module")
def _installed(machine):
    machine.install("--all", "--enable", "--prefix", PREFIX)
    machine.wait_ready(NODE)
    yield
    machine.run(UNINSTALL)
    assert difference(machine.before, machine.files()) == []


@pytest.fixture
def working(machine, _installed):
    """The node with everything at work; it is the same at work afterwards, and nothing has changed."""
    before, ran = work(machine)
    yield machine
    after, runs = work(machine)
    assert difference(before, after) == [] and runs == ran
    machine.flmping("-t", "10")


def work(machine):
    """All files but those that change while services work, and the runs of the services."""
    found = machine.files()
    living = [path for path in found if path.startswith(LIVING) or "/run/systemd/" in path]
    runs = [machine.show(unit, "InvocationID", "NRestarts", "ActiveState") for unit in (MANAGER, AGENT)]
    return {path: what for path, what in found.items() if path not in living}, runs


def install(machine, *words, folder=BIN):
    """Installs everything on the disk; gives what came of it."""
    command = [FLMADM, "install", "--all", "--skip-build", "--bin-dir", folder, "--prefix", PREFIX]
    return machine.run([*command, *words], check=False)


def newer(machine, *words):
    """An upgrade to the other release; gives what came of it."""
    return upgrade(machine, machine.newer, "--prefix", PREFIX, *words, check=False)


def refused(result, *words, code=INSTALLATION):
    """It failed in clear words."""
    assert result.returncode == code, result
    for word in words:
        assert word in result.stderr, f"{word!r} is missing in:\n{result}"


@pytest.mark.parametrize(("part", "done"), [(0, "nothing was changed"), (0.7, "were undone")])
def test_a_full_disk_at_an_installation(bare, part, done):
    """Whoever ignores the check, too, has nothing half made in the end."""
    with bare.disk.filled(int(size(bare, BIN) * part)):
        refused(install(bare), "disk-space")
        refused(install(bare, "--ignore-check", "disk-space"), "No space left on device", done)


@contextlib.contextmanager
def masked(machine, _):
    """An administrator does not want the session manager to run."""
    mask = f"{UNITS}/{MANAGER}"
    machine.run(["cp", "--archive", "--force", mask, "/run/kept"], check=False)
    machine.run(["ln", "--symbolic", "--force", "/dev/null", mask])
    machine.run(["systemctl", "daemon-reload"])
    try:
        yield
    finally:
        machine.run(["rm", mask])
        machine.run(["sh", "-c", f"if test -e /run/kept; then mv /run/kept {mask}; fi"])
        machine.run(["systemctl", "daemon-reload"])


OBSTACLES = pytest.mark.parametrize(
    ("obstacle", "told"),
    [
        (full, ["No space left on device", "undone"]),
        (read_only, ["Read-only file system", "undone"]),
        (masked, [f"{MANAGER} is masked", f"systemctl unmask {MANAGER}"]),
    ],
    ids=["full", "read-only", "masked"],
)


@OBSTACLES
def test_no_place_for_units_at_an_installation(bare, obstacle, told):
    with obstacle(bare, UNITS):
        refused(install(bare, "--enable"), *told)


@pytest.mark.parametrize(
    "fault",
    [{"flame_session_manager": CRASHES_LATER}, {"flame_node_agent": HANGS}, {"flame_node_agent": CRASHES}],
    ids=["manager-crashes-later", "agent-hangs", "agent-crashes"],
)
def test_a_service_that_does_not_work_at_an_installation(bare, fault):
    folder = shelve(bare, "broken", **fault)
    result = install(bare, "--enable", "--health-timeout", "2", folder=folder)
    bare.run(["rm", "-r", folder])
    refused(result, *(unit.replace("_", "-") for unit in fault), "undone", code=START)


def size(machine, folder):
    """Bytes of what is in the folder."""
    return int(machine.run(["du", "-sb", folder]).stdout.split()[0])


@pytest.mark.parametrize("part", [0, 0.5])
def test_a_full_disk_at_an_upgrade(working, part):
    with working.disk.filled(int(size(working, working.newer) * part)):
        refused(newer(working), "disk-space")
        refused(newer(working, "--ignore-check", "disk-space"), "No space left on device")


def test_a_read_only_prefix_at_an_upgrade(working):
    with read_only(working, PREFIX):
        refused(newer(working), "mount-options")
        refused(newer(working, "--ignore-check", "mount-options"), "Read-only file system")


@OBSTACLES
def test_no_place_for_units_at_an_upgrade(working, obstacle, told):
    """The upgrade would mend a unit that was changed."""
    unit = f"{UNITS}/{AGENT}"
    working.run(["sed", "--in-place", "$ a # changed", unit])
    try:
        with obstacle(working, UNITS):
            before = work(working)
            refused(newer(working), *told)
            assert difference(before[0], work(working)[0]) == []
    finally:
        working.run(["sed", "--in-place", "$ d", unit])
