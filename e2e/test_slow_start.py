"""A session manager whose start takes longer than its unit allows, but goes on."""

import re

import pytest
from machine import MANAGER, PREFIX, whole
from testbed import wait_until

pytestmark = pytest.mark.nodes

NODE = "slow"
LIMIT_SECONDS = 2
HELD_SECONDS = 4
SECONDS = 30
DROP_IN = f"/run/systemd/system/{MANAGER}.d/limit.conf"
# Says when it has the lock. Whoever loads the state writes to it, and so waits for this.
HOLDER = f"""
import sqlite3, time
state = sqlite3.connect("{PREFIX}/data/flame.db", isolation_level=None)
state.execute("BEGIN IMMEDIATE")
open("/tmp/held", "w").close()
time.sleep({HELD_SECONDS})
"""


@pytest.fixture(scope="module")
def machine(make_bed):
    """One node with everything installed."""
    return whole(make_bed, NODE)


def status(machine):
    """What the session manager says about itself."""
    return machine.show(MANAGER, "StatusText")["StatusText"]


def test_systemd_waits_for_a_start_that_goes_on(machine):
    machine.node.write(DROP_IN, f"[Service]\nTimeoutStartSec={LIMIT_SECONDS}s\n")
    machine.run(["systemctl", "daemon-reload"])
    machine.run(["systemctl", "stop", MANAGER])
    as_flame = ["setpriv", "--reuid=flame", "--regid=flame", "--clear-groups"]
    holder = machine.node.background([*as_flame, "python3", "-c", HOLDER])
    machine.node.wait_until(["test", "-e", "/tmp/held"], SECONDS)
    start = machine.node.background(["systemctl", "start", MANAGER])
    wait_until(lambda: status(machine).startswith("loading the state of "), SECONDS, "it says that it loads")
    assert f" MB from {PREFIX}/data/flame.db" in status(machine)
    assert start.result().ok, start.result()
    assert holder.result().ok, holder.result()
    times = machine.show(MANAGER, "ExecMainStartTimestampMonotonic", "ActiveEnterTimestampMonotonic")
    took = (int(times["ActiveEnterTimestampMonotonic"]) - int(times["ExecMainStartTimestampMonotonic"])) / 1e6
    assert took > LIMIT_SECONDS, f"the start took {took:.1f} s only"
    assert machine.show(MANAGER, "NRestarts", "Result") == {"NRestarts": "0", "Result": "success"}
    assert "timed out" not in machine.node.journal("-u", MANAGER)
    machine.wait_ready(NODE)
    words = r"1 of 1 nodes ready, \d+ executors, \d+ open sessions, \d+ tasks pending, \d+ running"
    wait_until(lambda: re.fullmatch(words, status(machine)), SECONDS, "it says how it goes")
