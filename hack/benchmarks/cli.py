"""Command line of the benchmark suite."""

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from . import costs, foreign, install, latency, machine, throughput, units
from .cluster import ROOT
from .command import BenchError
from .report import headline, markdown, table

MEASURES = {
    "throughput": throughput.throughput,
    "round-trip": latency.round_trip,
    "cold": latency.cold,
    "sessions": throughput.sessions,
    "payloads": latency.payloads,
    "cpu": costs.cpu,
    "restart": costs.restart,
    "idle": costs.idle,
    "memory": costs.memory,
    "install": install.install,
    "units": units.units,
}
# They need root and what the end-to-end tests need, so they have to be asked for.
ON_REQUEST = ("install", "units")
TASKS, QUICK_TASKS = 30_000, 5_000
# Quick is for a look at one change: the rest needs time to mean anything.
QUICK_MEASURES = ("throughput", "round-trip", "cold", "payloads", "cpu")

DESCRIPTION = """\
Measures Flame on this machine: starts private clusters, runs flmping against them, looks at the daemons, and
removes everything. With --endpoint it measures a cluster that runs already, with the calls that every
Flame-compatible server has. The table goes to standard output, progress to standard error."""


@dataclass
class Bench:
    """What all measures are told."""

    bin_dir: Path
    directory: Path
    tasks: int
    runs: int
    quick: bool
    began: float = field(default_factory=time.monotonic)

    def progress(self, text):
        """A line for whoever waits."""
        print(f"[{time.monotonic() - self.began:4.0f} s] {text}", file=sys.stderr, flush=True)


def main():
    """Measures what is chosen; returns the exit code."""
    arguments = parse()
    bench = Bench(
        arguments.bin_dir,
        arguments.directory,
        arguments.tasks or (QUICK_TASKS if arguments.quick else TASKS),
        arguments.runs or (1 if arguments.quick else 3),
        arguments.quick,
    )
    about = machine.describe(bench.directory, ROOT)
    # Whoever ends this gets what Ctrl-C gives, and no daemon stays behind.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    rows, code = [], 0
    # What was measured until something broke, or until Ctrl-C, is worth printing.
    try:
        for measured in measures(bench, arguments):
            rows += measured
    except (BenchError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        code = 130
    if arguments.endpoint:
        about["endpoint"] = arguments.endpoint
    if arguments.output == "json":
        report = {"machine": about, "quick": bench.quick, "results": [row.as_json() for row in rows]}
        print(json.dumps(report, indent=2))
    else:
        print(markdown(about, rows) if arguments.output == "markdown" else table(about, rows))
    return code


def measures(bench, arguments):
    """Makes the rows of each chosen measure."""
    bench.progress(headline(machine.describe(bench.directory, ROOT)))
    if arguments.endpoint:
        names = arguments.only or foreign.MEASURES
        yield from foreign.measures(bench, arguments.endpoint, arguments.application, arguments.echo, names)
        return
    names = arguments.only or (
        QUICK_MEASURES if bench.quick else tuple(n for n in MEASURES if n not in ON_REQUEST)
    )
    for name, run in MEASURES.items():
        if name in names:
            yield run(bench)


def parse():
    """The arguments, checked."""
    parser = argparse.ArgumentParser(
        prog="hack/bench.py", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", choices=("table", "markdown", "json"), default="table")
    parser.add_argument("--quick", action="store_true", help="about a minute, rough numbers")
    parser.add_argument(
        "--only", type=names_of_measures, metavar="NAME,...", help=f"of {', '.join(MEASURES)}"
    )
    parser.add_argument("-t", "--tasks", type=positive, help=f"tasks of a throughput run (default {TASKS:,})")
    parser.add_argument(
        "--runs", type=positive, help="throughput runs for each case; the median counts (default 3)"
    )
    parser.add_argument(
        "--bin-dir",
        type=Path,
        default=os.environ.get("FLAME_BIN_DIR"),
        help="release binaries (default FLAME_BIN_DIR)",
    )
    parser.add_argument(
        "--directory",
        type=Path,
        default=Path(tempfile.gettempdir()),
        help="where the clusters keep their state; its disk is what is measured (default %(default)s)",
    )
    other = parser.add_argument_group("another cluster")
    other.add_argument("--endpoint", metavar="URL", help="measure the cluster there instead of private ones")
    other.add_argument(
        "--application", metavar="NAME", default="flmping", help="its empty application (default %(default)s)"
    )
    other.add_argument("--echo", metavar="NAME", help="an application of it that returns its input")
    arguments = parser.parse_args()
    check(parser, arguments)
    return arguments


def check(parser, arguments):
    """Ends the program with a usage error if something does not fit."""
    if not arguments.bin_dir:
        parser.error("name the folder with the release binaries with --bin-dir or FLAME_BIN_DIR")
    arguments.bin_dir = Path(arguments.bin_dir).resolve()
    needed = (
        ["flmping"] if arguments.endpoint else ["flmadm", "flame-session-manager", "flmping", "flmping-echo"]
    )
    for name in needed:
        if not (arguments.bin_dir / name).exists():
            parser.error(f"there is no {name} in {arguments.bin_dir}: run `make build-release`")
    if arguments.endpoint and arguments.only:
        for name in set(arguments.only) - set(foreign.MEASURES):
            parser.error(
                f"{name} needs a private cluster; with --endpoint there are {', '.join(foreign.MEASURES)}"
            )
    if not arguments.endpoint and arguments.echo:
        parser.error("--echo goes with --endpoint")


def names_of_measures(text):
    """A list of measures that exist."""
    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        if name not in MEASURES:
            raise argparse.ArgumentTypeError(f"there is no measure {name!r}, only {', '.join(MEASURES)}")
    return names


def positive(text):
    """A whole number above 0."""
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number
