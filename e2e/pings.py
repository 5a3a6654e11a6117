"""Sessions of flmping on a cluster of plain processes or on machines, and what the session manager counts."""

import json

from cluster import METRICS_DISTANCE
from metrics import Totals
from testbed import wait_until

DONE_SECONDS = 60
# Reasons for which tasks are given to others because something happened to their node.
LOSSES = ("node_lost", "node_left", "agent_restarted", "link_lost")


def session(cluster, *words):
    """A new session of flmping."""
    return cluster.tool("flmctl", "create", "session", "-a", "flmping", *words).stdout.split()[0]


def create_tasks(cluster, of, count, milliseconds):
    """Gives a session tasks that take so long; `None`: no time at all."""
    text = json.dumps({"duration": milliseconds, "memory": None})
    for _ in range(count):
        cluster.tool("flmctl", "create", "task", "-s", of, "--text", text)


def states(cluster, of):
    """The states of a session's tasks."""
    return [task["state"] for task in cluster.flmctl("list", "tasks", "-s", of)]


def wait_done(cluster, of, count, seconds=DONE_SECONDS):
    """Waits until all tasks of a session succeeded."""
    wait_until(lambda: states(cluster, of) == ["Succeed"] * count, seconds, f"the tasks of {of} done")


def counters(cluster):
    """The session manager's counters at this moment."""
    totals = Totals(cluster.port + METRICS_DISTANCE)
    totals.look()
    return totals


def losses(cluster):
    """How many tasks were given to others because something happened to their node, by reason."""
    seen = counters(cluster)
    found = {why: seen[f'flame_tasks_requeued_total{{reason="{why}"}}'] for why in LOSSES}
    return {why: count for why, count in found.items() if count}
