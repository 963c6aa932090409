"""`python -m harness.warmstart`: makes the base policy of task=carry."""

import sys

from harness.warmstart.carry import main

sys.exit(main())
