"""A session manager's metrics, added up over its restarts."""

import urllib.request
from collections import Counter

TIMEOUT_SECONDS = 0.5


def parse(text):
    """The samples of an answer: name with labels -> value."""
    lines = (line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
    return {name: float(value) for name, value in lines}


def total(samples, name):
    """The sum of all samples whose name, with labels, begins like this."""
    return int(sum(value for key, value in samples.items() if key.startswith(name)))


class Totals:
    """Counters of a manager that is killed again and again, as far as they could be read before."""

    def __init__(self, port):
        self._url = f"http://127.0.0.1:{port}/metrics"
        self._before = Counter()
        self._now = {}

    def look(self):
        """Reads the counters of the manager that runs, if it answers."""
        try:
            with urllib.request.urlopen(self._url, timeout=TIMEOUT_SECONDS) as answer:
                samples = parse(answer.read().decode())
        except OSError:  # it has just been started
            return
        self._now = {name: value for name, value in samples.items() if "_total" in name}

    def restarted(self):
        """The manager was ended: the next one counts from zero."""
        self._before.update(self._now)
        self._now = {}

    def __getitem__(self, name):
        """The sum of all counters whose name, with labels, begins like this."""
        return total(self._before, name) + total(self._now, name)
