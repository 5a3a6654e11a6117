"""Executors in units of systemd: how soon they start, and what the agent uses."""

import os
import statistics
import time

from .node import AGENT, booted
from .report import Goal, Row

SESSIONS, QUICK_SESSIONS = 60, 15
IN_A_ROW, QUICK_IN_A_ROW = 40, 10
# Long enough for systemd to have cleared away the executor before.
PAUSE_SECONDS = 0.4
TASKS, QUICK_TASKS = 100_000, 10_000
IDLE_SECONDS, QUICK_IDLE_SECONDS = 60, 10
FIRST_RESULT = Goal("<=", 60.0)
MEMORY = Goal("<=", 12)
# Restarts of the agent between cases, which take effect with its next start.
STANDBY = "[Service]\nEnvironment=FLAME_NODE_STANDBY={}\n"


def units(bench):
    """Starts of executors in units, and the agent's memory and CPU time."""
    with booted(bench, "units") as machine:
        machine.install("--all", "--enable")
        machine.wait_ready("bench")
        return [*starts(bench, machine), *usage(bench, machine)]


def starts(bench, machine):
    """From a new session to its first result, with the default sandbox."""
    rows = []
    count = QUICK_SESSIONS if bench.quick else SESSIONS
    in_a_row = QUICK_IN_A_ROW if bench.quick else IN_A_ROW
    for standby, goal in ((1, FIRST_RESULT), (0, None)):
        restart(machine, standby)
        case = f"new session to first result, {standby or 'no'} unit stands by"
        bench.progress(f"units: {case}")
        times = [one_session(machine) for _ in range(count)]
        # The first one sets the limits of its slot, which systemd then keeps.
        times = sorted(times[1:])
        for metric, value in (
            ("p50", statistics.median(times)),
            ("p90", times[len(times) * 9 // 10]),
        ):
            rows.append(Row("units", case, metric, value, "ms", goal, {"times_ms": times}))
        report = machine.flmping("-p", "--cold", "-t", str(in_a_row))
        rows.append(Row("units", f"{case}, one after the other", "p50", report["p50_ms"], "ms", None, report))
    return rows


def one_session(machine):
    """Milliseconds, on a machine that has nothing else to do."""
    time.sleep(PAUSE_SECONDS)
    return machine.flmping("-p", "--cold", "-t", "1")["p50_ms"]


def restart(machine, standby):
    """The agent begins anew with so many units that stand by."""
    machine.drop_in(AGENT, STANDBY.format(standby))
    machine.run(["systemctl", "restart", AGENT])
    machine.wait_ready("bench")


def usage(bench, machine):
    """What the agent takes, as it is installed."""
    restart(machine, 1)
    seconds = QUICK_IDLE_SECONDS if bench.quick else IDLE_SECONDS
    tasks = QUICK_TASKS if bench.quick else TASKS
    rows = [Row("units", "agent, idle", "RSS", resident(machine), "MiB", MEMORY)]
    bench.progress(f"units: idle for {seconds} s")
    rows.append(
        Row("units", "agent, idle", "CPU", cpu_percent(machine, seconds), "% of a core", Goal("<=", 0.1))
    )
    bench.progress(f"units: a session that cannot bind, for {seconds} s")
    machine.tool("flmctl", "register", "application", "broken", "--command", "/bin/false")
    session = machine.tool("flmctl", "create", "session", "-a", "broken").stdout.split()[0]
    machine.tool("flmctl", "create", "task", "-s", session, "--text", "x")
    spent = cpu_percent(machine, seconds)
    rows.append(Row("units", "agent, a session cannot bind", "CPU", spent, "% of a core", Goal("<=", 1)))
    machine.tool("flmctl", "close", "-s", session)
    bench.progress(f"units: {tasks:,} tasks")
    machine.flmping("-p", "-t", str(tasks), timeout=600)
    rows.append(Row("units", f"agent, after {tasks:,} tasks", "RSS", resident(machine), "MiB", MEMORY))
    return rows


def resident(machine):
    """MiB of the agent."""
    lines = machine.node.read(f"/proc/{pid(machine)}/status").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024


def cpu_percent(machine, seconds):
    """CPU time of the agent in so many seconds."""

    def spent():
        fields = machine.node.read(f"/proc/{pid(machine)}/stat").rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    before, began = spent(), time.monotonic()
    time.sleep(seconds)
    return (spent() - before) / (time.monotonic() - began) * 100


def pid(machine):
    """The agent's process in the machine."""
    return machine.node.main_pid(AGENT)
