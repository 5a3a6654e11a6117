"""The benchmark suite: what Flame does on this machine, and any Flame-compatible cluster elsewhere."""
