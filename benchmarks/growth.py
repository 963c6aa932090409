"""What an update costs as model, batch, responses and staleness grow: CPU time on one thread, round by round in turn.

    python -m benchmarks.growth [--rounds 5] [--only model batch length staleness]

An update with its share of a rollout batch: generating, grading, learning. Model, batch and length: GRPO, random
weights, and responses that never end before their limit, so that the tokens are the same everywhere. A batch that
is more than one micro-batch costs a method of batch scope another pass without gradient: M2PO's row. Staleness: the
default run's own loop, its rollout queue filled. Growth in proportion is 1 in the last column; attention grows with the
square of the length.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from benchmarks import targets
from benchmarks.drivers import step, training
from benchmarks.workbench import Workbench, interleaved, random_model, workbench

UPDATES_A_STEP = 4
POSITIONS = 512
NO_TOKEN = -1


@dataclass(frozen=True)
class Case:
    """grown: how many times as large as the first case of its series what grows is."""

    label: str
    grown: float
    call: Callable[[], object]


def endless(*overrides: str) -> Workbench:
    """A workbench whose responses are all as long as they may be."""
    bench = workbench(*overrides)
    bench.engine.end_tokens = [NO_TOKEN]
    return bench


def update(bench: Workbench) -> Callable[[], object]:
    return lambda: list(bench.learner.step(bench.graded()))


def model(scratch: ExitStack) -> list[Case]:
    benches = [endless("algo=grpo", path) for path in (tiny(scratch), *(random(scratch, w, 3) for w in (160, 512)))]
    sizes = [sum(p.numel() for p in bench.model.module.parameters()) for bench in benches]
    return [
        Case(f"{size / 1e6:.1f} M parameters", size / sizes[0], update(bench))
        for size, bench in zip(sizes, benches, strict=True)
    ]


def batch(scratch: ExitStack) -> list[Case]:
    path = tiny(scratch)
    cases = [
        (f"batch × {times}", times, endless("algo=grpo", path, f"rollout.prompts_per_step={64 * times}"))
        for times in (1, 4, 16)
    ]
    cases.append(("batch × 16, M2PO", 16, endless("algo=m2po", path, f"rollout.prompts_per_step={64 * 16}")))
    return [Case(label, times, update(bench)) for label, times, bench in cases]


def length(scratch: ExitStack) -> list[Case]:
    path = tiny(scratch)
    benches = {times: endless("algo=grpo", path, f"rollout.max_new_tokens={24 * times}") for times in (1, 4, 16)}
    return [Case(f"{24 * times} tokens a response", times, update(bench)) for times, bench in benches.items()]


def staleness(scratch: ExitStack) -> list[Case]:
    runs = {s: scratch.enter_context(training("driver=serial", f"staleness={s}")) for s in (0, 64, 256)}
    return [Case(f"staleness {s}", 1, partial(step, run)) for s, run in runs.items()]


def random(scratch: ExitStack, width: int, layers: int) -> str:
    folder = scratch.enter_context(tempfile.TemporaryDirectory())
    return f"model.path={random_model(Path(folder), width, layers, POSITIONS)}"


def tiny(scratch: ExitStack) -> str:
    """The shape of the embedded model."""
    return random(scratch, 64, 2)


SERIES: dict[str, Callable[[ExitStack], list[Case]]] = {
    "model": model,
    "batch": batch,
    "length": length,
    "staleness": staleness,
}


def measured(name: str, rounds: int) -> tuple[list[str], dict[str, list[float]]]:
    """The table's rows, and of each case the rounds' cost a unit of growth against the first case."""
    with ExitStack() as scratch:
        cases = SERIES[name](scratch)
        seconds = interleaved({case.label: case.call for case in cases}, rounds)
    rows, relative = [], {}
    for case in cases:
        pairs = zip(seconds[case.label], seconds[cases[0].label], strict=True)
        relative[case.label] = [mine / first / case.grown for mine, first in pairs]
        ms = 1e3 * statistics.median(seconds[case.label]) / UPDATES_A_STEP
        rows.append(f"| {case.label} | {case.grown:.3g} | {ms:,.0f} | {targets.middle(relative[case.label])} |")
    return rows, relative


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=SERIES, default=list(SERIES))
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| case | grown × | CPU ms/update | cost a unit against the first: median (quartiles) |\n|---|---|---|---|")
    for name in options.only:
        # Against 1.05, a few percent of noise matter, and a step of the default is cheap.
        rows, relative = measured(name, 3 * options.rounds if name == "staleness" else options.rounds)
        print("\n".join(rows), flush=True)
    if "staleness" in options.only:
        print(
            targets.table([targets.row("CPU time at s = 256 against s = 0", relative["staleness 256"], "≤ 1.05", "×")])
        )


if __name__ == "__main__":
    main()
