"""The project's own training loop, records and diagnostics on: the other contender of `benchmarks.end_to_end`.

Arguments are those of run.py. It waits for a line on stdin before each rollout batch.
"""

from __future__ import annotations

import sys
import tempfile

from benchmarks.pace import Pace
from harness.command.compose import set_project_root
from harness.command.plan import plan
from harness.progress import Progress
from harness.records.folder import RunFolder
from harness.training import Training

OPTIONS = ["tracking=none", "eval.every=100000", "checkpoint_every=100000", "updates=4000", "algo=grpo"]


class Paced(Training):
    """Evaluation and checkpoints are left out, as they are on the other side."""

    pace: Pace

    def evaluate(self) -> None:
        pass

    def stop_if_asked(self) -> None:
        rewards = getattr(self, "rewards", [])
        self.pace.wait(rewards)

    def record(self, update, more):
        if update.metrics["version"] % self.config.updates_per_step == 0:
            self.rewards = [*getattr(self, "rewards", []), 0.0]
        self.rewards[-1] += update.metrics["reward"] / self.config.updates_per_step
        super().record(update, more)


def main() -> None:
    set_project_root()
    with tempfile.TemporaryDirectory() as folder, Pace() as pace:
        (config,) = plan([*OPTIONS, f"runs_dir={folder}", *sys.argv[1:]]).cells
        Paced.pace = pace
        config.folder.mkdir(parents=True)
        training = Paced(config, RunFolder(config.folder, config), Progress("bench", config.updates))
        training.run()


if __name__ == "__main__":
    main()
