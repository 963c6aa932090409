"""`python -m harness.grade --reward math --gold X --answer Y`: a response graded, and how both sides were read."""

import sys

from harness.command.grade import main

if __name__ == "__main__":
    sys.exit(main())
