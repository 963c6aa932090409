"""SAPO: a soft gate on the ratio in place of the clip."""

from dataclasses import dataclass

import torch
from torch import Tensor

from algorithms.interface import Algorithm, TokenStats, TokenWeights, number, weigh


@dataclass(frozen=True)
class SAPO(Algorithm):
    """w = 4·σ(x)(1 − σ(x))·r with x = τ(r − 1) (Soft Adaptive Policy Optimization, arXiv 2511.20347).

    Differs from GRPO in that a token fades smoothly on both sides of r = 1 and is never masked.
    tau_positive: τ where A>0.
    tau_negative: τ elsewhere, larger in the paper, since tokens with A<0 destabilise more.
    """

    tau_positive: float = number(1.0, low=0.0)
    tau_negative: float = number(1.05, low=0.0)

    published_aggregation = "seq_mean_token_mean"

    def temperature(self, stats: TokenStats) -> Tensor:
        """τ of each token, [B,1] or [B,T] as the advantages are."""
        positive, negative = stats.advantage.new_tensor([self.tau_positive, self.tau_negative])
        return torch.where(stats.advantage > 0, positive, negative)

    def weights(self, stats: TokenStats) -> TokenWeights:
        gate = torch.sigmoid(self.temperature(stats) * (stats.ratio - 1))
        return weigh(stats, 4 * gate * (1 - gate) * stats.ratio)

    def objective(self, stats: TokenStats, weights: TokenWeights) -> Tensor:
        temperature = self.temperature(stats)
        gate = torch.sigmoid(temperature * (stats.ratio - 1))
        return 4 / temperature * gate * stats.token_advantages
