"""The project's own training loop, records and diagnostics on: the other contender of `benchmarks.end_to_end`.

Arguments are those of run.py. It waits for a line on stdin before each rollout batch.
"""

from __future__ import annotations

import sys
import tempfile
from typing import Any

from benchmarks.turns import Pace
from harness.command.compose import set_project_root
from harness.command.plan import plan
from harness.progress import Progress
from harness.records.folder import RunFolder
from harness.training import Training
from harness.types import Batch, GradedRollouts

OPTIONS = ["tracking=none", "eval.every=100000", "checkpoint_every=100000", "updates=4000", "algo=grpo"]


class Paced(Training):
    """Evaluation and checkpoints are left out, as they are on the other side."""

    pace: Pace

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.rewards: list[float] = []

    def evaluate(self) -> None:
        pass

    def stop_if_asked(self) -> None:
        self.pace.wait(self.rewards)

    def grade(self, batch: Batch) -> tuple[GradedRollouts, dict[str, float]]:
        graded, metrics = super().grade(batch)
        self.rewards.append(graded.rewards.mean().item())
        return graded, metrics


def main() -> None:
    set_project_root()
    with tempfile.TemporaryDirectory() as folder, Pace() as pace:
        (config,) = plan([*OPTIONS, f"runs_dir={folder}", *sys.argv[1:]]).cells
        Paced.pace = pace
        config.folder.mkdir(parents=True)
        training = Paced(config, RunFolder(config.folder, config), Progress("bench"))
        training.run()


if __name__ == "__main__":
    main()
