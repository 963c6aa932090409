"""Cells an hour of a sweep on two cores: joblib with two jobs against one cell after the other, in turns.

    python -m benchmarks.throughput [--rounds 2] [--cells 4] [--updates 400]

The wall's clock, from the first cell's start to the last one's end, evaluations and checkpoints included; and of the
whole command, which adds start-up and the figures, the same for one cell as for a hundred.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import targets
from benchmarks.turns import ROOT
from harness.records.layout import MANIFEST

LAUNCHERS = {
    "one after the other": (),
    "joblib, n_jobs=2": ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2"),
}


def seconds(launcher: tuple[str, ...], cells: int, updates: int) -> tuple[float, float]:
    """Of the cells of one sweep over seeds, and of its whole command. Raises CalledProcessError."""
    with tempfile.TemporaryDirectory() as folder:
        sweep = [f"seed={','.join(str(1 + n) for n in range(cells))}", f"updates={updates}", f"eval.every={updates}"]
        command = [sys.executable, "run.py", "-m", *sweep, "tracking=none", f"runs_dir={folder}", *launcher]
        started = time.perf_counter()
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        whole = time.perf_counter() - started
        runs = [json.loads(path.read_text()) for path in Path(folder).rglob(MANIFEST)]
    return max(run["finished"] for run in runs) - min(run["started"] for run in runs), whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--cells", type=int, default=4)
    parser.add_argument("--updates", type=int, default=400)
    options = parser.parse_args()
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in LAUNCHERS}
    for _ in range(options.rounds):
        for name, launcher in LAUNCHERS.items():
            taken[name].append(seconds(launcher, options.cells, options.updates))
    print(f"{options.cells} cells of {options.updates} updates on {os.cpu_count()} cores:\n")
    print("| launcher | cells an hour | seconds of the cells | of the command |\n|---|---|---|---|")
    for name, rounds in taken.items():
        cells, whole = zip(*rounds, strict=True)
        rate = [3600 * options.cells / s for s in cells]
        print(f"| {name} | {targets.middle(rate)} | {targets.middle(cells)} | {targets.middle(whole)} |")
    pairs = list(zip(*taken.values(), strict=True))
    what = "two joblib jobs against one cell after the other"
    rows = [
        targets.row(f"{what}: cells an hour", [one[0] / two[0] for one, two in pairs], "≥ 1.8", "×"),
        targets.row(f"{what}: whole command", [one[1] / two[1] for one, two in pairs], "–", "×"),
    ]
    print(targets.table(rows))


if __name__ == "__main__":
    main()
