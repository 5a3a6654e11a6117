"""A private cluster on this machine whose daemons the benchmark starts, kills and looks at itself."""

import json
import os
import resource
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from .command import BenchError, run
from .processes import cpu, family_cpu, memory

ROOT = Path(__file__).resolve().parent.parent.parent
SCRIPT = ROOT / "hack/local-test.sh"
MANAGER, AGENT = DAEMONS = ("flame-session-manager", "flame-node-agent")
STORAGES = {
    "none": ("none", "full"),
    "sqlite full": ("sqlite://{prefix}/data/bench.db", "full"),
    "sqlite normal": ("sqlite://{prefix}/data/bench.db", "normal"),
}
# The same service without the streaming call, and one that returns its input.
STREAMING, UNARY, ECHO = "flmping", "bench-unary", "bench-echo"
# Enough for every case, whatever the machine has: what is measured is the work of the control plane.
SLOTS = 64
READY_SECONDS = 30
STOP_SECONDS = 30
WARM_UP_TASKS = 2000


class Cluster:
    """Session manager, one agent and the applications; a context that removes everything."""

    def __init__(self, bench, storage="sqlite full", slots=SLOTS):
        self.bench = bench
        self.storage = storage
        self.slots = slots
        self.processes = {}

    def __enter__(self):
        self.prefix = Path(tempfile.mkdtemp(prefix="flame-bench-", dir=self.bench.directory))
        self.endpoint = f"http://127.0.0.1:{free_port()}"
        self.env = {
            **os.environ,
            "FLAME_BIN_DIR": str(self.bench.bin_dir),
            "INSTALL_PREFIX": str(self.prefix),
            "FLAME_ENDPOINT": self.endpoint,
            # local-test.sh ends what is left of a cluster by this mark.
            "FLAME_LOCAL_CLUSTER": str(self.prefix),
            "FLAME_HOME": str(self.prefix),
        }
        try:
            run([SCRIPT, "install"], self.env)
            self.configure()
            self.start(MANAGER)
            self.start(AGENT)
            self.await_node()
            self.register()
            self.flmping("-p", "-t", WARM_UP_TASKS)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for name in reversed(DAEMONS):
            self.stop(name)
        env = {key: value for key, value in self.env.items() if key != "FLAME_LOCAL_CLUSTER"}
        subprocess.run(
            [SCRIPT, "clean"],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )
        shutil.rmtree(self.prefix, ignore_errors=True)

    def configure(self):
        """Writes the configuration."""
        storage, sync = STORAGES[self.storage]
        cluster = {
            "name": "bench",
            "endpoint": self.endpoint,
            "storage": storage.format(prefix=self.prefix),
            "storage_sync": sync,
        }
        (self.prefix / "data").mkdir(exist_ok=True)
        # JSON is YAML.
        (self.prefix / "conf/flame-cluster.yaml").write_text(json.dumps({"cluster": cluster}))
        sockets = self.prefix / "run/sockets"
        sockets.mkdir(parents=True)
        self.env["FLAME_SOCKET_DIR"] = str(sockets)
        if self.slots:
            self.env["FLAME_NODE_RESOURCES"] = f"cpu={self.slots},mem={self.slots}g"

    def register(self):
        """Registers the applications that are not built in."""
        service = f"{self.prefix}/bin/flmping-service"
        register = ("register", "application")
        self.flmctl(*register, UNARY, "--command", service, "--env", "FLAME_SERVICE_STREAM=off")
        self.flmctl(*register, ECHO, "--command", self.bench.bin_dir / "flmping-echo")

    # -- daemons ------------------------------------------------------------------------------

    def start(self, name):
        """Starts a daemon; its log goes to a file."""
        folder = next(f for f in ("bin", "sbin", "libexec") if (self.prefix / f / name).exists())
        (self.prefix / "logs").mkdir(exist_ok=True)
        (self.prefix / "work").mkdir(exist_ok=True)
        with self.log(name).open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [self.prefix / folder / name, "--config", self.prefix / "conf/flame-cluster.yaml"],
                cwd=self.prefix / "work",
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def stop(self, name):
        """Stops a daemon in order."""
        process = self.processes.pop(name, None)
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def kill(self, name):
        """Ends a daemon as a crash does."""
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    def pid(self, name):
        """The pid of a daemon that runs."""
        process = self.processes[name]
        if process.poll() is not None:
            raise BenchError(f"{name} ended with {process.returncode}\n{self.log(name).read_text()[-2000:]}")
        return process.pid

    def log(self, name):
        """The log of a daemon."""
        return self.prefix / f"logs/{name}.log"

    def log_lines(self, name):
        """How many lines a daemon has logged."""
        return self.log(name).read_bytes().count(b"\n")

    def await_node(self):
        """Waits until the agent is registered."""
        self.await_true(lambda: any(node["state"] == "Ready" for node in self.flmctl("list", "nodes")))

    def await_served(self):
        """Waits until the session manager answers a client."""
        self.await_true(lambda: self.flmctl("list", "applications"), pause=0.005)

    def await_true(self, condition, seconds=READY_SECONDS, pause=0.05):
        """Waits until a question about this cluster is answered with yes."""
        deadline = time.monotonic() + seconds
        last = "the answer is no"
        while time.monotonic() < deadline:
            try:
                if condition():
                    return
            except BenchError as error:
                last = error
            for name in self.processes:
                self.pid(name)
            time.sleep(pause)
        raise BenchError(f"the cluster was not ready within {seconds} s: {last}")

    # -- tools --------------------------------------------------------------------------------

    def flmping(self, *words):
        """The JSON report of flmping; every task has to succeed."""
        return flmping(self.prefix / "bin/flmping", *words, env=self.env)

    def flmctl(self, *words):
        """The JSON answer of flmctl."""
        answer = run([self.prefix / "bin/flmctl", *words, "-o", "json"], self.env)
        return json.loads(answer) if answer.strip() else None

    # -- costs --------------------------------------------------------------------------------

    def cpu_seconds(self):
        """CPU seconds until now, by the kind of process; clients are those this program has started."""
        client = resource.getrusage(resource.RUSAGE_CHILDREN)
        agent = self.pid(AGENT)
        return {
            "manager": cpu(self.pid(MANAGER))[0],
            "agent": cpu(agent)[0],
            "services": family_cpu(agent),
            "client": client.ru_utime + client.ru_stime,
        }

    def rss(self, name):
        """Resident bytes of a daemon now, and its peak."""
        return memory(self.pid(name))


def flmping(program, *words, env=None):
    """The JSON report of a flmping; every task has to succeed, else flmping fails."""
    return json.loads(run([program, *words, "--output", "json"], env))


def free_port():
    """A port that is free, and so are those of the node link and of metrics."""
    while True:
        with socket.socket() as frontend, socket.socket() as node_link, socket.socket() as metrics:
            frontend.bind(("0.0.0.0", 0))
            port = frontend.getsockname()[1]
            try:
                node_link.bind(("0.0.0.0", port + 1))
                metrics.bind(("0.0.0.0", port + 1000))
            except (OSError, OverflowError):
                continue
            return port
