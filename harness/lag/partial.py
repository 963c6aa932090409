"""lag=exact with staleness=partial:k: partial rollouts, begun by one version and carried on by a later one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from harness import randomness
from harness.lag.ages import Partial
from harness.lag.policy import Order, StalenessPolicy
from harness.types import Request


@dataclass(frozen=True, kw_only=True)
class PartialLag(StalenessPolicy):
    """A response of batch i is begun by version max(0, U·i − k) and, after a cut, carried on by version U·i.

    Where the cut lies does not depend on the tokens: at a place of its own for each response, drawn evenly from 0 to
    the longest response, or at one share of the longest. A response that had ended by then stays as it was.

    staleness: k, updates.
    spelt: what `staleness` spells.
    seed: of the run, for the cuts.
    """

    spelt: Partial
    seed: int

    def version_for(self, batch: int) -> int:
        """The version that begins the batch."""
        return max(0, self.updates_per_step * batch - self.staleness)

    def accept(self, batch: int, version: int) -> bool:
        return version in (self.version_for(batch), self.updates_per_step * batch)

    @property
    def order(self) -> Order:
        return Order.CONTINUED

    @property
    def facts(self) -> dict[str, Any]:
        return {"age": self.staleness}

    def cuts(self, request: Request) -> np.ndarray:
        """How many tokens of each response are sampled before the cut, at most: int64 [prompts, samples]."""
        longest = request.max_new_tokens
        if self.spelt.share is not None:
            return np.full(request.keys.shape, round(self.spelt.share * longest))
        keys = randomness.keys(self.seed, "cut", request.keys.view(np.int64))
        return randomness.integers(keys, 0, longest + 1, 1)[..., 0]
