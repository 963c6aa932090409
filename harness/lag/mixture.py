"""lag=exact with a distribution for staleness: every prompt of a batch has an age of its own, and keeps it exactly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.lag.ages import Ages
from harness.lag.policy import Order, StalenessPolicy


@dataclass(frozen=True, kw_only=True)
class MixedLag(StalenessPolicy):
    """A prompt of batch i whose age is a was sampled by version max(0, U·i − a).

    So version U·j samples those prompts of batches j, j + 1 … whose age is 0, U …: as many as one batch has, and never
    from weights that are gone. The rollout queue waits for the oldest age, like that of a constant lag.

    staleness: the largest age, updates.
    ages: the distribution.
    prompts: P, of a batch.
    seed: of the run, for which prompt gets which age.
    """

    ages: Ages
    prompts: int
    seed: int

    def version_for(self, batch: int) -> None:
        """Each prompt of the batch has its own (`versions`)."""
        return None

    def accept(self, batch: int, version: int) -> bool:
        newest = self.updates_per_step * batch
        return version % self.updates_per_step == 0 and max(0, newest - self.staleness) <= version <= newest

    def is_reached(self, batches: int) -> bool:
        return self.updates_per_step * (batches - 1) >= self.staleness

    @property
    def order(self) -> Order:
        return Order.MIXED

    def versions(self, batch: int, lengths: Sequence[float] | None) -> np.ndarray:
        """The version that samples each prompt of a batch, int [P].

        lengths: [P], expected of each prompt's responses, in any unit; read where `ages.by_length`.
        """
        unit = self.updates_per_step
        return np.maximum(0, unit * batch - self.ages.dealt(self.seed, batch, self.prompts, unit, lengths))

    @property
    def facts(self) -> dict[str, Any]:
        return {"age": self.mean}

    @property
    def mean(self) -> float:
        """Mean of a batch's ages, updates."""
        return float(self.ages.ascending(self.prompts, self.updates_per_step).mean())

    @property
    def histogram(self) -> dict[int, int]:
        """Age in updates → prompts of every batch, from the batch on that is as old as the largest."""
        return dict(Counter(self.ages.ascending(self.prompts, self.updates_per_step).tolist()))
