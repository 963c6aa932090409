"""`python -m harness.status RUNS…`: every cell of a sweep as a table."""

import sys

from harness.command.status import main

if __name__ == "__main__":
    sys.exit(main())
