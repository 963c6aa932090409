"""What saving and resuming need beside the state itself: no second copy of it, measured by the kernel."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import ROOT

MILLIONS = 50  # parameters: weights and optimizer are 600 MB
BOUND_MB = 50  # beside twice the largest tensor


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="no peak of memory to be read here")
def test_saving_and_resuming_hold_no_second_copy() -> None:
    command = [sys.executable, "-m", "benchmarks.checkpoint_memory", "--json", "--millions", str(MILLIONS)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=True)
    mb = json.loads(done.stdout)
    assert mb["state"] > 500
    assert mb["saving"] <= 2 * mb["largest"] + BOUND_MB
    assert mb["resuming"] <= 2 * mb["largest"] + BOUND_MB
