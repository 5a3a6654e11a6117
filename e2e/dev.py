"""A cluster that `flmadm dev` runs, in the foreground or in the background."""

import json
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

from cluster import bin_dir, free_port, processes_of
from testbed import wait_until
from testbed.bed import start_time
from testbed.command import run, wait_for_exit

READY_SECONDS = 60
END_SECONDS = 60


class DevCluster:
    """A prefix for `flmadm dev`, with ports of its own. Nothing is started by itself."""

    def __init__(self, prefix=None):
        self.prefix = Path(prefix or tempfile.mkdtemp(prefix="flame-dev-"))
        self.port = free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self._foreground = None

    def __str__(self):
        return f"dev cluster in {self.prefix}"

    def dev(self, command, *words, check=True, timeout=120, env=None):
        """Runs a command of `flmadm dev` to its end."""
        line = [bin_dir() / "flmadm", "dev", command, "--prefix", self.prefix, *words]
        return run(line, check, timeout, env={**os.environ, **(env or {})})

    def up(self, *words, **options):
        """Starts the cluster in the background."""
        return self.dev("up", "--detach", "--endpoint", self.endpoint, *words, **options)

    def foreground(self, *words):
        """Starts the cluster in the foreground; returns when it is ready."""
        self.output = self.prefix.parent / f"{self.prefix.name}.output"
        line = [
            bin_dir() / "flmadm",
            "dev",
            "up",
            "--prefix",
            self.prefix,
            "--endpoint",
            self.endpoint,
            *words,
        ]
        with open(self.output, "w") as output:
            self._foreground = subprocess.Popen(
                [str(word) for word in line],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        wait_until(lambda: self._foreground.poll() is not None or "is ready at" in self.said(), READY_SECONDS)
        return self._foreground

    def said(self):
        """What the foreground has printed."""
        return self.output.read_text()

    def status(self):
        """The state of the cluster."""
        return json.loads(self.dev("status", "-o", "json", check=False).stdout)

    def daemon(self, name):
        """The state of one daemon."""
        return next(daemon for daemon in self.status()["daemons"] if daemon["name"] == name)

    def flmping(self, tasks, endpoint=None):
        """How many tasks have succeeded."""
        env = {**os.environ, "FLAME_ENDPOINT": endpoint or self.endpoint}
        line = [bin_dir() / "flmping", "-t", str(tasks), "--output", "json"]
        return json.loads(run(line, True, 120, env=env).stdout)["succeeded"]

    def busy(self):
        """Starts a task that runs for minutes; returns when its service runs."""
        env = {**os.environ, "FLAME_ENDPOINT": self.endpoint}
        flmctl = bin_dir() / "flmctl"
        session = run([flmctl, "create", "session", "-a", "flmping"], env=env).stdout.split()[0]
        text = '{"duration": 600000, "memory": null}'
        run([flmctl, "create", "task", "-s", session, "--text", text], env=env)

        def running():
            listing = run([flmctl, "list", "tasks", "-s", session, "-o", "json"], env=env).stdout
            return [task for task in json.loads(listing) if task["state"] == "Running"]

        wait_until(running, READY_SECONDS, "a long task running")

    def processes(self):
        """Pids of all living processes of the cluster, without its supervisor."""
        return processes_of(self.prefix)

    def supervisor(self):
        """Pid of the supervisor."""
        pid, started = (self.prefix / "run/supervisor.pid").read_text().split()
        assert start_time(int(pid)) == int(started)
        return int(pid)

    def kill(self, pid):
        """Ends a process as a crash does."""
        os.kill(pid, signal.SIGKILL)
        assert wait_for_exit(pid, END_SECONDS)

    def logs(self):
        """The ends of all logs."""
        return self.dev("logs", check=False).stdout

    def remove(self):
        """Ends everything and removes every file."""
        try:
            self.dev("down", "--clean")
            if self._foreground:
                self._foreground.wait(END_SECONDS)
        finally:
            shutil.rmtree(self.prefix, ignore_errors=True)
            (self.prefix.parent / f"{self.prefix.name}.output").unlink(missing_ok=True)
