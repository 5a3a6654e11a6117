"""A bed: some nodes, the network between them, and the clean-up of everything whatever happens."""

import atexit
import contextlib
import json
import os
import secrets
import shutil
import signal
import threading
from pathlib import Path

from .network import Network
from .node import Node
from .tree import cache_dir, ensure_tree

# Every name that the bed leaves on the host (namespace, cgroup, machine) starts with this.
PREFIX = "flamebed"
STATE = "bed.json"


class BedError(Exception):
    """The bed cannot be made here; the message says what to do."""


class TestBed:
    """Boots `nodes` machines (a number, or their names) and removes every trace of them on `close`.

    `binds` maps paths inside the nodes to host paths that are shown there read-only. A bed that is `kept`
    outlives its process, until `close` or `python3 hack/testbed down`.
    """

    __test__ = False  # not a test class, whatever pytest makes of its name

    def __init__(self, nodes=1, binds=None, kept=False, say=print):
        check_host()
        remove_stale(say)
        names = [f"node{i + 1}" for i in range(nodes)] if isinstance(nodes, int) else list(nodes)
        self.id = f"{os.getpid()}-{secrets.token_hex(2)}"
        self.binds = dict(binds or {})
        self.kept = kept
        self.home = runs_dir() / self.id
        self.network = Network(f"{PREFIX}-{self.id}")
        self.nodes = [self._node(name, index) for index, name in enumerate(names)]
        self._closed = False
        self._tree = ensure_tree(say)

    def _node(self, name, index):
        where = (self.home / name, f"{PREFIX}-{self.id}-{name}", self.network.namespace(name))
        return Node(name, index, *where, self.network.address(index))

    def __getitem__(self, name):
        """The node of this name."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise KeyError(f"no node {name}; there are: {', '.join(n.name for n in self.nodes)}")

    def start(self):
        """Boots all nodes; on any failure nothing is left behind."""
        self.home.mkdir(parents=True)
        self._save()
        if not self.kept:
            atexit.register(self.close)
            _end_on_sigterm()
        try:
            self.network.create()
            hosts = {node.name: node.address for node in self.nodes}
            for node in self.nodes:
                self.network.attach(node.name, node.index)
                node.prepare(self._tree, hosts)
                node.boot(self.binds)
            self._save()
        except BaseException:
            self.close()
            raise
        return self

    def cut(self, node):
        """Cuts the node off from the others: packets vanish in both directions."""
        self.network.cut(node.index)

    def restore(self, node):
        """Joins the node to the others again."""
        self.network.restore(node.index)

    def reboot(self, node, hard=False):
        """Reboots a node with its file system; `hard` is a power failure."""
        node.reboot(self.binds, hard)
        self._save()

    def close(self):
        """Ends all nodes and removes their files, links and groups. Safe to repeat."""
        if self._closed:
            return
        self._closed = True
        atexit.unregister(self.close)
        for node in self.nodes:
            node.remove()
        self.network.remove()
        shutil.rmtree(self.home, ignore_errors=True)

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.close()

    def _save(self):
        owner = None if self.kept else [os.getpid(), start_time(os.getpid())]
        nodes = [{"name": n.name, "leader": n.leader, "supervisor": n.supervisor} for n in self.nodes]
        state = {"id": self.id, "owner": owner, "boot": boot_id(), "binds": self.binds, "nodes": nodes}
        text = json.dumps(state, default=str, indent=1)
        part = self.home / f"{STATE}.part"
        part.write_text(text)
        part.rename(self.home / STATE)

    @classmethod
    def load(cls, home):
        """The bed whose files lie in `home`, as another process made it."""
        state = json.loads((Path(home) / STATE).read_text())
        bed = cls.__new__(cls)
        bed.id, bed.binds, bed.home = state["id"], state["binds"], Path(home)
        bed.kept = state["owner"] is None
        bed.network = Network(f"{PREFIX}-{bed.id}")
        bed.nodes = []
        bed._closed = False
        bed._tree = None
        same_boot = state["boot"] == boot_id()
        for index, saved in enumerate(state["nodes"]):
            node = bed._node(saved["name"], index)
            if same_boot:
                node.leader, node.supervisor = saved["leader"], saved["supervisor"]
            bed.nodes.append(node)
        bed.owner_alive = same_boot and (bed.kept or start_time(state["owner"][0]) == state["owner"][1])
        return bed


def runs_dir():
    """Where the files of running beds lie."""
    return cache_dir() / "runs"


def beds():
    """All beds on this host, running or left behind."""
    found = []
    for path in sorted(runs_dir().glob(f"*/{STATE}")):
        with contextlib.suppress(FileNotFoundError):  # its owner has just removed it
            found.append(TestBed.load(path.parent))
    return found


def remove_stale(say=print):
    """Removes what dead runs left behind; returns the ids of their beds."""
    removed = []
    for bed in beds():
        if not bed.owner_alive:
            say(f"removing what the dead run {bed.id} left behind")
            bed.close()
            removed.append(bed.id)
    return removed


def check_host():
    """Raises `BedError` if this host or user cannot run nodes."""
    if os.geteuid() != 0:
        raise BedError(
            "nodes need root (namespaces, mounts): run `make e2e`, which uses sudo, or run as root"
        )
    missing = [
        tool for tool in ("systemd-nspawn", "ip", "nsenter", "mmdebstrap") if shutil.which(tool) is None
    ]
    if missing:
        raise BedError(f"missing: {', '.join(missing)}; run hack/setup.sh")


def boot_id():
    """Tells one boot of the host from another."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def start_time(pid):
    """When a process started, in clock ticks since boot; None if there is no such process."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except OSError:
        return None


def _end_on_sigterm():
    """Makes SIGTERM unwind like Ctrl-C, so that `close` runs; a handler of somebody else is left alone."""
    if (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    ):
        signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(*_):
    raise KeyboardInterrupt("SIGTERM")
