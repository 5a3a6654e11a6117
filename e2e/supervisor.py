"""Kills a cluster's session manager and starts it again at once, as systemd would."""

import contextlib
import os
import signal
import subprocess
import threading

from testbed.bed import start_time
from testbed.command import wait_for_exit

MANAGER = "flame-session-manager"
EXIT_SECONDS = 10


class Supervisor:
    """Owns the session manager of a running cluster of plain processes.

    `within` is a command in front of the manager's, such as nsenter, that becomes the manager.
    """

    def __init__(self, cluster, within=()):
        self.cluster = cluster
        self.kills = 0
        self._within = [str(word) for word in within]
        self._pid = cluster.pid(MANAGER)
        self._process = None

    @property
    def pid(self):
        """The manager's pid."""
        return self._pid

    def kill(self):
        """Ends the manager as a crash does."""
        if self._process:  # it may have ended by itself
            self._process.kill()
            self._process.wait(EXIT_SECONDS)
            self.kills += 1
            return
        os.kill(self._pid, signal.SIGKILL)
        if not wait_for_exit(self._pid, EXIT_SECONDS):
            raise TimeoutError(f"{MANAGER} ({self._pid}) does not end")
        self.kills += 1

    def start(self):
        """Starts the manager as hack/local-test.sh does, which can stop it later."""
        prefix = self.cluster.prefix
        env = {**os.environ, "FLAME_LOCAL_CLUSTER": str(prefix), "FLAME_HOME": str(prefix)}
        with open(prefix / f"logs/{MANAGER}.log", "a") as log:
            self._process = subprocess.Popen(
                [*self._within, self._program(), "--config", prefix / "conf/flame-cluster.yaml"],
                cwd=prefix / "work",
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._pid = self._process.pid
        (prefix / f"run/{MANAGER}.pid").write_text(f"{self._pid} {start_time(self._pid)}\n")

    def _program(self):
        folders = (self.cluster.prefix / name for name in ("sbin", "bin", "libexec"))
        return next(folder / MANAGER for folder in folders if (folder / MANAGER).exists())

    @contextlib.contextmanager
    def killing(self, interval):
        """Kills the manager every `interval` seconds until the block ends; it runs afterwards."""
        done = threading.Event()
        failures = []

        def loop():
            try:
                while not done.wait(interval):
                    self.kill()
                    self.start()
            except Exception as error:  # told where the block ends
                failures.append(error)

        thread = threading.Thread(target=loop)
        thread.start()
        try:
            yield self
        finally:
            done.set()
            thread.join()
        if failures:
            raise failures[0]
