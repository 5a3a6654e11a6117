"""`flmadm doctor` on a real machine: what is broken is found by its name, and a healthy one has no errors."""

import contextlib
import json

import pytest
from machine import AGENT, FLMADM, MANAGER, PREFIX, whole
from testbed import wait_until

pytestmark = pytest.mark.nodes

UNITS = "/etc/systemd/system"
RULE = "/etc/polkit-1/rules.d/50-flame.rules"
POLKIT_SECONDS = 10
# What the fast checks of install may take, with the start of the program that makes them.
FAST_SECONDS = 0.05
LISTENER = (
    "import socket, time; s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); "
    "s.bind(('127.0.0.1', 8080)); s.listen(); time.sleep(600)"
)


@pytest.fixture(scope="module")
def machine(make_bed):
    """One node with everything installed."""
    return whole(make_bed, "doctor")


def doctor(machine, *words):
    """The report, and the exit code."""
    answer = machine.run([FLMADM, "doctor", "-o", "json", *words], check=False)
    return json.loads(answer.stdout), answer.returncode


def failed(machine, *words):
    """What is wrong, as id -> evidence."""
    report, _ = doctor(machine, *words)
    return {found["id"]: found["evidence"] for found in report["checks"] if found["state"] == "failed"}


def errors(report):
    """Ids of the errors in a report."""
    return [f["id"] for f in report["checks"] if f["state"] == "failed" and f["severity"] == "error"]


@contextlib.contextmanager
def moved(machine, path):
    """A file is not there for a while."""
    machine.run(["mv", path, f"{path}.away"])
    try:
        yield
    finally:
        machine.run(["mv", f"{path}.away", path])


def test_nothing_is_wrong_with_a_healthy_machine(machine):
    report, code = doctor(machine)
    assert errors(report) == [], report
    assert report["healthy"] and code == 0
    unknown = [found for found in report["checks"] if found["state"] == "unknown"]
    # A node without systemd-timedated cannot say who keeps its clock.
    assert [found["id"] for found in unknown if found["id"] != "clock"] == [], unknown
    found = {check["id"]: check["evidence"] for check in report["checks"]}
    assert "of the agent" not in found["polkit-permission"] and "lets process" in found["polkit-permission"]
    assert found["services"].count("is active") == 3


def test_without_root_it_says_what_it_could_not_look_at(machine):
    words = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", FLMADM, "doctor", "-o", "json"]
    report = json.loads(machine.run(words, check=False).stdout)
    assert errors(report) == [], report
    assert "unknown" in {found["state"] for found in report["checks"]}


def test_a_port_of_somebody_else(machine):
    machine.run(["systemctl", "stop", MANAGER])
    machine.run(["systemd-run", "--unit=squatter", "python3", "-c", LISTENER])
    try:
        wait_until(lambda: "ports" in failed(machine), 10, "the port is taken")
        found = failed(machine)
        assert "127.0.0.1:8080 (Frontend) is held by process" in found["ports"] and "python" in found["ports"]
        assert f"{MANAGER} is enabled, but stopped" in found["services"]
    finally:
        machine.run(["systemctl", "stop", "squatter"])
        machine.run(["systemctl", "start", MANAGER])
    machine.wait_ready("doctor")


def test_a_unit_file_that_was_changed(machine):
    unit = f"{UNITS}/{MANAGER}"
    machine.run(["cp", "-p", unit, "/root/unit"])
    machine.run(["sh", "-c", f"echo '# changed' >> {unit}"])
    try:
        found = failed(machine)
        assert f"{unit} was changed" in found["unit-drift"]
        assert MANAGER in found["units-read"]
        report, code = doctor(machine, "--ignore", "unit-drift")
        assert code == 0 and report["ignored"] == ["unit-drift"]
    finally:
        machine.run(["mv", "/root/unit", unit])
        machine.run(["systemctl", "daemon-reload"])
    assert "unit-drift" not in failed(machine)


def test_a_unit_file_that_is_gone(machine):
    with moved(machine, f"{UNITS}/{AGENT}"):
        assert f"{AGENT} is missing" in failed(machine)["unit-drift"]


def test_drop_ins_of_an_administrator(machine):
    folder = machine.drop_in(AGENT, "[Service]\nNice=1\n")
    try:
        report, code = doctor(machine)
        assert f"{folder}/test.conf" in failed(machine, "--check", "drop-ins")["drop-ins"]
        assert code == 0, errors(report)
    finally:
        machine.run(["rm", "-r", folder])
        machine.run(["systemctl", "daemon-reload"])


def test_polkit_that_does_not_answer_or_does_not_agree(machine):
    machine.run(["systemctl", "mask", "--runtime", "--now", "polkit.service"])
    try:
        assert "polkit-permission" in failed(machine)
    finally:
        machine.run(["systemctl", "unmask", "--runtime", "polkit.service"])
    only = ("--check", "polkit-permission")
    with moved(machine, RULE):
        wait_until(
            lambda: "does not let" in failed(machine, *only).get("polkit-permission", ""),
            POLKIT_SECONDS,
            "no rule",
        )
    wait_until(lambda: failed(machine, *only) == {}, POLKIT_SECONDS, "the rule is read again")


def test_a_full_disk(machine):
    logs = f"{PREFIX}/logs"
    machine.run(["mount", "-t", "tmpfs", "-o", "size=8m,mode=0750,uid=flame,gid=flame", "tmpfs", logs])
    try:
        found = failed(machine)
        assert logs in found["disk-space"] and "directories" not in found
    finally:
        machine.run(["umount", logs])


def test_a_process_of_a_program_that_was_replaced(machine):
    program = f"{PREFIX}/bin/flame-node-agent"
    machine.run(["sh", "-c", f"cp {program} {program}.new && mv {program}.new {program}"])
    found = failed(machine)
    assert "flame-node-agent" in found["old-processes"] and "file-drift" not in found
    machine.run(["systemctl", "restart", AGENT])
    machine.wait_ready("doctor")
    assert "old-processes" not in failed(machine)


def test_a_program_that_was_changed_and_a_key_that_nobody_knows(machine):
    program, config = f"{PREFIX}/bin/flmping", f"{PREFIX}/conf/flame-cluster.yaml"
    machine.run(["cp", "-p", program, "/root/program"])
    machine.run(["cp", "-p", config, "/root/config"])
    machine.run(["sh", "-c", f"echo x >> {program}; echo '  nmae: x' >> {config}"])
    try:
        found = failed(machine)
        assert (
            f"{program} was changed" in found["file-drift"]
            or "/bin/flmping was changed" in found["file-drift"]
        )
        assert "nmae" in found["configuration"]
    finally:
        machine.run(["mv", "/root/program", program])
        machine.run(["mv", "/root/config", config])


def test_install_looks_first(machine):
    second = ["--control-plane", "--no-systemd", "--prefix", "/root/second"]
    refused = machine.install(*second, check=False)
    assert refused.returncode == 3 and "ports: " in refused.stderr, refused
    assert machine.run(["test", "-e", "/root/second"], check=False).returncode != 0
    machine.install(*second, "--ignore-check", "ports")
    machine.run([FLMADM, "uninstall", "--prefix", "/root/second", "--force", "--no-backup"])


def test_the_checks_of_install_are_fast(machine):
    listed = json.loads(machine.run([FLMADM, "doctor", "--list", "-o", "json"]).stdout)["checks"]
    first = [word for check in listed if check["preflight"] for word in ("--check", check["id"])]
    assert first

    def once():
        """Seconds of one run in the node, without the way into it."""
        script = (
            "import subprocess, time; before = time.monotonic(); "
            f"subprocess.run({[FLMADM, 'doctor', *first]!r}); print(time.monotonic() - before)"
        )
        return float(machine.run(["python3", "-c", script]).stdout.splitlines()[-1])

    assert min(once() for _ in range(5)) < FAST_SECONDS


def test_what_is_left_when_everything_is_removed(machine):
    """The last word: units without their installation."""
    machine.run(["cp", f"{UNITS}/{MANAGER}", "/root/unit"])
    machine.run([FLMADM, "uninstall", "--no-backup", "--force", "--remove-user"])
    report, code = doctor(machine)
    assert code == 0 and report["version"] is None, errors(report)
    machine.run(["mv", "/root/unit", f"{UNITS}/{MANAGER}"])
    assert f"{UNITS}/{MANAGER}" in failed(machine)["leftovers"]
