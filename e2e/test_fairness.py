"""Who gets the executors of a real cluster: equal sessions halves, a higher priority all, nobody nothing."""

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

from load import assert_all_was_well, load
from testbed import wait_until

SLOTS = 4
# What it takes to end one service and to start another, on a machine that has other things to do.
SWITCH_SECONDS = 0.25
READY_SECONDS = 20


def holders(cluster):
    """The session of each executor that serves one, at work or warm."""
    listed = cluster.flmctl("list", "executors")
    return [each["session_id"] for each in listed if each["state"] in ("Bound", "Idle")]


def succeeded(cluster):
    """How many tasks of each session have succeeded."""
    return {each["id"]: each["tasks"]["succeed"] for each in cluster.flmctl("list", "sessions")}


def moment(text):
    """Seconds since 1970 of a time that flmctl printed."""
    return datetime.fromisoformat(text).timestamp()


def ends(cluster, session):
    """When the tasks of a session ended, as far as they have, in order."""
    tasks = cluster.flmctl("list", "tasks", "-s", session)
    return sorted(moment(task["completion_time"]) for task in tasks if task["completion_time"])


def create(cluster, *words):
    """A new session of flmping."""
    return cluster.tool("flmctl", "create", "session", "-a", "flmping", *words).stdout.strip()


def add(cluster, session, milliseconds, *words):
    """A new task of flmping."""
    text = f'{{"duration": {milliseconds}, "memory": null}}'
    return cluster.tool("flmctl", "create", "task", "-s", session, "--text", text, *words)


def test_two_equal_sessions_get_half_each(make_fleet, capsys):
    cluster = make_fleet({"node1": f"cpu={SLOTS},mem=8g"}).up().cluster
    window = 5
    # More tasks than executors at any time. The second one comes when the first one holds everything.
    endless = ("--sessions", 1, "--work", 20, "--batch", 20, "--window", 200)
    with load(cluster, 2.4 * window, *endless, "--application", "first") as first:
        wait_until(lambda: len(holders(cluster)) == SLOTS, READY_SECONDS, "the first session has everything")
        with load(cluster, 1.5 * window, *endless, "--application", "second") as second:
            wait_until(lambda: len(set(holders(cluster))) == 2, READY_SECONDS, "both have executors")
            before, began = succeeded(cluster), time.monotonic()
            time.sleep(window)
            after, took = succeeded(cluster), time.monotonic() - began
    for report in (first, second):
        assert_all_was_well(report)
    done = {session: after[session] - before[session] for session in after}
    shares = [count / sum(done.values()) for count in done.values()]
    with capsys.disabled():
        print(f"\ntwo equal sessions: {done} in {took:.1f} s")
    assert len(shares) == 2 and all(0.45 <= share <= 0.55 for share in shares), done
    assert sum(done.values()) > window * SLOTS / 0.020 / 2, "the executors were at work"


def test_a_higher_priority_gets_all_within_a_task(make_fleet, capsys):
    cluster = make_fleet({"node1": f"cpu={SLOTS},mem=8g"}).up().cluster
    milliseconds, tasks = 600, 20
    length = milliseconds / 1000
    low = "low"
    cluster.flmping("--detach", "-t", "400", "-d", str(milliseconds), "-s", low)
    wait_until(lambda: len(ends(cluster, low)) > SLOTS, READY_SECONDS, "the low session at work")
    assert holders(cluster) == [low] * SLOTS
    high = create(cluster, "--priority", "5")
    with ThreadPoolExecutor(SLOTS) as pool:
        list(pool.map(lambda _: add(cluster, high, milliseconds), range(tasks)))
    wait_until(lambda: holders(cluster) == [high] * SLOTS, READY_SECONDS, "the high session has everything")
    wait_until(lambda: len(ends(cluster, high)) == tasks, READY_SECONDS, "the high session is done")

    created = sorted(moment(task["creation_time"]) for task in cluster.flmctl("list", "tasks", "-s", high))
    wanted = created[SLOTS - 1]
    high_ends, low_ends = ends(cluster, high), ends(cluster, low)
    all_began = high_ends[SLOTS - 1] - length
    last_began = high_ends[-1] - length
    late = [round(end - wanted, 3) for end in low_ends if wanted + length + SWITCH_SECONDS < end < last_began]
    with capsys.disabled():
        print(
            f"\npriority 5: tasks of {length} s, all executors after {all_began - wanted:.3f} s; "
            f"{len(late)} tasks of priority 0 ended from then until {last_began - wanted:.1f} s"
        )
    assert all_began - wanted < length + SWITCH_SECONDS
    assert last_began - wanted > (tasks / SLOTS - 1) * length, "there was demand for all"
    assert late == []
    wait_until(lambda: holders(cluster) == [low] * SLOTS, READY_SECONDS, "the low session goes on")
    cluster.tool("flmctl", "close", "--cancel-running", "-s", low)


def test_idle_executors_of_two_sessions_do_not_starve_a_third(make_fleet, capsys):
    cluster = make_fleet({"node1": "cpu=2,mem=4g"}).up().cluster
    sessions = [create(cluster, "--resreq", "cpu=1,mem=1g") for _ in range(3)]
    longest, most = 0, 0
    # Each time the one whose turn it is has no executor, and the others keep theirs for a minute.
    for session in sessions * 3:
        began = time.monotonic()
        add(cluster, session, 1, "--wait")
        longest = max(longest, time.monotonic() - began)
        held = holders(cluster)
        most = max(most, len(held))
        assert session in held, "it stays warm"
    assert len(set(holders(cluster))) == 2, "two of them have an idle executor"
    for session in sessions:
        cluster.tool("flmctl", "close", "-s", session)

    endless = ("--sessions", 3, "--work", 20, "--batch", 10, "--window", 100)
    with load(cluster, 5, *endless) as report:
        wait_until(lambda: len(succeeded(cluster)) == 6, READY_SECONDS, "three more sessions")
        began = time.monotonic()

        def all_progress():
            nonlocal most
            most = max(most, len(cluster.flmctl("list", "executors")))
            done = succeeded(cluster)
            return all(done[session] for session in done)

        wait_until(all_progress, READY_SECONDS, "all three make progress")
        progress = time.monotonic() - began
    assert_all_was_well(report)
    with capsys.disabled():
        print(
            f"\nthree sessions on two CPUs: a task waits {longest:.2f} s, all progress after {progress:.2f} s"
        )
    assert longest < 1 + SWITCH_SECONDS
    # Among equals a turn is a second.
    assert progress < 2 + SWITCH_SECONDS
    assert most == 2, "the node has two CPUs"
