"""Daemons of a cluster of plain processes that a test kills and starts again at once, as systemd would."""

import contextlib
import os
import signal
import subprocess
import threading
import time

from testbed.bed import start_time
from testbed.command import wait_for_exit

MANAGER = "flame-session-manager"
AGENT = "flame-node-agent"
EXIT_SECONDS = 10
# An agent lets its tasks end and says goodbye.
STOP_SECONDS = 30


class Daemon:
    """One daemon of an installed cluster, started as hack/local-test.sh does, which can stop it later.

    `name` is that of its log and of its pid file. `within` is a command in front of the daemon's, such as
    nsenter, that becomes the daemon.
    """

    def __init__(self, cluster, program, name=None, arguments=(), env=None, within=()):
        self.cluster = cluster
        self.program = program
        self.name = name or program
        self.kills = 0
        self._arguments = [str(word) for word in arguments]
        self._env = dict(env or {})
        self._within = [str(word) for word in within]
        self._process = None
        self._pid = None

    @property
    def pid(self):
        """The daemon's pid."""
        return self._pid

    def kill(self):
        """Ends the daemon as a crash does."""
        if self._process:  # it may have ended by itself
            self._process.kill()
            self._process.wait(EXIT_SECONDS)
            self.kills += 1
            return
        os.kill(self._pid, signal.SIGKILL)
        if not wait_for_exit(self._pid, EXIT_SECONDS):
            raise TimeoutError(f"{self.name} ({self._pid}) does not end")
        self.kills += 1

    def start(self):
        """Starts the daemon; returns at once."""
        prefix = self.cluster.prefix
        env = {**os.environ, "FLAME_LOCAL_CLUSTER": str(prefix), "FLAME_HOME": str(prefix), **self._env}
        for folder in ("logs", "run", "work"):
            (prefix / folder).mkdir(exist_ok=True)
        command = [
            *self._within,
            self._path(),
            "--config",
            prefix / "conf/flame-cluster.yaml",
            *self._arguments,
        ]
        with open(prefix / f"logs/{self.name}.log", "a") as log:
            self._process = subprocess.Popen(
                command,
                cwd=prefix / "work",
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._pid = self._process.pid
        (prefix / f"run/{self.name}.pid").write_text(f"{self._pid} {start_time(self._pid)}\n")

    def stop(self):
        """Stops a daemon that `start` started in an orderly way; its exit status."""
        self._process.terminate()
        return self._process.wait(STOP_SECONDS)

    def ended(self):
        """The exit status of a daemon that has ended by itself since `start`, None while it runs."""
        return self._process.poll()

    def _path(self):
        folders = (self.cluster.prefix / name for name in ("sbin", "bin", "libexec"))
        return next(folder / self.program for folder in folders if (folder / self.program).exists())


class Agent(Daemon):
    """One of several node agents on this host. `resources` are what its node offers, as `cpu=2,mem=4g`."""

    def __init__(self, cluster, name, resources):
        sockets = cluster.prefix / "run" / name
        arguments = ("--name", name, "--resources", resources)
        super().__init__(cluster, AGENT, name, arguments, {"FLAME_SOCKET_DIR": str(sockets)})

    def label(self, *labels):
        """The labels that its node has from the next start on."""
        self._env["FLAME_NODE_LABELS"] = ",".join(labels)

    def services(self):
        """Pids of the service processes that it has started, or of their launchers."""
        try:
            with open(f"/proc/{self.pid}/task/{self.pid}/children") as children:
                return [int(pid) for pid in children.read().split()]
        except FileNotFoundError:
            return []


class Supervisor(Daemon):
    """Owns the session manager of a running cluster."""

    def __init__(self, cluster, within=()):
        super().__init__(cluster, MANAGER, within=within)
        self._pid = cluster.pid(MANAGER)

    @contextlib.contextmanager
    def killing(self, interval):
        """Kills the manager every `interval` seconds until the block ends; it runs afterwards."""

        def kill():
            self.kill()
            self.start()

        with every(interval, kill):
            yield self


@contextlib.contextmanager
def every(interval, action):
    """Calls `action` every `interval` seconds, in a thread of its own, until the block ends."""
    done = threading.Event()
    failures = []

    def loop():
        try:
            due = time.monotonic() + interval
            while not done.wait(max(0.0, due - time.monotonic())):
                action()
                due += interval
        except Exception as error:  # told where the block ends
            failures.append(error)

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    if failures:
        raise failures[0]
