"""Real runs killed, starved and damaged from outside, then compared bit by bit; in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


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


def test_twenty_faults_lose_nothing() -> None:
    run("benchmarks.faults", "--faults", "20", "--seed", "7", seconds=900)


def test_killed_runs_resume_to_the_same_bits() -> None:
    """Every method, and every pair of driver, staleness and moment; the rest in `make faults`."""
    run("benchmarks.resume", seconds=900)
