#!/usr/bin/env python3
"""Measures Flame: `hack/bench.py --help`, docs/benchmarks.md."""

import sys

from benchmarks.cli import main

if __name__ == "__main__":
    sys.exit(main())
