"""A session manager and several agents on one host, each a process that a test can kill and start."""

import json

from cluster import LocalCluster
from supervisor import MANAGER, Agent, Daemon
from testbed import wait_until

READY_SECONDS = 30


class Fleet:
    """A cluster of plain processes with one agent for each of `nodes`: name -> resources, as `cpu=2,mem=4g`.

    `configuration` are lines of the cluster's part of its configuration.
    """

    def __init__(self, nodes, configuration=""):
        self.cluster = LocalCluster()
        self.manager = Daemon(self.cluster, MANAGER)
        self.agents = [Agent(self.cluster, name, resources) for name, resources in nodes.items()]
        self._configuration = configuration

    def up(self):
        """Installs and starts everything; returns when all nodes are ready."""
        self.cluster.script("install")
        self.cluster.configure(self._configuration)
        for daemon in self.daemons():
            daemon.start()
        wait_until(self.all_ready, READY_SECONDS, "all nodes ready")
        return self

    def daemons(self):
        """The manager and the agents."""
        return [self.manager, *self.agents]

    def nodes(self):
        """What flmctl lists of the nodes; nothing while the manager does not answer."""
        listing = self.cluster.tool("flmctl", "list", "nodes", "-o", "json", check=False)
        return json.loads(listing.stdout) if listing.ok else []

    def all_ready(self):
        """Whether every node takes work."""
        ready = {node["name"] for node in self.nodes() if node["state"] == "Ready"}
        return ready == {agent.name for agent in self.agents}

    def services(self):
        """Pids of all services, or of their launchers."""
        return sorted(pid for agent in self.agents for pid in agent.services())

    def strangers(self):
        """Pids of all processes of the cluster that are none of its daemons."""
        daemons = {daemon.pid for daemon in self.daemons()}
        return [pid for pid in self.cluster.processes() if pid not in daemons]

    def stop(self):
        """Stops agents and manager in an orderly way; their exit statuses."""
        return {daemon.name: daemon.stop() for daemon in [*self.agents, self.manager]}

    def down(self):
        """Ends what still runs and removes all files."""
        self.cluster.down()
