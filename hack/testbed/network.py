"""The network of one bed: a namespace per node and one that holds the bridge between them, no way outside."""

import contextlib
import os
import signal

from .command import run

SUBNET = "10.213.17"
FIRST_HOST = 11


class Network:
    """Bridge and links of one bed. `prefix` makes the names of its namespaces unique on the host."""

    def __init__(self, prefix):
        self.prefix = prefix
        self.hub = f"{prefix}-hub"

    def namespace(self, name):
        """Name of the network namespace of node `name`."""
        return f"{self.prefix}-{name}"

    def address(self, index):
        """IPv4 address of the node with this index."""
        return f"{SUBNET}.{FIRST_HOST + index}"

    def create(self):
        """Makes the namespace with the bridge."""
        run(["ip", "netns", "add", self.hub])
        self._in_hub("link", "add", "br0", "type", "bridge")
        self._in_hub("link", "set", "br0", "up")

    def attach(self, name, index):
        """Makes the namespace of a node and plugs it into the bridge."""
        inside = self.namespace(name)
        run(["ip", "netns", "add", inside])
        self._in_hub("link", "add", _port(index), "type", "veth", "peer", "name", "eth0", "netns", inside)
        self._in_hub("link", "set", _port(index), "master", "br0", "up")
        for words in (
            ["link", "set", "lo", "up"],
            ["address", "add", f"{self.address(index)}/24", "dev", "eth0"],
            ["link", "set", "eth0", "up"],
        ):
            run(["ip", "-n", inside, *words])

    def cut(self, index):
        """Takes the node off the bridge: its packets vanish, while its own card still shows a link."""
        self._in_hub("link", "set", _port(index), "nomaster")

    def restore(self, index):
        """Plugs the node in again."""
        self._in_hub("link", "set", _port(index), "master", "br0")

    def remove(self):
        """Removes all namespaces of this bed, and with them their links. Safe to repeat."""
        for name in namespaces():
            if name.startswith(f"{self.prefix}-"):
                _end_processes(name)
                run(["ip", "netns", "delete", name], check=False)

    def _in_hub(self, *words):
        run(["ip", "-n", self.hub, *words])


def namespaces():
    """Names of all network namespaces on this host."""
    listing = run(["ip", "netns", "list"], check=False).stdout
    return [line.split()[0] for line in listing.splitlines() if line.strip()]


def _port(index):
    return f"port{index}"


def _end_processes(name):
    """Ends what still runs inside a namespace of ours; nothing else can be in there."""
    for pid in run(["ip", "netns", "pids", name], check=False).stdout.split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
