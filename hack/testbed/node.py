"""One machine of the bed: a container with its own systemd, file system, host name and network."""

import os
import select
import shlex
import socket
import subprocess
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .cgroup import Cgroup
from .command import Result, run, wait_for_exit, wait_until

BOOT_SECONDS = 60
STOP_SECONDS = 30
START_SECONDS = 30
# After this long past its own limit, a command in a node is killed.
KILL_GRACE = 5
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "SYSTEMD_PAGER": "",
}


class NodeError(Exception):
    """A node did not come up; the message holds the end of its console."""


class Node:
    """A machine of a bed. `leader` is the pid of its systemd as the host sees it, None while it is off."""

    def __init__(self, name, index, home, machine, namespace, address):
        self.name = name
        self.index = index
        self.home = Path(home)
        self.machine = machine
        self.namespace = namespace
        self.address = address
        self.leader = None
        self.supervisor = None
        self.environment = dict(ENVIRONMENT)
        self._cgroup = Cgroup(machine)
        self._process = None
        self._threads = ThreadPoolExecutor(max_workers=8)

    # -- life ----------------------------------------------------------------------------------

    @property
    def root(self):
        """The node's file system as the host sees it (without what is mounted inside, as /run or /tmp)."""
        return self.home / "root"

    def prepare(self, tree, hosts):
        """Gives the node its own writable layer over the shared tree, a name and the others' addresses."""
        for part in ("upper", "work", "root"):
            (self.home / part).mkdir(parents=True)
        layers = f"lowerdir={tree},upperdir={self.home / 'upper'},workdir={self.home / 'work'}"
        run(["mount", "-t", "overlay", f"flame-{self.name}", "-o", layers, self.root])
        etc = self.root / "etc"
        (etc / "hostname").write_text(f"{self.name}\n")
        (etc / "machine-id").write_text(f"{uuid.uuid4().hex}\n")
        lines = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in hosts.items())]
        (etc / "hosts").write_text("\n".join(lines) + "\n")

    def boot(self, binds=None):
        """Starts the machine and returns when its systemd says that the boot is complete."""
        self._cgroup.create()
        path = self.home / "notify"
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
            listener.bind(str(path))
            self._spawn(binds or {}, path)
            self._await_ready(listener)
        self.run(["systemctl", "is-system-running", "--wait"], check=False)

    def power_off(self, hard=False):
        """Stops the machine: orderly, or `hard` as by pulling the plug. Its file system stays."""
        if not hard and self.leader is not None:
            self.run(["systemctl", "poweroff", "--no-block"], check=False)
            wait_for_exit(self.supervisor, STOP_SECONDS)
        self._cgroup.kill()
        if self._process is not None:
            self._process.wait()
        self.leader = self.supervisor = self._process = None
        self._cgroup.remove()

    def reboot(self, binds=None, hard=False):
        """Stops the machine and boots it again with the same file system."""
        self.power_off(hard)
        self.boot(binds)

    def remove(self):
        """Ends the machine and throws its file system away. Safe to repeat."""
        self.power_off(hard=True)
        self._threads.shutdown(wait=False, cancel_futures=True)
        if os.path.ismount(self.root):
            run(["umount", self.root])
        propagation = Path("/run/systemd/nspawn/propagate") / self.machine
        if propagation.is_dir():
            propagation.rmdir()  # systemd-nspawn leaves it where /run is not a tmpfs

    def _spawn(self, binds, notify):
        options = ["--quiet", "--register=no", "--keep-unit", "--boot", "--settings=no", "--link-journal=no"]
        options += ["--resolv-conf=off", "--timezone=off", "--notify-ready=yes", "--console=pipe"]
        options += [f"--machine={self.machine}", f"--hostname={self.name}", f"--directory={self.root}"]
        options += [f"--network-namespace-path=/run/netns/{self.namespace}"]
        options += [f"--bind-ro={host}:{inside}" for inside, host in binds.items()]
        # The shell puts itself into the node's group before it becomes nspawn: nothing escapes.
        enter = f'echo $$ > {shlex.quote(str(self._cgroup.procs))} && exec "$@"'
        environment = {**ENVIRONMENT, "NOTIFY_SOCKET": str(notify), "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"}
        with open(self.home / "console", "ab") as console:
            self._process = subprocess.Popen(
                ["sh", "-c", enter, "sh", "systemd-nspawn", *options],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                env=environment,
                start_new_session=True,
            )
        self.supervisor = self._process.pid

    def _await_ready(self, listener):
        """Reads the notifications of systemd-nspawn: the leader's pid, then that the boot is complete."""
        handle = os.pidfd_open(self.supervisor)
        try:
            poller = select.poll()
            poller.register(listener, select.POLLIN)
            poller.register(handle, select.POLLIN)
            while True:
                events = dict(poller.poll(BOOT_SECONDS * 1000))
                if listener.fileno() not in events:
                    why = "ended at once" if events else f"was not up within {BOOT_SECONDS} s"
                    raise NodeError(f"node {self.name} {why}\n{self.console()[-4000:]}")
                words = listener.recv(4096).decode().splitlines()
                for word in words:
                    key, _, value = word.partition("=")
                    if key == "X_NSPAWN_LEADER_PID":
                        self.leader = int(value)
                if "READY=1" in words and self.leader is not None:
                    return
        finally:
            os.close(handle)

    def console(self):
        """What the node and systemd-nspawn wrote to the console."""
        return (self.home / "console").read_text(errors="replace")

    # -- use -----------------------------------------------------------------------------------

    def enter(self, args, env=None):
        """The command line that runs `args` inside the node, to be run on the host as root."""
        if self.leader is None:
            raise NodeError(f"node {self.name} is off")
        words = [f"{k}={v}" for k, v in {**self.environment, **(env or {})}.items()]
        return ["nsenter", "--target", self.leader, "--all", "env", "-i", *words, *args]

    def run(self, args, check=True, timeout=120, stdin=None, env=None):
        """Runs a command as root in the node; exit code 124: still running after `timeout` s."""
        limited = ["timeout", f"--kill-after={KILL_GRACE}", str(timeout), *map(str, args)]
        return run(self.enter(limited, env), check, timeout + 2 * KILL_GRACE, stdin)

    def background(self, args, timeout=120, env=None):
        """Runs a command beside the test; the future's result is its `Result`, failed or not."""
        return self._threads.submit(self.run, args, False, timeout, None, env)

    def copy_in(self, source, target, mode=None):
        """Copies a file, or a folder with all in it, to the path `target` in the node."""
        source = Path(source)
        if source.is_dir():
            packed = run_binary(["tar", "-C", source, "-c", "."])
            self.run(["mkdir", "-p", target])
            self.run(["tar", "-C", target, "-x", "--no-same-owner"], stdin=packed)
        else:
            self.write(target, source.read_bytes(), mode or oct(source.stat().st_mode & 0o777)[2:])

    def write(self, target, content, mode="644"):
        """Writes a file in the node, with the folders above it."""
        self.run(["install", "-D", "-m", mode, "/dev/stdin", target], stdin=content)

    def read(self, path):
        """The text of a file in the node."""
        return self.run(["cat", path]).stdout

    def wait_until(self, args, timeout=30, what=None):
        """Runs a command until it succeeds; returns its result."""
        last = Result(list(args), -1, "", "not run")

        def attempt():
            nonlocal last
            last = self.run(args, check=False)
            return last.ok

        try:
            wait_until(attempt, timeout, what or " ".join(map(str, args)))
        except TimeoutError as late:
            raise TimeoutError(f"{self.name}: {late}\n{last}") from None
        return last

    def main_pid(self, unit):
        """The main process of a unit, as the node numbers it; 0 if it has none."""
        return int(self.run(["systemctl", "show", "--property=MainPID", "--value", unit]).stdout or 0)

    def kill(self, unit):
        """Kills the main process of a unit with SIGKILL, as a crash would; returns the pid it had.
        A unit that is just being started has some time to have one."""
        pid = wait_until(lambda: self.main_pid(unit), START_SECONDS, f"{unit} has a process")
        self.run(["kill", "-KILL", str(pid)])
        return pid

    def journal(self, *options):
        """The journal of the node, over all its boots; `options` go to journalctl (as `-u UNIT`)."""
        if self.leader is None:
            command = ["journalctl", "--directory", self.root / "var/log/journal"]
            return run([*command, "--no-pager", "--output=short-precise", *options], check=False).stdout
        return self.run(["journalctl", "--no-pager", "--output=short-precise", *options], check=False).stdout


def run_binary(args):
    """The bytes that a command on the host prints."""
    return subprocess.run(
        [str(a) for a in args], check=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    ).stdout
