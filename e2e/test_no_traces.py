"""What any kind of installation leaves when it is removed is nothing, also if the removal was killed."""

import json

import pytest
from ann import AS_ANN, OTHERS, Ann
from machine import AGENT, BIN, FLMADM, MANAGER, NOT_FLAME, PREFIX, difference

pytestmark = pytest.mark.nodes

KILLED = -9
UNITS = "/etc/systemd/system"
INSTALL = ("install", "--skip-build", "--bin-dir", BIN)
UNINSTALL = ("uninstall", "--no-backup", "--force")
SERVICES = ("--all", "--enable")
FAR = "http://manager.example.com:8080"
# Of each kind: words of install, words that say which is meant, and the effect at which the removal is
# killed: some are undone then, some finished.
KINDS = {
    "all": (SERVICES, (), 20),
    "all-that-never-ran": (("--all",), (), 52),
    "control-plane": (("--control-plane", "--enable"), (), 12),
    "worker": (("--worker", "--enable", "--endpoint", FAR), (), 44),
    "client": (("--client",), (), 6),
    "instance": (SERVICES, ("--instance", "prod"), 48),
    "prefix": (SERVICES, ("--prefix", "/opt/below/it/flame"), 50),
    "no-systemd": (("--all", "--no-systemd"), ("--prefix", "/srv/flame"), 7),
    "user": (SERVICES, ("--user",), 30),
    "instance-of-a-user": (SERVICES, ("--user", "--instance", "test"), 5),
}


@pytest.fixture(scope="module")
def machine(make_bed):
    """A node with a user who has a service manager, before any installation."""
    (machine,) = make_bed("traces")
    machine.ann = Ann(machine)
    # Whoever asks polkit first, or waits for the network, starts these, and they stay.
    machine.run(["systemctl", "start", "polkit", "network-online.target"])
    machine.before = machine.files()
    machine.units = units(machine)
    return machine


def units(machine):
    """All units and unit files, of the machine and of Ann, with their states."""
    found = set()
    for run, manager in ((machine.run, "--system"), (machine.ann.run, "--user")):
        files = run(["systemctl", manager, "list-unit-files", "--output=json"]).stdout
        loaded = run(["systemctl", manager, "list-units", "--all", "--output=json"]).stdout
        found |= {(manager, each["unit_file"], each["state"]) for each in json.loads(files)}
        found |= {(manager, each["unit"], each["active"]) for each in json.loads(loaded)}
    return found


@pytest.mark.parametrize(("chosen", "which", "kill_at"), KINDS.values(), ids=KINDS.keys())
def test_nothing_is_left(machine, chosen, which, kill_at):
    """The removal is killed in the middle and given again."""
    user = "--user" in which
    hers = AS_ANN if user else ()
    machine.run([*hers, FLMADM, *INSTALL, *chosen, *which])
    remove = [*hers, FLMADM, *UNINSTALL, *which, *(() if user else ("--remove-user",))]
    killed = machine.run(["env", f"FLMADM_TEST_KILL_AT={kill_at}", *remove], check=False)
    assert killed.returncode == KILLED, killed
    machine.run(remove)
    left = difference(machine.before, machine.files(), without=(*NOT_FLAME, *(OTHERS if user else ())))
    assert left == []
    assert units(machine) ^ machine.units == set()


@pytest.mark.parametrize(
    "spoil",
    [
        f"rm {UNITS}/{AGENT}; ln -sf /dev/null {UNITS}/{MANAGER}; systemctl daemon-reload",
        f"echo '[' > {PREFIX}/conf/flame-cluster.yaml; systemctl restart {MANAGER}; systemctl stop {AGENT}",
    ],
    ids=["gone-and-masked", "failed"],
)
def test_units_are_removed_in_any_state(machine, spoil):
    """Services whose units are masked or gone still run, and have to be stopped."""
    machine.run([FLMADM, *INSTALL, *SERVICES])
    machine.run(["sh", "-c", spoil], check=False)
    machine.run([FLMADM, *UNINSTALL, "--remove-user"])
    assert difference(machine.before, machine.files()) == []
    assert units(machine) ^ machine.units == set()
