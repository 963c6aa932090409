"""`python -m benchmarks.resume`: every method × core × staleness × moment, killed, resumed, compared bit by bit.

Without --all a covering subset of at most 24 cells: every method, and every pair of core, staleness and moment.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import combinations, product
from pathlib import Path

from benchmarks.faults import trial
from benchmarks.small_runs import config_of, prepare, undisturbed

CORES = ("serial", "overlapped", "ray")
STALENESS = (0, 4, 64)
MOMENTS = (
    "kill -9 in the warm-up",
    "kill -9 at a byte of a record",
    "kill -9 inside a save",
    "kill -9 inside an evaluation",
    "SIGTERM or Ctrl-C",
)
NEEDS = {"opsm": ("algo.delta=0.5",)}  # parameters without a default
LARGEST_SUBSET = 24

Cell = tuple[str, str, int, str]  # method, core, staleness, moment


def methods() -> list[str]:
    conf = Path(__file__).resolve().parents[1] / "conf" / "algo"
    return sorted(path.stem for path in conf.glob("*.yaml"))


def covering(cores: Sequence[str], seed: int = 1) -> list[Cell]:
    """Greedy: each next row covers the most pairs of (core, staleness, moment) not yet covered; methods in turn."""
    dice = random.Random(seed)
    rows = list(product(cores, STALENESS, MOMENTS))
    dice.shuffle(rows)
    left = {pair for row in rows for pair in combinations(enumerate(row), 2)}
    chosen = []
    while left:
        best = max(rows, key=lambda row: sum(pair in left for pair in combinations(enumerate(row), 2)))
        left -= set(combinations(enumerate(best), 2))
        chosen.append(best)
    names = methods()
    spare = iter(rows)
    while len(chosen) < min(len(names), LARGEST_SUBSET):
        row = next(spare)
        if row not in chosen and row[0] != "ray":  # a local cluster takes seconds to start
            chosen.append(row)
    return [(names[i % len(names)], *row) for i, row in enumerate(chosen)]


def run(cells: Sequence[Cell], seed: int) -> Iterator[tuple[Cell, list[str]]]:
    """Each cell with what was wrong; nothing wrong is an empty list."""
    prepare()
    for number, cell in enumerate(cells):
        method, core, staleness, moment = cell
        overrides = (f"algo={method}", f"core={core}", f"staleness={staleness}", *NEEDS.get(method, ()))
        with tempfile.TemporaryDirectory(prefix="resume-") as scratch:
            # The reference is the serial core's: the cores give the same bits, and that is tested along.
            expected = undisturbed(tuple("core=serial" if "core=" in o else o for o in overrides), Path(scratch) / "a")
            config = config_of(overrides, Path(scratch) / "b")
            result = trial(" ".join(overrides), config, [moment], expected, random.Random(f"{seed} {number}"))
        problems = result.problems or ([] if result.struck else ["the run was over before the fault struck"])
        yield cell, problems


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", action="store_true", help="every combination instead of the covering subset")
    parser.add_argument("--cores", nargs="+", default=list(CORES), choices=CORES)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    everything = list(product(methods(), options.cores, STALENESS, MOMENTS))
    cells = everything if options.all else covering(options.cores)
    started, failed = time.monotonic(), 0
    for cell, problems in run(cells, options.seed):
        failed += bool(problems)
        print(f"{'FAILED' if problems else 'same'}  {' '.join(map(str, cell))}  {'; '.join(problems)}", flush=True)
    print(f"{len(cells) - failed} of {len(cells)} resumed to the same bits in {time.monotonic() - started:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
