"""The denominator D: per-token terms to one number, with the counts of the whole mini-batch."""

from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor

AGGREGATIONS = ("token_mean", "seq_mean_token_mean", "seq_mean_token_sum", "seq_mean_token_sum_norm")


def check_mode(mode: str) -> str:
    """Return `mode`, or raise a ValueError that lists the valid ones."""
    if mode not in AGGREGATIONS:
        near = get_close_matches(str(mode), AGGREGATIONS, 1, 0.0)[0]
        raise ValueError(f"unknown aggregation {mode!r}; nearest: {near}; valid: {', '.join(AGGREGATIONS)}")
    return mode


def totals(counted: Tensor) -> Tensor:
    """[B,T] bool → [3] int64: counted tokens, sequences that have any, rows. Integers.

    So shards may be summed.
    """
    lengths = counted.sum(dim=1)
    rows = torch.full((), counted.shape[0], dtype=torch.int64, device=counted.device)
    return torch.stack([lengths.sum(), (lengths > 0).sum(), rows])


class Counts:
    """How many of a [B,T] bool count: of each row, `lengths` [B], and as `divisors` [B,1] at least 1; in all, 0-d.

    Counted when asked for.
    """

    def __init__(self, counted: Tensor) -> None:
        self._counted = counted

    @property
    def lengths(self) -> Tensor:
        return self._counted.sum(dim=1)

    @property
    def divisors(self) -> Tensor:
        return self.lengths.clamp(min=1)[:, None]

    @property
    def count(self) -> Tensor:
        return torch.count_nonzero(self._counted).double()


def row_scale(
    counted: Tensor,
    mode: str,
    max_length: int | None = None,
    total: Tensor | None = None,
    known: Any = None,
) -> Tensor:
    """1/D of each row's tokens, float64, [B,1] or 0-d where it is one for all.

    counted: [B,T] bool, the tokens that count in D. total: `totals` of the whole mini-batch where `counted`
    is only a part of it (a micro-batch, a shard). known: what has the `Counts` of `counted` at hand.
    max_length: L_max of Dr. GRPO (arXiv 2503.20783) in tokens, used by `seq_mean_token_sum_norm` alone; None
    means the width T of the tensors. That constant divides by *all* rows, empty ones too; the sequence means
    leave empty rows out. Nothing counted: the scale is finite and acts on nothing. Raises ValueError for an
    unknown mode.
    """
    check_mode(mode)
    known = Counts(counted) if known is None else known
    if mode == "token_mean":
        tokens = known.count if total is None else total[0].double()
        return tokens.clamp(min=1).reciprocal()
    if mode == "seq_mean_token_sum_norm":
        rows = torch.full((), len(counted), device=counted.device) if total is None else total[2]
        width = max(1, counted.shape[1] if max_length is None else max_length)
        return (rows.clamp(min=1) * width).double().reciprocal()
    sequences = (torch.count_nonzero(known.lengths) if total is None else total[1]).clamp(min=1).double()
    if mode == "seq_mean_token_sum":
        return sequences.reciprocal()
    return (sequences * known.divisors).reciprocal()


def token_scale(
    mask: Tensor,
    mode: str,
    max_length: int | None = None,
    total: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """The same per token, [B,T] in `dtype`: 1/D where `mask`, 0 elsewhere."""
    return mask * row_scale(mask, mode, max_length, total).to(dtype)
