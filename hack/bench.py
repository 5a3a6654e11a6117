#!/usr/bin/env python3
"""Measures a cluster on this machine for each storage: tasks per second, latency, memory of the daemons.

Installs the binaries in FLAME_BIN_DIR (release, please) into a private folder, starts a cluster on free
ports, warms it up, runs the benchmark mode of flmping with batches, with single calls and one task at a
time, and removes everything. Prints a table, or JSON for programs.
"""

import argparse
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

SCRIPT = Path(__file__).resolve().parent / "local-test.sh"
STORAGES = {"none": "none", "sqlite": "sqlite://{prefix}/data/bench.db"}
# How flmping submits: many tasks in a call, a call for each, a call for each after the end of the last one.
MODES = {
    "batched": ([], 1.0),
    "unary": (["--unary"], 1.0),
    "one by one": (["--unary", "--window", "1"], 0.1),
}
DAEMONS = ("flame-session-manager", "flame-node-agent")
WARM_UP_TASKS = 2000
RUN_SECONDS = 600


class BenchError(Exception):
    """A step failed; the message is what it printed."""


def main():
    """Measures all chosen storages; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-t", "--tasks", type=int, default=30000, help="tasks of a run (default %(default)s)")
    parser.add_argument(
        "--runs", type=int, default=3, help="runs for each storage; the median counts (default 3)"
    )
    parser.add_argument("--storage", choices=[*STORAGES, "all"], default="all")
    parser.add_argument("--output", choices=("table", "json"), default="table")
    arguments = parser.parse_args()
    chosen = list(STORAGES) if arguments.storage == "all" else [arguments.storage]
    try:
        results = [row for name in chosen for row in measure(name, arguments.tasks, arguments.runs)]
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    report = {"machine": machine(), "results": results}
    print(json.dumps(report, indent=2) if arguments.output == "json" else table(report))
    return 0


def measure(storage, tasks, runs):
    """Starts a cluster with this storage and benchmarks every mode; a row for each."""
    prefix = Path(tempfile.mkdtemp(prefix="flame-bench-"))
    env = {**os.environ, "INSTALL_PREFIX": str(prefix), "FLAME_ENDPOINT": f"http://127.0.0.1:{free_port()}"}
    try:
        command([SCRIPT, "install"], env)
        set_storage(prefix / "conf/flame-cluster.yaml", STORAGES[storage].format(prefix=prefix))
        command([SCRIPT, "start"], env)
        flmping = [prefix / "bin/flmping", "-p", "--output", "json", "-t"]
        command([*flmping, str(WARM_UP_TASKS)], env)
        rows = []
        for mode, (flags, part) in MODES.items():
            count = max(1, int(tasks * part))
            reports = [json.loads(command([*flmping, str(count), *flags], env)) for _ in range(runs)]
            for report in reports:
                if report["succeeded"] != count:
                    raise BenchError(f"only {report['succeeded']} of {count} tasks succeeded")
            rows.append({"storage": storage, "mode": mode, **median(reports), "rss_mib": memory(prefix)})
        return rows
    finally:
        subprocess.run(
            [SCRIPT, "clean"], env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False
        )
        shutil.rmtree(prefix, ignore_errors=True)


def command(words, env):
    """What a command prints; `BenchError` if it fails."""
    words = [str(word) for word in words]
    done = subprocess.run(
        words, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=RUN_SECONDS
    )
    if done.returncode != 0:
        raise BenchError(f"`{' '.join(words)}` ended with {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def set_storage(path, storage):
    """Chooses the storage in an installed configuration."""
    text = path.read_text()
    changed, count = re.subn(r"(?m)^(\s+)storage:.*$", rf'\1storage: "{storage}"', text, count=1)
    if count == 0:
        changed = re.sub(r"(?m)^cluster:\s*$", f'cluster:\n  storage: "{storage}"', text, count=1)
    path.write_text(changed)


def median(reports):
    """The run in the middle, by tasks per second."""
    ordered = sorted(reports, key=lambda report: report["tasks_per_second"])
    return ordered[len(ordered) // 2]


def memory(prefix):
    """Resident memory of each daemon in MiB, and the most it ever had."""
    found = {}
    for name in DAEMONS:
        pid = (prefix / f"run/{name}.pid").read_text().split()[0]
        status = Path(f"/proc/{pid}/status").read_text()
        now, peak = (int(re.search(rf"{key}:\s+(\d+)", status)[1]) / 1024 for key in ("VmRSS", "VmHWM"))
        found[name] = {"now": round(now, 1), "peak": round(peak, 1)}
    return found


def machine():
    """What the numbers were measured on."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    model = re.search(r"model name\s*:\s*(.*)", cpuinfo)
    memory_kib = int(re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())[1])
    return {
        "cpu": model[1] if model else platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory_kib / 1024 / 1024, 1),
        "kernel": platform.release(),
    }


def table(report):
    """The report for people."""
    about = report["machine"]
    lines = [
        f"{about['cpu']}, {about['cores']} cores, {about['memory_gib']} GiB, Linux {about['kernel']}",
        "",
    ]
    heads = (
        "storage",
        "mode",
        "tasks",
        "tasks/s",
        "p50 ms",
        "p99 ms",
        "manager MiB (peak)",
        "agent MiB (peak)",
    )
    rows = [heads]
    for result in report["results"]:
        rss = [f"{result['rss_mib'][name]['now']} ({result['rss_mib'][name]['peak']})" for name in DAEMONS]
        speed = [f"{result['tasks_per_second']:,.0f}", f"{result['p50_ms']:.3f}", f"{result['p99_ms']:.3f}"]
        rows.append((result["storage"], result["mode"], str(result["tasks"]), *speed, *rss))
    widths = [max(len(row[column]) for row in rows) for column in range(len(heads))]
    lines += ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(lines)


def free_port():
    """A port that is free, and the next one too."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("0.0.0.0", 0))
            port = first.getsockname()[1]
            try:
                second.bind(("0.0.0.0", port + 1))
            except (OSError, OverflowError):
                continue
            return port


if __name__ == "__main__":
    sys.exit(main())
