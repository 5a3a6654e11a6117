"""Kills processes of a fleet in an order that follows from a seed, and starts again what systemd would."""

import contextlib
import os
import random
import signal
from collections import Counter

from cluster import METRICS_DISTANCE
from metrics import Totals
from supervisor import every

SERVICE = "service"
# So many services per daemon die as are likely to be at work.
SERVICES_PER_ROUND = 4


class Chaos:
    """Kills one process of the fleet at a time; with `services`, the processes of applications, too."""

    def __init__(self, fleet, seed, services=True):
        self.kills = Counter()
        self.totals = Totals(fleet.cluster.port + METRICS_DISTANCE)
        self._fleet = fleet
        self._services = services
        self._random = random.Random(seed)
        self._round = []

    @contextlib.contextmanager
    def every(self, interval):
        """Kills a process every `interval` seconds until the block ends; all daemons run afterwards."""
        with every(interval, self.kill_one):
            yield self
        self.totals.look()

    def kill_one(self):
        """Kills the next victim. Each round of victims has every daemon once, in an order of its own."""
        if not self._round:
            self._round = [*self._fleet.daemons(), *[SERVICE] * (SERVICES_PER_ROUND * self._services)]
            self._random.shuffle(self._round)
        victim = self._round.pop()
        if victim is SERVICE:
            self._kill_service()
        else:
            self._kill_daemon(victim)

    def _kill_service(self):
        found = self._fleet.services()
        if not found:
            self.kills["service, none there"] += 1
            return
        with contextlib.suppress(ProcessLookupError):  # it ended by itself
            os.kill(self._random.choice(found), signal.SIGKILL)
            self.kills[SERVICE] += 1

    def _kill_daemon(self, daemon):
        ended = daemon.ended()
        if ended is not None:
            raise AssertionError(f"{daemon.name} ended by itself with {ended}")
        if daemon is self._fleet.manager:
            self.totals.look()
        daemon.kill()
        if daemon is self._fleet.manager:
            self.totals.restarted()
        daemon.start()
        self.kills[daemon.name] += 1

    def restarts(self):
        """How often a daemon was started again."""
        return sum(daemon.kills for daemon in self._fleet.daemons())

    def summary(self):
        """What happened, in one line."""
        parts = [f"{count} x {name}" for name, count in sorted(self.kills.items())]
        counted = {
            "handed out": "flame_tasks_handed_out_total",
            "requeued": "flame_tasks_requeued_total",
            "results refused": "flame_results_refused_total",
            "services died": 'flame_executor_events_total{event="died"',
            "failed to bind": 'flame_executor_events_total{event="bind_failed"',
        }
        seen = ", ".join(f"{self.totals[name]} {what}" for what, name in counted.items())
        return f"killed {', '.join(parts)}; {self.restarts()} restarts of daemons; at least {seen}"
