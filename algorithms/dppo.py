"""DPPO: a trust region in probability instead of in ratio."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from algorithms.interface import Algorithm, TokenStats, TokenWeights, number, weigh
from algorithms.token_stats import LARGE

DELTA = {"tv": 0.2, "kl": 0.05}
"""δ where none is given: prime-rl's (the authors' example has 0.15), and SkyRL's."""


@dataclass(frozen=True)
class DPPO(Algorithm):
    """w = r, but 0 where π_θ(a) has moved past δ from π_behav(a) in its advantage's direction (arXiv 2602.04879).

    Differs from GRPO in the yardstick: a rare token may multiply its probability and stay, a common one may not move
    far.
    divergence: "tv" measures the move by π_θ(a) − π_behav(a), "kl" by the KL divergence of "this token or another"
    (eq. 14), from the behaviour policy's to the current.
    delta_low, delta_high: δ where A ≤ 0 (moves down) and where A > 0 (moves up): probabilities, or nats for kl; None
    means `DELTA`.
    symmetric: whether moves past δ either way are masked whatever the sign of A (prime-rl's `ipo`, δ 0.1).
    """

    divergence: Literal["tv", "kl"] = "tv"
    delta_low: float | None = number(None, low=0.0)
    delta_high: float | None = number(None, low=0.0)
    symmetric: bool = False

    def moved(self, stats: TokenStats) -> Tensor:
        """How far π_θ(a) is from π_behav(a), [B,T], positive where it rose."""
        if self.divergence == "tv":
            return stats.logp.exp() - stats.behaviour.exp()
        p, q = stats.logp.double().exp(), stats.behaviour.double().exp()
        # A log-prob may round to a little above 0: the others then have probability 0, not less.
        rest_p, rest_q = (1 - p).clamp(min=0), (1 - q).clamp(min=0)
        others = rest_q * ((rest_q + 1e-8) / (rest_p + 1e-8)).log()
        kl = others - q * stats.log_ratio64.clamp(-LARGE, LARGE)
        return torch.where(p > q, kl, -kl)

    def weights(self, stats: TokenStats) -> TokenWeights:
        moved, delta = self.moved(stats), DELTA[self.divergence]
        rose = moved > (delta if self.delta_high is None else self.delta_high)
        fell = moved < -(delta if self.delta_low is None else self.delta_low)
        outside = rose | fell if self.symmetric else torch.where(stats.advantage > 0, rose, fell)
        return weigh(stats, stats.ratio, kept=~outside)
