"""How long one task takes: a warm round trip, a new session, a large payload."""

from .cluster import ECHO, Cluster
from .report import Goal, Row
from .throughput import CLIENTS, SERVICES

WARM = {"p50_ms": Goal("<=", 0.3), "p99_ms": Goal("<=", 2.0), "p999_ms": None}
ROUND_TRIPS, QUICK_ROUND_TRIPS = 3000, 300
COLD_SESSIONS, QUICK_COLD_SESSIONS = 100, 20
COLD = {"p50_ms": Goal("<=", 15.0), "p99_ms": None}
# Size and number of tasks.
PAYLOADS = (("1K", 10_000), ("100K", 1_000), ("10M", 20))
QUICK_PAYLOADS = 4
UNITS = {"K": 1 << 10, "M": 1 << 20}
MIB = 1 << 20


def round_trip(bench):
    """One task at a time, with an executor that is warm."""
    rows = []
    count = QUICK_ROUND_TRIPS if bench.quick else ROUND_TRIPS
    for storage in ("none", "sqlite full"):
        with Cluster(bench, storage) as cluster:
            for client, flags in CLIENTS.items():
                for service, application in SERVICES.items():
                    case = f"{storage}, {client} client, {service} service"
                    bench.progress(f"round-trip: {case}")
                    report = cluster.flmping(
                        *("-p", "-t", count, "-a", application, "--window", 1),
                        *("--executors", 1, "--warm-up", 200, *flags),
                    )
                    goals = WARM if storage == "sqlite full" else dict.fromkeys(WARM)
                    rows += percentiles("round-trip", case, report, goals)
    return rows


def cold(bench):
    """From the creation of a session to its first result, each time with a new process."""
    count = QUICK_COLD_SESSIONS if bench.quick else COLD_SESSIONS
    with Cluster(bench) as cluster:
        bench.progress(f"cold: {count} sessions")
        report = cluster.flmping("-p", "--cold", "-t", count)
    return percentiles("cold", "sqlite full, new session to first result", report, COLD)


def payloads(bench):
    """Data that goes to a service and comes back; flmping checks every byte."""
    rows = []
    # Without storage the disk is out of the way.
    for storage in ("sqlite full",) if bench.quick else ("none", "sqlite full"):
        with Cluster(bench, storage) as cluster:
            for size, count in PAYLOADS:
                tasks = max(QUICK_PAYLOADS, count // 10) if bench.quick else count
                for client, flags in CLIENTS.items():
                    case = f"{size}iB, {storage}, {client} client, 2 executors"
                    bench.progress(f"payloads: {case}")
                    report = cluster.flmping(
                        *("-p", "-t", tasks, "-a", ECHO, "--payload", size, "--executors", 2),
                        *("--warm-up", 2, *flags),
                    )
                    rows += rates("payloads", case, size, report)
    return rows


def rates(measure, case, size, report):
    """Tasks and data per second; the data counts once, although it goes both ways."""
    rate = report["tasks_per_second"]
    mebibytes = rate * int(size[:-1]) * UNITS[size[-1]] / MIB
    return [
        Row(measure, case, "tasks/s", rate, "1/s", details=report),
        Row(measure, case, "data", mebibytes, "MiB/s"),
    ]


def percentiles(measure, case, report, goals):
    """A row for each percentile."""
    return [
        Row(measure, case, metric.removesuffix("_ms"), report[metric], "ms", goal, report)
        for metric, goal in goals.items()
    ]
