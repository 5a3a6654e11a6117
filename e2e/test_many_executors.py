"""300 executors of small requests on one node: all start, all work, and nothing is left of them."""

import time

import pytest
from executor_units import executors, left_behind
from machine import AGENT, BIN, MANAGER, PREFIX
from testbed import wait_until

pytestmark = pytest.mark.nodes

NODE = "many"
SESSIONS = 3
EACH = 100
EXECUTORS = SESSIONS * EACH
LIMITS = f"""  limits:
    max_executors: {EXECUTORS}
"""
START_SECONDS = 240
END_SECONDS = 60
# Small things stay small, however many executors there are.
MEMORY_MIB = 40
MARKS = range(50, EXECUTORS + 1, 50)
ACTIVE = "systemctl list-units --plain --no-legend --state=active 'flame-executor@*' | wc -l"

CREATE = f"""
set -e
for _ in $(seq {EACH}); do {BIN}/flmctl create task -s $1 --text '{{"duration": 1, "memory": null}}'; done
"""


@pytest.fixture
def machine(make_bed):
    """One node that takes that many."""
    (machine,) = make_bed(NODE)
    machine.install("--all", "--enable")
    config = f"{PREFIX}/conf/flame-cluster.yaml"
    text = machine.node.read(config)
    assert text.count("cluster:\n") == 1 and "limits:" not in text, text
    text = text.replace("cluster:\n", f"cluster:\n{LIMITS}")
    machine.node.write(config, text, "640")
    machine.run(["chgrp", "flame", config])
    # None stands by: only executors are to be counted.
    settings = f"FLAME_NODE_RESOURCES=cpu={EXECUTORS},mem={EXECUTORS * 16}m FLAME_NODE_STANDBY=0"
    machine.drop_in(AGENT, f"[Service]\nEnvironment={settings}\n")
    machine.run(["systemctl", "restart", MANAGER, AGENT])
    machine.wait_ready(NODE)
    return machine


def active(machine):
    """How many units of executors run."""
    return int(machine.run(["sh", "-c", ACTIVE]).stdout)


def tasks(machine, sessions):
    """How many tasks of these sessions are in which state; the installation has tried one of its own."""
    found = {}
    for session in machine.flmctl("list", "sessions"):
        if session["id"] not in sessions:
            continue
        for state, count in session["tasks"].items():
            found[state] = found.get(state, 0) + count
    return {state: count for state, count in found.items() if count}


def usage(machine):
    """CPU seconds and resident MiB of the agent."""
    pid = machine.node.main_pid(AGENT)
    fields = machine.node.read(f"/proc/{pid}/stat").rsplit(")", 1)[1].split()
    ticks = int(machine.run(["getconf", "CLK_TCK"]).stdout)
    status = dict(line.split(":", 1) for line in machine.node.read(f"/proc/{pid}/status").splitlines())
    return (int(fields[11]) + int(fields[12])) / ticks, int(status["VmRSS"].split()[0]) / 1024


@pytest.mark.timeout(400)
def test_three_hundred_executors_on_one_node(machine, capsys):
    before, idle = usage(machine)
    begin = time.monotonic()
    sessions = [
        machine.tool(
            "flmctl",
            "create",
            "session",
            "-a",
            "flmping",
            "--resreq",
            "cpu=1,mem=16m",
            "--min-instances",
            EACH,
        ).stdout.split()[0]
        for _ in range(SESSIONS)
    ]
    marks = {}

    def all_run():
        now = active(machine)
        marks.update({mark: time.monotonic() - begin for mark in MARKS if mark <= now and mark not in marks})
        return now == EXECUTORS

    wait_until(all_run, START_SECONDS, f"{EXECUTORS} executors at one time")
    at_start, full = usage(machine)
    for session in sessions:
        machine.run(
            ["sh", "-c", CREATE, "sh", session], env={"FLAME_ENDPOINT": machine.endpoint}, timeout=END_SECONDS
        )
    wait_until(lambda: tasks(machine, sessions) == {"succeed": EXECUTORS}, END_SECONDS, "all tasks succeed")
    assert active(machine) == EXECUTORS
    for session in sessions:
        machine.tool("flmctl", "close", "-s", session)
    ending = time.monotonic()
    wait_until(lambda: executors(machine) == [], END_SECONDS, "no executor is left")
    ended = time.monotonic() - ending
    assert left_behind(machine) == []
    after, rest = usage(machine)
    failed = machine.run(["systemctl", "list-units", "--state=failed", "--plain", "--no-legend"]).stdout
    assert failed == ""
    curve = ", ".join(f"{mark} after {at:.1f} s" for mark, at in marks.items())
    with capsys.disabled():
        print(
            f"\nexecutors in units: {curve}; all gone in {ended:.1f} s;"
            f" agent: {at_start - before:.2f} s of CPU for the starts, {after - before:.2f} s in all;"
            f" {idle:.1f} MiB before, {full:.1f} MiB with them, {rest:.1f} MiB after"
        )
    assert full < MEMORY_MIB
