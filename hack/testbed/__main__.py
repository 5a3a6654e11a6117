"""Lets `python3 hack/testbed ...` run the command line of the test bed."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from testbed.cli import main  # noqa: E402  (the path has to be set first)

if __name__ == "__main__":
    sys.exit(main())
