"""A cluster of plain processes for tests, driven through hack/local-test.sh as a developer would."""

import json
import os
import random
import shutil
import socket
import tempfile
from pathlib import Path

from testbed.command import run

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "hack/local-test.sh"
LOG_LINES = 60


METRICS_DISTANCE = 1000


def processes_of(prefix):
    """Pids of all living processes of the cluster in `prefix`, without its supervisor."""
    mark = f"FLAME_LOCAL_CLUSTER={prefix}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:
            pass
    return found


def free_port():
    """A port P so that P (frontend), P + 1 (node link) and P + 1000 (metrics) are free."""
    for _ in range(200):
        # Every other thousand, so that the metrics of one cluster are never the frontend of another.
        port = random.randrange(20000, 30000, 2 * METRICS_DISTANCE) + random.randrange(0, METRICS_DISTANCE, 2)
        if all(_bindable(wanted) for wanted in (port, port + 1, port + METRICS_DISTANCE)):
            return port
    raise RuntimeError("no free ports found")


def _bindable(port):
    with socket.socket() as probe:
        try:
            probe.bind(("0.0.0.0", port))
        except OSError:
            return False
    return True


def bin_dir():
    """The folder with the binaries under test."""
    chosen = os.environ.get("FLAME_BIN_DIR")
    if not chosen:
        raise RuntimeError("FLAME_BIN_DIR is not set: run the tests with `make e2e` or hack/e2e.sh")
    return Path(chosen)


class LocalCluster:
    """One installation in a private prefix, with ports of its own."""

    def __init__(self, prefix=None, port=None):
        self.prefix = Path(prefix or tempfile.mkdtemp(prefix="flame-e2e-"))
        self.port = port or free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        # PEM file of the authority that signed the session manager's certificate.
        self.ca_file = None

    def __str__(self):
        return f"cluster in {self.prefix}"

    @property
    def env(self):
        """The environment in which this cluster's tools are run."""
        chosen = {"INSTALL_PREFIX": str(self.prefix), "FLAME_ENDPOINT": self.endpoint, "NO_COLOR": "1"}
        if self.ca_file:
            chosen["FLAME_CA_FILE"] = str(self.ca_file)
        return {**os.environ, "FLAME_BIN_DIR": str(bin_dir()), **chosen}

    def script(self, *words, check=True, timeout=120):
        """Runs hack/local-test.sh for this cluster."""
        return run([SCRIPT, *words], check, timeout, env=self.env)

    def up(self):
        """Installs and starts the cluster."""
        self.script("install")
        self.script("start")
        return self

    def configure(self, text, changes=None):
        """Appends lines to the cluster's part of the installed configuration, for the next start, and changes
        what it says already."""
        path = self.prefix / "conf/flame-cluster.yaml"
        written = path.read_text()
        for old, new in (changes or {}).items():
            written = written.replace(old, new)
        path.write_text(written + "".join(f"  {line}\n" for line in text.splitlines()))

    def tool(self, name, *words, check=True, timeout=120, env=None):
        """Runs one of Flame's command line tools against this cluster."""
        path = self.prefix / "bin" / name
        return run(
            [path if path.exists() else bin_dir() / name, *words],
            check,
            timeout,
            env={**self.env, **(env or {})},
        )

    def flmctl(self, *words):
        """The JSON answer of flmctl."""
        return json.loads(self.tool("flmctl", *words, "-o", "json").stdout)

    def flmping(self, *words, timeout=120):
        """The JSON report of flmping."""
        return json.loads(self.tool("flmping", *words, "--output", "json", timeout=timeout).stdout)

    def pid(self, daemon):
        """The pid of a daemon."""
        return int((self.prefix / f"run/{daemon}.pid").read_text().split()[0])

    def processes(self):
        """Pids of all living processes that belong to this cluster."""
        return processes_of(self.prefix)

    def logs(self):
        """The end of every daemon's log."""
        parts = []
        for path in sorted((self.prefix / "logs").rglob("*.log")):
            end = path.read_text(errors="replace").splitlines()[-LOG_LINES:]
            parts.append("\n".join([f"--- {path.name}", *end]))
        return "\n".join(parts)

    def down(self):
        """Stops the cluster and removes its files."""
        try:
            self.script("clean")
        finally:
            # With it go the backups that an uninstall made beside it.
            for folder in [self.prefix, *self.prefix.parent.glob(f"{self.prefix.name}.backup.*")]:
                shutil.rmtree(folder, ignore_errors=True)
