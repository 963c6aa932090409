"""`python -m benchmarks.resume`: methods, drivers and stalenesses, killed at chosen moments, resumed, compared.

Without --all every pair of driver, staleness and moment, in as few runs as cover them, the methods in turn.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import combinations, product
from pathlib import Path

from benchmarks.fault_trial import SIZES, Reference, reference, trial
from benchmarks.small_runs import line_of, prepare

DRIVERS = ("serial", "overlapped", "ray")
STALENESS = (0, 4, 64)
MOMENTS = (
    "kill -9 in the warm-up",
    "kill -9 at a byte of a record",
    "kill -9 inside a save",
    "kill -9 inside an evaluation",
    "SIGTERM or Ctrl-C",
)
NEEDS = {"opsm": ("algo.delta=0.5",)}  # parameters without a default
ATTEMPTS = 3  # a short run may be over before the moment comes

Cell = tuple[str, str, int, str]  # method, driver, staleness, moment


def methods() -> list[str]:
    conf = Path(__file__).resolve().parents[1] / "conf" / "algo"
    return sorted(path.stem for path in conf.glob("*.yaml"))


def covering(drivers: Sequence[str], seed: int = 1) -> list[Cell]:
    """Greedy: each next row covers the most pairs of (driver, staleness, moment) not yet covered; methods in turn."""
    dice = random.Random(seed)
    rows = list(product(drivers, STALENESS, MOMENTS))
    dice.shuffle(rows)
    left = {pair for row in rows for pair in combinations(enumerate(row), 2)}
    chosen = []
    while left:
        best = max(rows, key=lambda row: sum(pair in left for pair in combinations(enumerate(row), 2)))
        left -= set(combinations(enumerate(best), 2))
        chosen.append(best)
    names = methods()
    return [(names[i % len(names)], *row) for i, row in enumerate(chosen)]


def everything(drivers: Sequence[str], seed: int) -> list[Cell]:
    """Every method on every driver, the stalenesses in turn, at a moment drawn for each."""
    dice = random.Random(seed)
    return [
        (method, driver, STALENESS[(number + shift) % len(STALENESS)], dice.choice(MOMENTS))
        for number, method in enumerate(methods())
        for shift, driver in enumerate(drivers)
    ]


def run(cells: Sequence[Cell], seed: int, jobs: int) -> Iterator[tuple[Cell, list[str]]]:
    """Each cell with what was wrong; nothing wrong is an empty list. jobs: processes side by side."""
    # Started anew, not forked: each of them forks the runs, and a fork keeps no threads.
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), initializer=prepare) as pool:
        yield from zip(cells, pool.map(_resumed, cells, (f"{seed} {i}" for i in range(len(cells)))), strict=True)


def _resumed(cell: Cell, seed: str) -> list[str]:
    """What was wrong with a cell, beside a run of the serial driver that nobody disturbed.

    The drivers give the same bits, and that is tested along.
    """
    method, driver, staleness, _ = cell
    overrides = (f"algo={method}", f"staleness={staleness}", "task.validation_problems=4", *NEEDS.get(method, ()))
    with tempfile.TemporaryDirectory(prefix="resume-") as scratch:
        expected = reference((*overrides, "driver=serial"), Path(scratch))
        for attempt in range(ATTEMPTS):
            problems, struck = _killed(cell, (*overrides, f"driver={driver}"), expected, f"{seed} {attempt}")
            if problems or struck:
                return problems
    return ["the run was over before the fault struck"]


def _killed(cell: Cell, overrides: tuple[str, ...], expected: Reference, seed: str) -> tuple[list[str], bool]:
    """Kills one run at its moment and lets it finish: what was wrong, and whether it was killed at all."""
    with tempfile.TemporaryDirectory(prefix="resume-") as scratch:
        line = line_of(overrides, Path(scratch) / "runs", SIZES)
        result = trial(" ".join(map(str, cell)), line, [cell[3]], expected, random.Random(seed), Counter())
    return [f"{problem.kind}: {problem.text}" for problem in result.problems], bool(result.struck)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", action="store_true", help="every method on every driver instead")
    parser.add_argument("--drivers", nargs="+", default=list(DRIVERS), choices=DRIVERS)
    parser.add_argument("--jobs", type=int, default=2, help="processes side by side")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="write the table there too")
    options = parser.parse_args()
    cells = everything(options.drivers, options.seed) if options.all else covering(options.drivers)
    started, results = time.monotonic(), []
    for cell, problems in run(cells, options.seed, options.jobs):
        results.append((cell, problems))
        print(f"{'FAILED' if problems else 'same'}  {' '.join(map(str, cell))}  {'; '.join(problems)}", flush=True)
    text = table(results)
    print(f"{text}{time.monotonic() - started:.0f} s")
    if options.out:
        options.out.write_text(text, encoding="utf-8")
    return 1 if any(problems for _, problems in results) else 0


def table(results: Sequence[tuple[Cell, list[str]]]) -> str:
    """Markdown: how many resumed to the same bits, by driver, staleness and moment, and what did not."""

    def rows(what: str, part: Callable[[Cell], object]) -> str:
        groups: dict[object, list[bool]] = {}
        for cell, problems in results:
            groups.setdefault(part(cell), []).append(not problems)
        lines = "\n".join(f"| {name} | {len(same)} | {sum(same)} |" for name, same in groups.items())
        return f"| {what} | killed | same bits |\n|---|---:|---:|\n{lines}\n"

    wrong = "".join(f"- {' '.join(map(str, cell))}: {'; '.join(problems)}\n" for cell, problems in results if problems)
    same = sum(not problems for _, problems in results)
    return f"""# Killed and resumed

Written by `python -m benchmarks.resume`: small real runs of {len(methods())} methods, killed at the moment named,
started again by the same command until finished, and compared with a run of the serial driver that nobody disturbed:
hash of the final weights, records without their timings, each update once.

**{same} of {len(results)} resumed to the same bits.**

{rows("driver, staleness", lambda cell: f"{cell[1]}, {cell[2]}")}
{rows("moment", lambda cell: cell[3])}
{wrong}"""


if __name__ == "__main__":
    sys.exit(main())
