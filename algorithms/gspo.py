"""GSPO: clip whole sequences by the geometric mean of their token ratios."""

from dataclasses import dataclass

from algorithms.gspo_token import GSPOToken
from algorithms.interface import TokenStats, TokenWeights


@dataclass(frozen=True)
class GSPO(GSPOToken):
    """GSPO-token with one advantage a sequence (arXiv 2507.18071); ValueError if advantages vary within one."""

    def weights(self, stats: TokenStats) -> TokenWeights:
        stats.sequence_advantage("gspo")
        return super().weights(stats)
