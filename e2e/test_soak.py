"""The session manager is killed every half second under load, with room on its disk and without: every
acknowledged task ends exactly once, with the right output, and its clients notice nothing but a pause.

`make test` does so for a few seconds, `make soak` for a minute (FLAME_SOAK_SECONDS).
"""

import json
import os
import time

import pytest
from cluster import LocalCluster
from load import REST_SECONDS, assert_all_was_well, load
from smalldisk import SmallDisk, why_not
from supervisor import Supervisor
from testbed import wait_until

SECONDS = float(os.environ.get("FLAME_SOAK_SECONDS", 10))
INTERVAL = 0.5
pytestmark = pytest.mark.timeout(2 * SECONDS + 2 * REST_SECONDS)

small_disk = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))


@pytest.fixture
def cluster(places):
    """A cluster that may be broken."""
    made = LocalCluster()
    places.append(made)
    yield made.up()
    places.remove(made)
    made.down()


# Many small calls, so that kills hit them, and a few large ones.
@pytest.mark.parametrize(
    "shape",
    [("--sessions", 4, "--batch", 10, "--rate", 800), ("--batch", 1_000, "--size", 1024)],
    ids=["small calls", "large calls"],
)
def test_every_acknowledged_task_ends_once_with_its_output(cluster, shape):
    supervisor = Supervisor(cluster)
    with load(cluster, SECONDS, *shape) as report, supervisor.killing(INTERVAL):
        time.sleep(SECONDS)
    assert supervisor.kills > SECONDS / INTERVAL / 2
    assert_all_was_well(report)


# -- a disk that is full ------------------------------------------------------------------------

# A task stores its input and its output; what two sessions create meanwhile has room three times.
PAYLOAD, RATE = 2048, 300
DISK = (32 << 20) + int(3 * 2 * RATE * SECONDS) * 2 * PAYLOAD
STEADY = ("--size", PAYLOAD, "--batch", 50, "--rate", RATE)
# The session manager's tries to store are half a second apart.
NOTICE_SECONDS = 20


@pytest.fixture
def full(cluster):
    """The small disk on which the manager keeps its state, and who starts it there."""
    with SmallDisk(cluster.prefix / "data", DISK) as disk:
        supervisor = Supervisor(cluster, disk.within)
        supervisor.kill()
        supervisor.start()
        wait_until(lambda: ready(cluster), NOTICE_SECONDS, "the node is ready again")
        yield disk, supervisor
        disk.empty()
        supervisor.kill()


def ready(cluster):
    """Whether a node takes work."""
    listing = cluster.tool("flmctl", "list", "nodes", "-o", "json", check=False)
    return listing.ok and any(node["state"] == "Ready" for node in json.loads(listing.stdout))


def refusal(cluster):
    """What is said to somebody who wants a session, if it is refused."""
    result = cluster.tool("flmctl", "create", "session", "-a", "flmping", check=False)
    return None if result.ok else result.stderr


def refusal_at_once(cluster):
    """As `refusal`, if the store was known to fail when the call came."""
    said = refusal(cluster)
    return said if said and "not known yet" not in said else None


@small_disk
def test_a_full_disk_refuses_new_work_and_recovers_by_itself(cluster, full):
    disk, supervisor = full
    manager = supervisor.pid
    finished = cluster.flmping("-t", "50")["session"]
    with load(cluster, SECONDS, *STEADY) as report:
        wait_until(
            lambda: len(cluster.flmctl("list", "sessions")) == 3, REST_SECONDS, "the clients' sessions"
        )
        disk.fill(leave=4 * PAYLOAD)
        said = wait_until(lambda: refusal(cluster), NOTICE_SECONDS, "new work is refused")
        assert "disk is full" in said, said
        # The call that found it out was told that its own outcome is not known.
        said = wait_until(lambda: refusal_at_once(cluster), NOTICE_SECONDS, "new work is refused at once")
        assert "disk is full" in said and "nothing new is taken" in said, said
        # Reads go on, those of what is in the store only, too.
        assert len(cluster.flmctl("list", "tasks", "-s", finished)) == 50
        assert {node["state"] for node in cluster.flmctl("list", "nodes")} == {"Ready"}
        assert refusal(cluster), "it is still full"
        disk.empty()
        wait_until(lambda: not refusal(cluster), NOTICE_SECONDS, "work is taken again")
    assert_all_was_well(report)
    assert supervisor.pid == manager and supervisor.kills == 1, "no restart was needed"


@small_disk
def test_kills_on_a_disk_that_is_full_again_and_again_lose_nothing(cluster, full):
    disk, supervisor = full
    kills = supervisor.kills
    with load(cluster, SECONDS, *STEADY) as report, supervisor.killing(INTERVAL):
        # Odd against the kills, so that they come at all stages of being full.
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            time.sleep(1.7 * INTERVAL)
            disk.fill(leave=4 * PAYLOAD)
            time.sleep(1.7 * INTERVAL)
            disk.empty()
    wait_until(lambda: not refusal(cluster), NOTICE_SECONDS, "work is taken again")
    assert supervisor.kills - kills > SECONDS / INTERVAL / 2
    assert_all_was_well(report)
