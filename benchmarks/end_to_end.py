"""Updates a second against TRL's GRPOTrainer, round by round in turn, one round a rollout batch (4 updates).

    python -m benchmarks.end_to_end [--rounds 25] [--threads 1 2] [--curves docs/figures]

Median of the rounds, the first two dropped; the ratio is the median of the rounds' ratios. Wall clock, and CPU
time of the process, which a busy neighbour moves less.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import matplotlib

from benchmarks.pace import ROOT, Contender
from benchmarks.peer_env import PYTHON, ensure

UPDATES_A_ROUND = 4
WARM_UP = 2


@dataclass(frozen=True)
class Result:
    """Seconds an update (medians), quartiles of the rounds, and reward of each rollout batch."""

    label: str
    ours: float
    trl: float
    ratio: float
    quartiles: tuple[float, float]
    cpu_ratio: float
    rewards: tuple[list[float], list[float]]

    def row(self) -> str:
        low, high = self.quartiles
        return (
            f"| {self.label} | {1e3 * self.ours:.0f} | {1e3 * self.trl:.0f} | **{self.ratio:.2f}** "
            f"({low:.2f}–{high:.2f}) | {self.cpu_ratio:.2f} |"
        )


HEAD = (
    "| case | LagRange ms/update | TRL ms/update | ratio, wall (quartiles) | ratio, CPU time |\n|---|---|---|---|---|"
)


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
    ours, theirs = ([t / UPDATES_A_ROUND for t in c.wall[WARM_UP:]] for c in pair)
    ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4)
    return Result(
        label,
        statistics.median(ours),
        statistics.median(theirs),
        statistics.median(ratios),
        (low, high),
        statistics.median(b / a for a, b in zip(pair[0].cpu[WARM_UP:], pair[1].cpu[WARM_UP:], strict=True)),
        (pair[0].rewards, pair[1].rewards),
    )


def random_model(folder: Path, width: int, layers: int) -> str:
    """A Qwen3 of another size with the tokenizer of the default, weights from its config."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    base = ROOT / "harness/models/carry"
    config = AutoConfig.from_pretrained(base)
    config.update(
        {
            "hidden_size": width,
            "intermediate_size": 3 * width,
            "num_hidden_layers": layers,
            "num_attention_heads": width // 32,
            "num_key_value_heads": width // 32,
            "layer_types": ["full_attention"] * layers,
        }
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return str(folder)


def draw(result: Result, folder: Path) -> None:
    """Both learning curves over each other: the work is the same."""
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for rewards, label, colour in zip(result.rewards, ("LagRange", "TRL 1.16"), ("#0072B2", "#D55E00"), strict=True):
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
    figure.savefig(folder / "bench_trl_curves.png", dpi=150)


def report(rounds: int, threads: list[int], curves: Path | None, large_rounds: int) -> list[str]:
    lines = [HEAD]
    for count in threads:
        result = compare(f"default, {count} thread(s)", "harness/models/carry", count, rounds)
        lines.append(result.row())
        if curves is not None and count == threads[0]:
            draw(result, curves)
    if large_rounds:
        with tempfile.TemporaryDirectory() as folder:
            model = random_model(Path(folder), 512, 3)
            lines.append(compare("10 M parameters, 1 thread", model, 1, large_rounds).row())
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--large-rounds", type=int, default=3)
    parser.add_argument("--curves", type=Path)
    options = parser.parse_args()
    print("\n".join(report(options.rounds, options.threads, options.curves, options.large_rounds)))


if __name__ == "__main__":
    main()
