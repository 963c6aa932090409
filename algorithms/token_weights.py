"""TokenWeights: a method's answer for each token, and the one place where it is cut and joined."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

import torch
from torch import Tensor

from algorithms.token_stats import TokenStats


@dataclass(frozen=True, eq=False)
class TokenWeights:
    """What a method says about every token, detached. Made by `weigh`.

    weights: [B,T] in the dtype of logp_current, w; 0 where masked and outside the mask.
    offsets: [B,T] in the same dtype, c; 0 outside the mask.
    kept: [B,T] bool, valid and not zeroed by the rule.
    counted: [B,T] bool, the tokens that count in D: the mask of TokenStats, save for M2PO's `areal`.
    changed: [B,T] bool, valid and with a weight that the rule set, zeroed ones included.
    metrics: {name: 0-d}, peculiar to the method.
    """

    weights: Tensor
    offsets: Tensor
    kept: Tensor
    counted: Tensor
    changed: Tensor
    metrics: Mapping[str, Tensor] = field(default_factory=dict)

    def select(self, rows: Tensor | slice, width: int | None = None) -> "TokenWeights":
        """The weights of some rows, for a learner that splits the mini-batch; the metrics stay those of the whole.

        rows: indices or a slice of them. width: columns to cut or pad to, None as many as there are.
        """
        width = self.weights.shape[1] if width is None else width
        cut = {name: widen(getattr(self, name)[rows], width) for name in PER_TOKEN}
        return TokenWeights(**cut, metrics=self.metrics)


PER_TOKEN = tuple(f.name for f in fields(TokenWeights) if f.name != "metrics")


def join_weights(parts: Sequence[TokenWeights]) -> TokenWeights:
    """One TokenWeights from several, row after row, padded to the widest; the metrics are those of the first."""
    width = max(part.weights.shape[1] for part in parts)
    joined = {name: torch.cat([widen(getattr(part, name), width) for part in parts]) for name in PER_TOKEN}
    return TokenWeights(**joined, metrics=parts[0].metrics)


def widen(values: Tensor, width: int) -> Tensor:
    """[B,T] cut or padded with zeros to [B,width]; [B] stays as it is."""
    if values.dim() == 1 or values.shape[1] == width:
        return values
    return torch.nn.functional.pad(values, (0, width - values.shape[1]))


def weigh(
    stats: TokenStats,
    weights: Tensor,
    *,
    kept: Tensor | None = None,
    changed: Tensor | None = None,
    offsets: Tensor | None = None,
    metrics: Mapping[str, Tensor] | None = None,
) -> TokenWeights:
    """TokenWeights from what a rule found; whatever stands outside the mask does not matter.

    weights: [B,T] or [B,1] in the dtype of logp_current, w; any value where `kept` is False.
    kept: [B,T] or [B,1] bool, where the rule does not zero; None means everywhere.
    changed: [B,T] or [B,1] bool, where the rule sets the weight to something else; None means nowhere else.
    offsets: [B,T], c; None means 0.
    metrics: {name: 0-d}, peculiar to the method.
    """
    kept = stats.mask if kept is None else stats.mask & kept
    masked = stats.mask & ~kept
    return TokenWeights(
        weights=torch.where(kept, weights.detach(), 0.0),
        offsets=torch.zeros_like(stats.logp) if offsets is None else stats.masked(offsets),
        kept=kept,
        counted=stats.mask,
        changed=masked if changed is None else masked | (stats.mask & changed),
        metrics=metrics or {},
    )
