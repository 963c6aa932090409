"""`python -m harness.ui`: run folders' copies in MLflow, in the browser (harness/tracking/ui.py)."""

import sys

from harness.tracking.ui import main

if __name__ == "__main__":
    sys.exit(main())
