"""`python -m benchmarks.resume`: every method, driver and staleness, killed at a random point, resumed, compared.

Without --all a covering subset of at most 24 cells: every method, and every pair of driver, staleness and moment.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, product
from pathlib import Path

from benchmarks.faults import trial
from benchmarks.small_runs import config_of, prepare, undisturbed

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
LARGEST_SUBSET = 24

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
    spare = iter(rows)
    while len(chosen) < min(len(names), LARGEST_SUBSET):
        row = next(spare)
        if row not in chosen and row[0] != "ray":  # a local cluster takes seconds to start
            chosen.append(row)
    return [(names[i % len(names)], *row) for i, row in enumerate(chosen)]


def everything(drivers: Sequence[str], seed: int) -> list[Cell]:
    """Every method, driver and staleness, at a moment drawn for each."""
    dice = random.Random(seed)
    return [(*cell, dice.choice(MOMENTS)) for cell in product(methods(), drivers, STALENESS)]


def run(cells: Sequence[Cell], seed: int) -> Iterator[tuple[Cell, list[str]]]:
    """Each cell with what was wrong; nothing wrong is an empty list."""
    prepare()
    for number, cell in enumerate(cells):
        method, driver, staleness, moment = cell
        overrides = (f"algo={method}", f"driver={driver}", f"staleness={staleness}", *NEEDS.get(method, ()))
        with tempfile.TemporaryDirectory(prefix="resume-") as scratch:
            # The reference is the serial driver's: the drivers give the same bits, and that is tested along.
            expected = undisturbed(
                tuple("driver=serial" if "driver=" in o else o for o in overrides), Path(scratch) / "a"
            )
            config = config_of(overrides, Path(scratch) / "b")
            result = trial(" ".join(overrides), config, [moment], expected, random.Random(f"{seed} {number}"))
        problems = result.problems or ([] if result.struck else ["the run was over before the fault struck"])
        yield cell, problems


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", action="store_true", help="every combination instead of the covering subset")
    parser.add_argument("--drivers", nargs="+", default=list(DRIVERS), choices=DRIVERS)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="write the table there too")
    options = parser.parse_args()
    cells = everything(options.drivers, options.seed) if options.all else covering(options.drivers)
    started, results = time.monotonic(), []
    for cell, problems in run(cells, options.seed):
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
