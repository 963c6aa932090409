"""`python -m harness.sync RUNS…`: run folders into MLflow."""

import sys

from harness.tracking.sync import main

if __name__ == "__main__":
    sys.exit(main())
