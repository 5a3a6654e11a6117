"""A machine of the test bed with the measured programs, as the end-to-end tests use one."""

import os
import shutil
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

from .cluster import ROOT
from .command import BenchError

sys.path[:0] = [str(ROOT / "hack"), str(ROOT / "e2e")]

from machine import AGENT, BIN, FLMADM, MANAGER, PROGRAMS, Machine, strip  # noqa: E402
from releases import SHELF, shelve  # noqa: E402
from testbed import TestBed  # noqa: E402

# For measures, which cannot import these before the path is set.
__all__ = ["AGENT", "FLMADM", "MANAGER", "SHELF", "booted", "shelve"]


@contextmanager
def booted(bench, measure):
    """A machine without Flame, on which the programs lie in `machine.BIN`."""
    if os.geteuid() != 0:
        raise BenchError(f"{measure}: the test bed needs root")
    folder = Path(tempfile.mkdtemp(prefix="flame-bench-"))
    try:
        strip(PROGRAMS, bench.bin_dir, folder)
        bench.progress(f"{measure}: boots a machine")
        with TestBed(["bench"], {BIN: folder}) as bed:
            yield Machine(bed, bed.nodes[0])
    finally:
        shutil.rmtree(folder)
