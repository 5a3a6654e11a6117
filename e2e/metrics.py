"""A session manager's metrics, added up over its restarts."""

import urllib.request
from collections import Counter

TIMEOUT_SECONDS = 0.5


def parse(text):
    """The samples of an answer: name with labels -> value."""
    lines = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in lines}


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
        both = (self._before, self._now)
        return int(sum(value for part in both for key, value in part.items() if key.startswith(name)))
