"""A rank beside the first: it makes the learner that rank 0 has, and does with it what rank 0 does."""

from __future__ import annotations

import sys

import torch

from harness import build
from harness.config import Config
from harness.errors import first_line
from harness.learner.fidelity import Halves
from harness.learner.state import LearnerState
from harness.models.memory import keep_freed_memory
from harness.ranks import launch
from harness.ranks.group import Group, join
from harness.types import GradedRollouts


def follow() -> int:
    """Obeys rank 0 until the run has ended. Returns the exit code."""
    launch.obey_rank_0()
    place = launch.launched()
    assert place is not None
    try:
        ranks = join(place)
        with ranks.reported():
            order, arguments = ranks.next_order()
            if order == "run":
                (config,) = arguments
                serve(config, ranks)
        return 0
    except Exception as error:  # rank 0 has been told, and says what becomes of the run
        print(f"rank {place.rank}: {first_line(error)}", file=sys.stderr)
        return 1


def serve(config: Config, ranks: Group) -> None:
    """Shares one run's learner."""
    torch.set_num_threads(config.torch_threads)
    keep_freed_memory()
    learner = build.learner(config, build.learner_model(config, ranks), ranks)
    state = LearnerState(learner, ranks)

    def step(graded: GradedRollouts, fresh: Halves | None) -> None:
        for _ in learner.step(graded, fresh):
            pass

    ranks.obey({"step": step, "weights": state.weights, "write": state.write, "read": state.read})
