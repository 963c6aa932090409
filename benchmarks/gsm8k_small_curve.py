"""The curve in docs/tasks.md: `python benchmarks/gsm8k_small_curve.py RUNS --out docs/figures`.

RUNS is the runs_dir of `python run.py experiment=gsm8k_small tracking=none`. Writes gsm8k_small.csv (a row an
evaluation, seed and engine) and gsm8k_small.png (held-out sampled and greedy accuracy).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib as mpl
import pandas as pd
import yaml

mpl.use("Agg")
import matplotlib.pyplot as plt

COLUMNS = ["engine", "seed", "update", "split", "n", "k", "sampled_accuracy", "greedy_accuracy"]


def read(runs: Path) -> pd.DataFrame:
    rows = []
    for file in sorted(runs.glob("**/eval.jsonl")):
        config = yaml.safe_load((file.parent / "config.yaml").read_text())
        identity = {"engine": config["choices"]["rollout"], "seed": config["seed"]}
        rows += [identity | json.loads(line) for line in file.read_text().splitlines()]
    return pd.DataFrame(rows)[COLUMNS].sort_values(["engine", "seed", "split", "update"])


def draw(table: pd.DataFrame, file: Path) -> None:
    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    test = table[table["split"] == "test"]
    for column, colour, label in (
        ("sampled_accuracy", "#0072B2", "sampled, mean of 4"),
        ("greedy_accuracy", "#D55E00", "greedy"),
    ):
        for (engine, _), run in test.groupby(["engine", "seed"]):
            dash = {"torch": "-", "vllm": "--"}[str(engine)]
            axes.plot(
                run["update"], run[column], color=colour, linestyle=dash, marker="o", ms=3, label=f"{label}, {engine}"
            )
    axes.set(xlabel="updates", ylabel="accuracy, 200 held-out problems", ylim=(0, 1), title="gsm8k_small: a toy")
    axes.legend(title=f"{test['seed'].nunique()} seed(s), a line each", loc="lower right", ncols=2, fontsize=8)
    figure.savefig(file, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/figures"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    table = read(options.runs)
    table.to_csv(options.out / "gsm8k_small.csv", index=False)
    draw(table, options.out / "gsm8k_small.png")


if __name__ == "__main__":
    main()
