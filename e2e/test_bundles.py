"""Installations and upgrades from bundles on a real systemd machine."""

import json
from pathlib import Path

import pytest
from machine import BIN, FLMADM, MANAGER, PREFIX, difference
from releases import SHELF, current, shelve
from testbed import wait_until

pytestmark = pytest.mark.nodes

MAKER = (Path(__file__).parent / "bundles.py").read_text()
UNINSTALL = ["uninstall", "--no-backup", "--remove-user", "--force"]
KEY = f"{SHELF}/flame.key"
# What each bad bundle is refused for.
REFUSALS = {
    "payload": "sbin/flmadm",
    "traversal": "flame-was-here",
    "absolute": "/etc/x",
    "unlisted": "sbin/more",
    "symlink": "sbin/flmadm",
    "hardlink": "sbin/flmadm",
    "huge": "would be larger",
    "foreign": "s390x",
    "truncated": "",
    "garbage": "",
    "empty": "",
}


@pytest.fixture(scope="module")
def machine(make_bed):
    """A node without Flame, with two releases in signed bundles and what it was like."""
    (machine,) = make_bed("bundles")
    machine.run(["mkdir", "-p", SHELF])
    machine.run([FLMADM, "bundle", "keygen", "--no-password", "--out", KEY])
    machine.bundles = {version: make(machine, version) for version in ("1.0.0", "1.1.0")}
    machine.before = machine.files()
    return machine


def make(machine, version):
    """A signed bundle of programs that are a little different."""
    folder = shelve(machine, version)
    words = ["--skip-build", "--bin-dir", folder, "--release-version", version, "--sign", KEY, "--out", SHELF]
    made = machine.run([FLMADM, "bundle", "create", *words, "-o", "json"], timeout=120)
    return json.loads(made.stdout)["bundle"]


def flmadm(machine, *words, check=True, env=None, program=FLMADM):
    """Runs it with the key of the bundles."""
    chosen = ["--key", f"{KEY}.pub"] if words[0] in ("install", "upgrade") else []
    return machine.run([program, *words, *chosen], check=check, timeout=120, env=env)


def install(machine, source, *words, **options):
    """Installs everything from a bundle."""
    return flmadm(machine, "install", "--all", "--enable", "--bundle", source, *words, **options)


def assert_clean(machine):
    """Nothing of a bundle lies about, and nothing else is different."""
    assert difference(machine.before, machine.files()) == []


def test_a_whole_life(machine):
    """Any flmadm installs any release: that of the bundle does the work. An upgrade keeps what runs."""
    result = json.loads(install(machine, machine.bundles["1.0.0"], "-o", "json").stdout)
    assert (result["version"], result["release"]) == ("1.0.0", "1.0.0"), result
    machine.wait_ready("bundles")
    machine.flmping("-t", "100")
    again = json.loads(install(machine, machine.bundles["1.0.0"], "-o", "json").stdout)
    assert again["changed"] == [], again
    assert flmadm(machine, "verify").ok
    upgraded = flmadm(machine, "upgrade", "--bundle", machine.bundles["1.1.0"], "-o", "json")
    result = json.loads(upgraded.stdout)
    assert (result["previous"], result["release"], result["probe"]) == ("1.0.0", "1.1.0", "done"), result
    pid = machine.show(MANAGER, "MainPID")["MainPID"]
    program = machine.run(["readlink", f"/proc/{pid}/exe"]).stdout.strip()
    assert program == f"{PREFIX}/releases/1.1.0/bin/flame-session-manager"
    machine.flmping("-t", "100")
    for verb in ("install", "upgrade"):
        words = ["--all"] if verb == "install" else []
        refused = flmadm(machine, verb, *words, "--bundle", machine.bundles["1.0.0"], check=False)
        assert refused.returncode == 1 and "--allow-downgrade" in refused.stderr, refused
    assert current(machine) == "1.1.0"
    flmadm(machine, "rollback")
    assert current(machine) == "1.0.0"
    assert machine.run(["ls", "-A", "/usr/local"]).stdout.split().count("flame") == 1
    assert ".flmadm" not in machine.run(["ls", "-A", "/usr/local"]).stdout
    flmadm(machine, *UNINSTALL)
    assert_clean(machine)


def test_a_download(machine):
    """A bundle comes from an address, and nothing of the download stays."""
    server = machine.node.background(
        ["python3", "-m", "http.server", "--bind", "127.0.0.1", "--directory", SHELF, "8123"]
    )
    address = f"http://127.0.0.1:8123/{machine.bundles['1.0.0'].rsplit('/', 1)[-1]}"
    probe = ["python3", "-c", "import socket; socket.create_connection(('127.0.0.1', 8123))"]
    wait_until(lambda: machine.run(probe, check=False).ok, 30, "the server listens")
    install(machine, address)
    assert current(machine) == "1.0.0"
    flmadm(machine, *UNINSTALL)
    missing = install(machine, f"{address}.not", check=False)
    assert missing.returncode == 2 and "nothing at this address" in missing.stderr, missing
    machine.run(["pkill", "-f", "[h]ttp.server --bind"])
    wait_until(server.done, 30, "the server has ended")
    assert_clean(machine)


def test_bad_bundles(machine):
    """They are refused before anything is written, whatever is allowed."""
    folder = "/run/bad-bundles"
    machine.run(["mkdir", folder])
    architecture = machine.run(["uname", "-m"]).stdout.strip()
    machine.run(["python3", "-", folder, architecture], stdin=MAKER)
    # The maker makes what is taken, but for what is wrong on purpose.
    assert flmadm(machine, "bundle", "verify", f"{folder}/good.tar.zst", "--allow-unsigned").ok
    refused = install(machine, f"{folder}/good.tar.zst", check=False)
    assert refused.returncode == 1 and "--allow-unsigned" in refused.stderr, refused
    for name, why in REFUSALS.items():
        refused = install(machine, f"{folder}/{name}.tar.zst", "--allow-unsigned", check=False)
        assert refused.returncode == 1 and why in refused.stderr, (name, refused)
        assert "panicked" not in refused.stderr, (name, refused)
    signed = machine.bundles["1.0.0"]
    other = f"{folder}/other.tar.zst"
    for change in (
        f"cp {signed} {other}; cp {signed}.minisig {other}.minisig; printf X | "
        f"dd of={other} bs=1 seek=100000 conv=notrunc status=none",
        f"cp {signed} {other}; sed '2s/^.\\{{20\\}}./&A/' {signed}.minisig > {other}.minisig",
        f"head -c 1000000 {signed} > {other}; cp {signed}.minisig {other}.minisig",
        f"cp {signed} {other}; cp {machine.bundles['1.1.0']}.minisig {other}.minisig",
    ):
        machine.run(["sh", "-c", change])
        refused = install(machine, other, "--allow-unsigned", "--allow-unknown-key", check=False)
        assert refused.returncode == 1 and "signature" in refused.stderr, (change, refused)
    stranger = f"{folder}/stranger.key"
    machine.run([FLMADM, "bundle", "keygen", "--no-password", "--out", stranger])
    words = ["install", "--all", "--bundle", signed, "--key", f"{stranger}.pub"]
    refused = machine.run([FLMADM, *words], check=False)
    assert refused.returncode == 1 and "--allow-unknown-key" in refused.stderr, refused
    machine.run(["rm", "-r", folder])
    assert_clean(machine)


@pytest.mark.parametrize("at", [1, 2, 9, 60])
def test_kills(machine, at):
    """What a killed command has unpacked or begun is put in order, whichever of both programs was killed."""
    killed = install(machine, machine.bundles["1.0.0"], check=False, env={"FLMADM_TEST_KILL_AT": str(at)})
    assert not killed.ok
    left = machine.run(["ls", "-A", "/usr/local"]).stdout
    assert (".bundle" in left) == (at == 2), left
    flmadm(machine, "repair", program=f"{BIN}/flmadm")
    assert_clean(machine)
