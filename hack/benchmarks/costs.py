"""What the daemons use: CPU per task, CPU and log lines when idle, memory; and how they restart."""

import time

from .cluster import AGENT, DAEMONS, MANAGER, STREAMING, UNARY, Cluster
from .command import BenchError
from .report import Goal, Row

MIB = 1 << 20
CPU_TASKS, QUICK_CPU_TASKS = 60_000, 10_000
IDLE_SECONDS, QUICK_IDLE_SECONDS = 60, 10
# Connections and buffers of the warm-up are gone by then.
SETTLE_SECONDS = 5
OPEN_TASKS = 100_000
# RAM per task is the slope between two numbers of tasks: what is there without tasks drops out.
QUEUED = (100_000, 500_000)
QUICK_QUEUED = (50_000, 150_000)
FINISHED, QUICK_FINISHED = 1_000_000, 50_000
RUN_OUT_SECONDS = 300
RESTART_GOAL = Goal("<=", 2.0)


def cpu(bench):
    """CPU time of each process per task."""
    rows = []
    tasks = QUICK_CPU_TASKS if bench.quick else CPU_TASKS
    cases = (
        ("batched client, streaming service", STREAMING, []),
        ("batched client, unary service", UNARY, []),
        ("unary client, streaming service", STREAMING, ["--unary"]),
    )
    with Cluster(bench) as cluster:
        for case, application, flags in cases:
            case = f"sqlite full, {case}, 2 executors"
            bench.progress(f"cpu: {case}")
            before = cluster.cpu_seconds()
            cluster.flmping("-p", "-t", tasks, "-a", application, "--executors", 2, *flags)
            after = cluster.cpu_seconds()
            spent = {name: (after[name] - before[name]) * 1e6 / tasks for name in before}
            rows += [Row("cpu", case, name, value, "us/task") for name, value in spent.items()]
            rows.append(Row("cpu", case, "all", sum(spent.values()), "us/task"))
    return rows


def idle(bench):
    """What the daemons do when there is nothing to do."""
    seconds = QUICK_IDLE_SECONDS if bench.quick else IDLE_SECONDS
    rows = []
    with Cluster(bench) as cluster:
        bench.progress(f"idle: {seconds} s")
        time.sleep(SETTLE_SECONDS)
        began = time.monotonic()
        before = cluster.cpu_seconds(), {name: cluster.log_lines(name) for name in DAEMONS}
        time.sleep(seconds)
        took = time.monotonic() - began
        after = cluster.cpu_seconds()
        for name, short in ((MANAGER, "manager"), (AGENT, "agent")):
            percent = (after[short] - before[0][short]) / took * 100
            lines = (cluster.log_lines(name) - before[1][name]) / took * 60
            resident = cluster.rss(name)[0] / MIB
            rows += [
                Row("idle", name, "CPU", percent, "% of a core", Goal("<=", 0.1)),
                Row("idle", name, "log lines", lines, "1/min", Goal("<=", 1)),
                Row("idle", name, "RSS", resident, "MiB", Goal("<=", 12) if name == AGENT else None),
            ]
    return rows


def restart(bench):
    """kill -9 of the session manager with many open tasks, and what becomes of them."""
    with Cluster(bench) as cluster:
        bench.progress(f"restart: {OPEN_TASKS:,} open tasks")
        cluster.stop(AGENT)
        session = cluster.flmping("--detach", "-t", OPEN_TASKS)["sessions"][0]
        cluster.kill(MANAGER)
        began = time.monotonic()
        cluster.start(MANAGER)
        cluster.await_served()
        took = time.monotonic() - began
        pending = counts(cluster, session)["pending"]
        bench.progress(f"restart: {pending:,} tasks are there after {took:.2f} s, running them")
        cluster.start(AGENT)
        began = time.monotonic()
        cluster.await_true(lambda: not unfinished(counts(cluster, session)), RUN_OUT_SECONDS)
        ran = time.monotonic() - began
        done = counts(cluster, session)
    case = f"sqlite full, {OPEN_TASKS:,} open tasks, kill -9"
    return [
        Row("restart", case, "until served", took, "s", RESTART_GOAL),
        Row("restart", case, "lost", OPEN_TASKS - pending, "tasks", Goal("<=", 0)),
        Row("restart", case, "succeeded", done["succeed"], "tasks", Goal(">=", OPEN_TASKS), done),
        Row("restart", case, "tasks/s afterwards", OPEN_TASKS / ran, "1/s"),
    ]


def memory(bench):
    """RAM of queued tasks, and of the session manager after many finished ones."""
    return queued(bench) + finished(bench)


def queued(bench):
    """RAM of a task that waits and has no input."""
    few, many = QUICK_QUEUED if bench.quick else QUEUED
    with Cluster(bench) as cluster:
        bench.progress(f"memory: {many:,} queued tasks")
        cluster.stop(AGENT)
        sizes = []
        for count in (few, many - few):
            cluster.flmping("--detach", "-t", count)
            sizes.append(cluster.rss(MANAGER)[0])
    each = (sizes[1] - sizes[0]) / (many - few)
    case = f"sqlite full, from {few:,} to {many:,} queued empty tasks"
    return [Row("memory", case, "manager RAM", each, "bytes/task", Goal("<=", 300))]


def finished(bench):
    """RAM after tasks that have ended."""
    tasks = QUICK_FINISHED if bench.quick else FINISHED
    with Cluster(bench) as cluster:
        bench.progress(f"memory: {tasks:,} finished tasks")
        report = cluster.flmping("-p", "-t", tasks, "--executors", 2)
        sizes = {name: cluster.rss(name) for name in DAEMONS}
    case = f"sqlite full, {tasks:,} finished tasks"
    # A short run says nothing about growth.
    goals = {} if bench.quick else {MANAGER: Goal("<=", 120), AGENT: Goal("<=", 12)}
    rows = []
    for name, (now, peak) in sizes.items():
        rows.append(Row("memory", case, f"{name} RSS", now / MIB, "MiB", goals.get(name)))
        rows.append(Row("memory", case, f"{name} peak RSS", peak / MIB, "MiB"))
    return [*rows, Row("memory", case, "tasks/s", report["tasks_per_second"], "1/s", details=report)]


def counts(cluster, session):
    """How many tasks of a session are in which state."""
    for found in cluster.flmctl("list", "sessions"):
        if found["id"] == session:
            return found["tasks"]
    raise BenchError(f"session {session} is gone")


def unfinished(tasks):
    """Tasks that have not ended."""
    return tasks["pending"] + tasks["running"]
