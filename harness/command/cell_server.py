"""Imported by the process that forks a sweep's cells, and by nothing else: what a cell needs, once for all of them.

Signals are for the cells; this process ends with its launcher.
"""

import signal

from harness.interrupts import UNLESS_IGNORED

for number in (signal.SIGTERM, *UNLESS_IGNORED):
    signal.signal(number, signal.SIG_IGN)

import harness.command.cell  # noqa: E402
import harness.evaluation  # noqa: E402
import harness.training  # noqa: E402, F401
