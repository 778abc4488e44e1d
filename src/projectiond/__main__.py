"""``python -m projectiond``: the same as the command ``projectiond``."""

import sys

from projectiond.cli import main

if __name__ == "__main__":
    sys.exit(main())
