"""A node of the test bed as an administrator of Flame uses it: install, look, list all files, uninstall."""

import json
from pathlib import Path

from testbed import wait_until
from testbed.command import run

HERE = Path(__file__).resolve().parent
BIN = "/opt/flame-bin"
SITE = "/opt/flame-site"
PREFIX = "/usr/local/flame"
MANAGER = "flame-session-manager.service"
AGENT = "flame-node-agent.service"
FLMADM = f"{BIN}/flmadm"
READY_SECONDS = 30
# What an installation needs, and flmctl and its like for whoever uses it.
PROGRAMS = (
    "flame-session-manager",
    "flame-node-agent",
    "flame-executor",
    "flmctl",
    "flmadm",
    "flmping",
    "flmping-service",
    "flmexec",
    "flmexec-service",
)

# What systemd and the account tools write on their own account; everything else has to be as it was.
NOT_FLAME = {
    "/var/log/journal": "the journal's logs, as the promise says",
    "/etc/passwd-": "copy of the last but one state that passwd(5) tools keep",
    "/etc/group-": "the same",
    "/etc/shadow-": "the same",
    "/etc/gshadow-": "the same",
    "/run/systemd/units/invocation:polkit.service": "D-Bus starts polkit when it is first asked; it stays",
    "/run/systemd/dynamic-uid": "systemd makes it at the first DynamicUser= of a boot and keeps it",
}


class Machine:
    """A node, and Flame on it."""

    def __init__(self, bed, node):
        self.bed = bed
        self.node = node
        self.endpoint = "http://127.0.0.1:8080"
        self.run = node.run
        self.address = node.address

    def __str__(self):
        return self.node.name

    def install(self, *words, check=True, timeout=60):
        """Runs `flmadm install` with the prebuilt binaries."""
        command = [FLMADM, "install", "--skip-build", "--bin-dir", BIN, *words]
        return self.run(command, check=check, timeout=timeout)

    def tool(self, name, *words, check=True, timeout=120, env=None):
        """Runs one of Flame's tools as a client of this machine's endpoint."""
        chosen = {"FLAME_ENDPOINT": self.endpoint, "NO_COLOR": "1", **(env or {})}
        return self.run([f"{BIN}/{name}", *words], check=check, timeout=timeout, env=chosen)

    def flmctl(self, *words):
        """The JSON answer of flmctl."""
        return json.loads(self.tool("flmctl", *words, "-o", "json").stdout)

    def flmping(self, *words, timeout=120):
        """The JSON report of flmping, which has to succeed."""
        return json.loads(self.tool("flmping", *words, "--output", "json", timeout=timeout).stdout)

    def drop_in(self, unit, text):
        """The unit has this besides, from its next start on; returns the folder of the file."""
        folder = f"/etc/systemd/system/{unit}.d"
        self.node.write(f"{folder}/test.conf", text)
        self.run(["systemctl", "daemon-reload"])
        return folder

    def show(self, unit, *properties):
        """Properties of a unit."""
        lines = self.run(
            ["systemctl", "show", unit, f"--property={','.join(properties)}"]
        ).stdout.splitlines()
        return dict(line.split("=", 1) for line in lines)

    def active(self, unit):
        """Whether systemd calls the unit active."""
        return self.run(["systemctl", "is-active", unit], check=False).stdout.strip() == "active"

    def wait_active(self, unit):
        """Waits until the unit is active."""
        wait_until(lambda: self.active(unit), READY_SECONDS, f"{unit} active on {self}")

    def ready_nodes(self):
        """Host names of the nodes that the session manager calls Ready."""
        listing = self.tool("flmctl", "list", "nodes", "-o", "json", check=False)
        if not listing.ok:
            return []
        return [n["name"] for n in json.loads(listing.stdout) if n["state"] == "Ready"]

    def wait_ready(self, *names):
        """Waits until exactly these nodes are ready for tasks."""
        wait_until(
            lambda: sorted(self.ready_nodes()) == sorted(names),
            READY_SECONDS,
            f"{', '.join(names)} ready, seen from {self}",
        )

    def files(self):
        """A listing of the whole file system: path -> what it is."""
        script = (HERE / "listing.py").read_text()
        mounted = [BIN, SITE]
        return json.loads(self.run(["python3", "-", *mounted], stdin=script).stdout)

    def logs(self):
        """The journal, with the console of a machine that is off."""
        return self.node.journal() or self.node.console()


def whole(make_bed, name):
    """A node of this name with everything installed, ready for tasks."""
    (machine,) = make_bed(name)
    machine.install("--all", "--enable")
    machine.wait_ready(name)
    return machine


def strip(programs, source, folder):
    """Copies programs without debugging information, a tenth of the bytes, to where nodes may read them."""
    folder.chmod(0o755)
    for name in programs:
        run(["strip", "--strip-debug", "-o", folder / name, source / name])


def difference(before, after, without=tuple(NOT_FLAME)):
    """Lines that say how two listings differ, without these paths and what is below them."""
    lines = []
    for path in sorted(before.keys() | after.keys()):
        if before.get(path) != after.get(path) and not _is_below(path, without):
            lines.append(f"{path}: {before.get(path, 'was not there')} -> {after.get(path, 'is gone')}")
    return lines


def _is_below(path, tops):
    return any(path == top or path.startswith(f"{top}/") for top in tops)
