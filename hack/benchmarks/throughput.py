"""Tasks per second: storages, clients, kinds of services, executors; and many sessions at once."""

from statistics import median_low

from .cluster import STORAGES, STREAMING, UNARY, Cluster
from .report import Goal, Row

CLIENTS = {"batched": [], "unary": ["--unary"]}
SERVICES = {"streaming": STREAMING, "unary": UNARY}
EXECUTORS = (1, 2, 16, 64)
FEW_EXECUTORS = (2, 16)
# By client, service and number of executors; `None` stands for the best number of executors.
GOALS = {
    ("batched", "streaming", None): 30_000,
    ("batched", "unary", None): 15_000,
    ("unary", "streaming", None): 6_000,
    ("batched", "streaming", 2): 12_000,
}
DURABLE = "sqlite full"
WARM_UP = 1000
SESSIONS, SESSION_TASKS = 10, 1000


def throughput(bench):
    """Tasks per second for each storage, client, kind of service and number of executors."""
    rows = []
    for storage in STORAGES:
        # The executors matter most; one storage with all numbers of them shows how.
        counts = EXECUTORS if storage == DURABLE and not bench.quick else FEW_EXECUTORS
        with Cluster(bench, storage) as cluster:
            for client in CLIENTS:
                for service in SERVICES:
                    rows += series(bench, cluster, client, service, counts)
    return rows


def series(bench, cluster, client, service, counts):
    """A row for each number of executors, and which of them is the best."""
    rows = []
    for count in counts:
        goal = GOALS.get((client, service, count)) if cluster.storage == DURABLE else None
        case = f"{cluster.storage}, {client} client, {service} service, {count} executors"
        bench.progress(f"throughput: {case}")
        tasks = bench.tasks if client == "batched" else max(1, bench.tasks // 3)
        reports = [
            cluster.flmping(
                *("-p", "-t", tasks, "-a", SERVICES[service], "--executors", count),
                *("--warm-up", min(WARM_UP, tasks), *CLIENTS[client]),
            )
            for _ in range(bench.runs)
        ]
        report = middle(reports)
        rows.append(
            Row(
                "throughput",
                case,
                "tasks/s",
                report["tasks_per_second"],
                "1/s",
                Goal(">=", goal) if goal else None,
                {**report, "executors": count, "runs": [run["tasks_per_second"] for run in reports]},
            )
        )
    goal = GOALS.get((client, service, None))
    if cluster.storage == DURABLE and goal:
        best = max(rows, key=lambda row: row.value)
        executors = best.details["executors"]
        case = f"{cluster.storage}, {client} client, {service} service: best, with {executors} executors"
        rows.append(Row("throughput", case, "tasks/s", best.value, "1/s", Goal(">=", goal)))
    return rows


def sessions(bench):
    """Several sessions at once, with an executor each and with only what the machine has."""
    rows = []
    cases = (
        ("an executor each", 64, ["--executors", 1, "--warm-up", 50]),
        ("sharing the machine's own slots", None, []),
    )
    for name, slots, flags in cases:
        with Cluster(bench, slots=slots) as cluster:
            for client, client_flags in CLIENTS.items():
                case = f"{SESSIONS} x {SESSION_TASKS:,} tasks, {client} client, {name}"
                bench.progress(f"sessions: {case}")
                words = ["-p", "--sessions", SESSIONS, "-t", SESSION_TASKS, *flags, *client_flags]
                report = middle([cluster.flmping(*words) for _ in range(bench.runs)])
                rows.append(
                    Row("sessions", case, "tasks/s", report["tasks_per_second"], "1/s", details=report)
                )
    return rows


def middle(reports):
    """The run in the middle, by tasks per second."""
    rate = median_low(report["tasks_per_second"] for report in reports)
    return next(report for report in reports if report["tasks_per_second"] == rate)
