"""A test bed of real systemd machines: containers from Debian packages, joined by a private network.

Standard library only. For use in tests:

    with TestBed(nodes=2) as bed:
        manager, worker = bed.nodes
        manager.run(["systemctl", "is-system-running"])

For use by hand: `python3 hack/testbed up --nodes 2` (see `python3 hack/testbed --help`).
"""

from .bed import BedError, TestBed, remove_stale
from .command import CommandError, Result, wait_until
from .node import Node
from .tree import TreeError, cache_dir, ensure_tree

__all__ = [
    "BedError",
    "CommandError",
    "Node",
    "Result",
    "TestBed",
    "TreeError",
    "cache_dir",
    "ensure_tree",
    "remove_stale",
    "wait_until",
]
