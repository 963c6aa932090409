"""`python -m harness.status RUNS…`: every cell of a sweep as a table."""

import signal
import sys

from harness.command.status import main

if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `… | head` is no error
    sys.exit(main())
