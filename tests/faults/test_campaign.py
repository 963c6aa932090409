"""Real runs killed, starved and damaged from outside, then compared bit by bit; in processes of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.fault_files import compiled

ROOT = Path(__file__).resolve().parents[2]
TRIAL = """
import random, sys
from collections import Counter
from pathlib import Path
from benchmarks.fault_trial import CASES, SIZES, reference, trial
from benchmarks.small_runs import line_of, prepare
prepare()
folder = Path(sys.argv[1])
expected = reference(CASES[0], folder / "reference")
line = line_of(CASES[0], folder / "runs", SIZES)
print(trial("", line, ["power loss"], expected, random.Random(1), Counter()).problems)
"""


def run(*arguments: str, seconds: float) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def test_sixty_faults_lose_nothing() -> None:
    """Every kind of fault; ten times as many in `make faults`."""
    run("benchmarks.faults", "--faults", "60", "--seed", "7", seconds=1800)


def test_killed_runs_resume_to_the_same_bits() -> None:
    """Every pair of driver, staleness and moment; every method on every driver in `make faults`."""
    run("benchmarks.resume", seconds=1800)


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler (cc): faults at file calls are not tried")
def test_the_campaign_notices_what_is_not_synced(tmp_path: Path) -> None:
    """A run whose files are renamed before they are on the disk does not survive a power loss."""
    code = "import harness.records.files as f; f.sync = lambda path: None; f.sync_all = lambda paths: None; "
    library = compiled(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", code + TRIAL, str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "LD_PRELOAD": str(library)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert "kind='lost'" in done.stdout, done.stdout + done.stderr[-3000:]
