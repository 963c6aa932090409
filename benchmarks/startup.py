"""How long one waits: for `run.py --help`, for the first sign of life, and for the first update of the default run.

    python -m benchmarks.startup [--rounds 5]

From the command on, wall clock and, since other work on the machine lengthens that, the CPU time spent so far. One
round before, so that the files lie in the operating system's cache. The first sign is the first character on a
terminal. The first update comes after the evaluation of the base policy and is counted when its row stands in
metrics.jsonl, which is written once a step: four updates.
"""

from __future__ import annotations

import argparse
import os
import pty
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import targets
from benchmarks.turns import ROOT

RUN = [sys.executable, str(ROOT / "run.py")]
LONGEST_S = 300.0
MEASURED = {"`run.py --help`": "≤ 0.5", "first character of the default run": "≤ 1", "its first update": "≤ 6"}

Times = tuple[float, float]  # seconds of wall clock and of CPU


def help_text() -> Times:
    before, started = os.times(), time.perf_counter()
    subprocess.run([*RUN, "--help"], check=True, capture_output=True)
    took, after = time.perf_counter() - started, os.times()
    return took, sum(after[2:4]) - sum(before[2:4])


def first_character() -> Times:
    ours, theirs = pty.openpty()

    def said(run: subprocess.Popen[bytes], _: Path) -> bool:
        return bool(os.read(ours, 1))

    try:
        return _until(said, theirs)
    finally:
        os.close(ours)
        os.close(theirs)


def first_update() -> Times:
    def updated(run: subprocess.Popen[bytes], folder: Path) -> bool:
        return any(path.stat().st_size for path in folder.rglob("metrics.jsonl"))

    return _until(updated, subprocess.DEVNULL)


def _until(reached: Callable[[subprocess.Popen[bytes], Path], bool], output: int) -> Times:
    """Starts the default run and ends it once something is reached. Raises RuntimeError if that never happens."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        run = subprocess.Popen([*RUN, f"runs_dir={folder}"], stdout=output, stderr=output)
        try:
            while not reached(run, Path(folder)):
                if run.poll() is not None or time.perf_counter() - started > LONGEST_S:
                    raise RuntimeError(f"the default run did not get there (exit status {run.returncode})")
                time.sleep(0.005)
            return time.perf_counter() - started, _cpu_s(run.pid)
        finally:
            run.terminate()  # it writes a checkpoint and goes
            run.wait()


def _cpu_s(pid: int) -> float:
    """CPU seconds of a process so far; NaN where the system does not say."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return float("nan")
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    rounds = [(help_text(), first_character(), first_update()) for _ in range(options.rounds + 1)][1:]
    rows = []
    for (what, target), times in zip(MEASURED.items(), zip(*rounds, strict=True), strict=True):
        wall, cpu = zip(*times, strict=True)
        rows.append(targets.row(f"{what}, from the command on", wall, target, "s"))
        rows.append(targets.row(f"{what}: CPU time", cpu, "–", "s"))
    print(targets.table(rows))


if __name__ == "__main__":
    main()
