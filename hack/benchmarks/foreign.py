"""What can be measured of a cluster that somebody else runs: only calls that every Flame has."""

from .cluster import flmping
from .latency import PAYLOADS as LOCAL_PAYLOADS
from .latency import QUICK_PAYLOADS, percentiles, rates
from .report import Row
from .throughput import SESSION_TASKS, SESSIONS, middle

MEASURES = ("throughput", "round-trip", "cold", "sessions", "payloads")
ROUND_TRIPS, QUICK_ROUND_TRIPS = 2000, 200
COLD_SESSIONS, QUICK_COLD_SESSIONS = 30, 5
PAYLOADS = tuple((size, max(10, count // 2)) for size, count in LOCAL_PAYLOADS)


def measures(bench, endpoint, application, echo, names):
    """Makes the rows of each chosen measure. Payloads need `echo`, an application that returns its input."""

    def ping(*words, name=application):
        program = bench.bin_dir / "flmping"
        return flmping(program, "-p", "-e", endpoint, "-a", name, "--unary", *words)

    for name in MEASURES:
        if name not in names:
            continue
        if name == "payloads" and not echo:
            bench.progress("payloads: skipped, name an application that returns its input with --echo")
            continue
        bench.progress(f"{name}: {endpoint}")
        yield RUNS[name](bench, ping, echo)


def throughput(bench, ping, _):
    """A call for each task, many at a time."""
    reports = [ping("-t", bench.tasks, "--warm-up", min(1000, bench.tasks)) for _ in range(bench.runs)]
    report = middle(reports)
    details = {**report, "runs": [run["tasks_per_second"] for run in reports]}
    return [Row("throughput", "unary client", "tasks/s", report["tasks_per_second"], "1/s", details=details)]


def round_trip(bench, ping, _):
    """One task after the other."""
    count = QUICK_ROUND_TRIPS if bench.quick else ROUND_TRIPS
    report = ping("-t", count, "--window", 1, "--warm-up", 50)
    return percentiles("round-trip", "unary client", report, dict.fromkeys(("p50_ms", "p99_ms", "p999_ms")))


def cold(bench, ping, _):
    """A new session for each task."""
    report = ping("--cold", "-t", QUICK_COLD_SESSIONS if bench.quick else COLD_SESSIONS)
    return percentiles("cold", "new session to first result", report, dict.fromkeys(("p50_ms", "p99_ms")))


def sessions(_bench, ping, _):
    """Several sessions at once."""
    report = ping("--sessions", SESSIONS, "-t", SESSION_TASKS)
    case = f"{SESSIONS} x {SESSION_TASKS:,} tasks, unary client"
    return [Row("sessions", case, "tasks/s", report["tasks_per_second"], "1/s", details=report)]


def payloads(bench, ping, echo):
    """Data that goes to a service and comes back."""
    rows = []
    for size, count in PAYLOADS:
        tasks = max(QUICK_PAYLOADS, count // 10) if bench.quick else count
        report = ping("-t", tasks, "--payload", size, "--warm-up", 4, name=echo)
        rows += rates("payloads", f"{size}iB, unary client", size, report)
    return rows


RUNS = {
    "throughput": throughput,
    "round-trip": round_trip,
    "cold": cold,
    "sessions": sessions,
    "payloads": payloads,
}
