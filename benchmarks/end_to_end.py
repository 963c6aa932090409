"""Updates a second against TRL's GRPOTrainer, round by round in turn, one round a rollout batch (4 updates).

    python -m benchmarks.end_to_end [--rounds 25] [--large-rounds 5] [--threads 1 2] [--curves docs/figures]

Same base policy, task, prompts, 512 responses a batch, four updates of 128, lengths, learning rate and threads; on
policy; our records and diagnostics on. Median of the rounds, the first two dropped; the ratio is the median of the
rounds' ratios. Wall clock, and CPU time of the process, which a busy neighbour moves less.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import matplotlib

from benchmarks import targets
from benchmarks.peer_env import PYTHON, TRL, ensure
from benchmarks.turns import Contender
from benchmarks.workbench import random_model

UPDATES_A_ROUND = 4
WARM_UP = 2


HEAD = "| case | LagRange ms/update | TRL ms/update | × TRL's updates/s, wall | × by CPU time |\n|---|---|---|---|---|"


@dataclass(frozen=True)
class Result:
    """Of each round: seconds an update (wall) and CPU seconds, ours and TRL's; reward of each rollout batch."""

    label: str
    wall: tuple[list[float], list[float]]
    cpu: tuple[list[float], list[float]]
    rewards: tuple[list[float], list[float]]

    def ratios(self) -> list[float]:
        return [theirs / ours for ours, theirs in zip(*self.wall, strict=True)]

    def cpu_ratios(self) -> list[float]:
        return [theirs / ours for ours, theirs in zip(*self.cpu, strict=True)]

    def row(self) -> str:
        ours, theirs = ([1e3 * seconds for seconds in side] for side in self.wall)
        cells = (self.label, *(targets.middle(v) for v in (ours, theirs, self.ratios(), self.cpu_ratios())))
        return f"| {' | '.join(cells)} |"


def compare(label: str, model: str, threads: int, rounds: int) -> Result:
    ensure()
    updates = UPDATES_A_ROUND * (rounds + WARM_UP + 1)
    trl = [str(PYTHON), "benchmarks/trl_update.py", "--model", model, "--updates", str(updates)]
    pair = (
        Contender(
            [sys.executable, "-m", "benchmarks.our_update", f"model.path={model}", f"torch_threads={threads}"], threads
        ),
        Contender([*trl, "--threads", str(threads)], threads),
    )
    for contender in pair:
        contender.ready()
    for _ in range(rounds + WARM_UP):
        for contender in pair:
            contender.round()
    for contender in pair:
        contender.stop()
    ours, theirs = pair
    return Result(
        label,
        (an_update(ours.wall), an_update(theirs.wall)),
        (an_update(ours.cpu), an_update(theirs.cpu)),
        (ours.rewards, theirs.rewards),
    )


def an_update(rounds: list[float]) -> list[float]:
    return [seconds / UPDATES_A_ROUND for seconds in rounds[WARM_UP:]]


def draw(result: Result, folder: Path) -> Path:
    """Both learning curves over each other: the work is the same."""
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for rewards, label, colour in zip(result.rewards, ("LagRange", f"TRL {TRL}"), ("#0072B2", "#D55E00"), strict=True):
        smooth = [statistics.fmean(rewards[max(0, i - 4) : i + 5]) for i in range(len(rewards))]
        x = [UPDATES_A_ROUND * i for i in range(len(rewards))]
        axes.plot(x, rewards, color=colour, alpha=0.25)
        axes.plot(x, smooth, color=colour, label=label)
    axes.set(
        xlabel="updates",
        ylabel="training reward of the rollout batch",
        title="GRPO on policy, same base policy and prompts",
    )
    axes.legend(title="mean of 9 batches; thin: each batch")
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "bench_trl_curves.png"
    figure.savefig(file, dpi=150)
    return file


def same_work(result: Result) -> str:
    """The last third of both curves, in one sentence."""
    ours, theirs = (statistics.fmean(rewards[-max(1, len(rewards) // 3) :]) for rewards in result.rewards)
    return f"Mean reward over the last third of the batches: LagRange {ours:.3f}, TRL {theirs:.3f}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--large-rounds", type=int, default=5)
    parser.add_argument("--curves", type=Path)
    options = parser.parse_args()
    rows, notes = [], []
    print(HEAD)
    for threads in options.threads:
        result = compare(f"default, {threads} thread(s)", "harness/assets/carry", threads, options.rounds)
        print(result.row(), flush=True)
        rows.append(targets.row(f"updates/s against TRL, {result.label}", result.ratios(), "≥ 2", "×"))
        if threads == options.threads[0]:
            notes.append(same_work(result))
            if options.curves is not None:
                notes.append(f"![Both learning curves]({options.curves.name}/{draw(result, options.curves).name})")
    if options.large_rounds:
        with tempfile.TemporaryDirectory() as folder:
            result = compare("10 M parameters, 1 thread", random_model(Path(folder), 512, 3), 1, options.large_rounds)
        print(result.row(), flush=True)
        rows.append(targets.row(f"updates/s against TRL, {result.label}", result.ratios(), "≥ 1.5", "×"))
    print("", *notes, sep="\n\n")
    print(targets.table(rows))


if __name__ == "__main__":
    main()
