"""Limits of executors, on a kernel with cgroup v2: what a session asked for is what its executors get.

Not named as the other tests are, because it takes minutes and needs qemu: `make e2e-vm` runs it.
"""

import shutil
from pathlib import Path

import pytest
from vm import run_machine

INSIDE = Path(__file__).resolve().parent / "inside.py"
# An emulated machine boots in a minute, and in three on a busy host.
MACHINE_SECONDS = 1500
TOLERANCE = 0.1
OUT_OF_MEMORY = "used more memory than it may (out of memory)"


@pytest.fixture(scope="session")
def seen(stripped_programs, tmp_path_factory):
    """What was seen inside the machine, by the name of the measurement."""
    payload = tmp_path_factory.mktemp("payload")
    shutil.copytree(stripped_programs, payload / "bin")
    shutil.copy(INSIDE, payload)
    lines, console = run_machine(payload, MACHINE_SECONDS)
    assert lines, f"the machine told nothing:\n{console[-4000:]}"
    return {line.pop("measure"): line for line in lines}


def measured(seen, name):
    """The measurement, which must not have failed."""
    found = seen[name]
    assert "error" not in found, f"{found['error']}\n{found['journal']}"
    return found


pytestmark = pytest.mark.timeout(MACHINE_SECONDS + 600)


def test_the_machine_has_cgroup_v2(seen):
    found = measured(seen, "install")
    print(f"\nLinux {found['kernel']}, {found['cgroup']}")
    assert found["cgroup"] == "cgroup2fs"


def test_a_service_that_takes_too_much_memory_is_killed_and_the_event_says_so(seen):
    found = measured(seen, "memory")
    last = found["task"]["events"][-1]["message"] or ""
    print(f"\nafter {found['seconds']} s: {last}")
    assert found["task"]["state"] == "Failed"
    assert OUT_OF_MEMORY in last, found["journal"]


def test_it_is_killed_alone(seen):
    found = measured(seen, "memory")
    assert found["before"] == found["after"]
    print(f"\n{found['neighbour_meanwhile']} tasks of a neighbour ended meanwhile")
    assert found["neighbour_failures"] == []
    assert found["neighbour_meanwhile"] > 0
    assert len(set(found["neighbour"])) == 1, "all in the same process"


def test_cpu_time_is_what_was_asked_for(seen):
    found = measured(seen, "cpu")
    print(f"\ntwo threads use {found['one']['cpus']:.3f} CPUs of 1, {found['two']['cpus']:.3f} of 2")
    assert found["one"]["cpus"] == pytest.approx(1, rel=TOLERANCE)
    assert found["one"]["throttled"] > 0
    # It was the quota that held the first: the machine has more.
    assert found["two"]["cpus"] > 1 + 2 * TOLERANCE
