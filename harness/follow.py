"""`python -m harness.follow`: a rank beside the first, as rank 0 starts it on its machine."""

import sys

from harness.command.follow import follow

if __name__ == "__main__":
    sys.exit(follow())
