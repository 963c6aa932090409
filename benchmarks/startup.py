"""How long one waits: for `run.py --help`, and for the first update of the default run, from the command on.

    python -m benchmarks.startup [--rounds 5]

Wall clock, whole commands; one round of each before, so that the files lie in the operating system's cache. The first
update comes after the evaluation of the base policy and is counted when its row stands in metrics.jsonl, which is
written once a step: four updates.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import targets
from benchmarks.turns import ROOT

RUN = [sys.executable, "run.py"]
LONGEST_S = 300.0


def help_text() -> float:
    started = time.perf_counter()
    subprocess.run([*RUN, "--help"], cwd=ROOT, check=True, capture_output=True)
    return time.perf_counter() - started


def first_update() -> float:
    """Raises RuntimeError if the run ends, or takes very long, before its first update."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        run = subprocess.Popen(
            [*RUN, f"runs_dir={folder}"], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            while not any(path.stat().st_size for path in Path(folder).rglob("metrics.jsonl")):
                if run.poll() is not None or time.perf_counter() - started > LONGEST_S:
                    raise RuntimeError(f"the default run made no update (exit status {run.returncode})")
                time.sleep(0.005)
            return time.perf_counter() - started
        finally:
            run.terminate()  # it writes a checkpoint and goes
            run.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    rounds = [(help_text(), first_update()) for _ in range(options.rounds + 1)][1:]
    helps, firsts = zip(*rounds, strict=True)
    print(
        targets.table(
            [
                targets.row("`run.py --help`", helps, "≤ 1", "s"),
                targets.row("first update of the default, from the command on", firsts, "≤ 6", "s"),
            ]
        )
    )


if __name__ == "__main__":
    main()
