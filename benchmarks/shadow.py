"""What asking every shadow method costs: `python -m benchmarks.shadow`.

The same run of the default task twice, without and with `record.shadow=all`; of the second, the seconds that each
asking took, and the share of all update time that they are.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import algorithms
from harness import PROJECT

COMMON = ("algo=grpo", "staleness=64", "updates=200", "eval.every=200", "tracking=none")


def rows(*words: str) -> list[dict[str, float]]:
    """The metrics of one run."""
    with tempfile.TemporaryDirectory(prefix="shadow-") as folder:
        command = [sys.executable, str(PROJECT / "run.py"), *COMMON, *words, f"runs_dir={folder}"]
        subprocess.run(command, check=True, capture_output=True, cwd=folder)
        (metrics,) = Path(folder).glob("*/*/metrics.jsonl")
        return [json.loads(line) for line in metrics.read_text().splitlines()]


def main() -> None:
    plain, shadowed = rows(), rows("record.shadow=all")
    asked = [1e3 * row["time/shadow_s"] for row in shadowed if "time/shadow_s" in row][1:]  # the first one warms up
    update = 1e3 * statistics.median(row["time/update_s"] for row in plain)
    each = statistics.median(asked) / len(algorithms.names())
    print(f"an update without shadows: {update:.2f} ms")
    print(f"asking {len(algorithms.names())} methods: median {statistics.median(asked):.2f} ms, {each:.2f} ms a method")
    print(f"at every 10th update: {100 * statistics.mean(asked) / 10 / update:.1f} % of an update")
    whole = [run[-1]["time/elapsed_s"] for run in (plain, shadowed)]
    print(f"the whole run, proximal log-probs included: {whole[0]:.1f} s → {whole[1]:.1f} s")


if __name__ == "__main__":
    main()
