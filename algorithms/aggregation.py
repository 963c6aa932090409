"""The denominator D: per-token terms to one number, with the counts of the whole mini-batch."""

from difflib import get_close_matches

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
    """What the denominators are made of, [3] int64: counted tokens, sequences that have any, rows.

    counted: [B,T] bool. Integers, so those of micro-batches and ranks add up exactly.
    """
    lengths = counted.sum(dim=1, dtype=torch.int32)
    rows = torch.full((), len(counted), dtype=torch.int64, device=counted.device)
    return torch.stack([lengths.sum(), (lengths > 0).sum(), rows])


def row_scale(counted: Tensor, mode: str, max_length: int | None = None, total: Tensor | None = None) -> Tensor:
    """1/D of each row's tokens, float64, [B,1] or 0-d where it is one for all.

    counted: [B,T] bool, the tokens that count in D.
    mode: one of AGGREGATIONS. The sequence means leave empty rows out.
    max_length: tokens, L_max of Dr. GRPO (arXiv 2503.20783), used by `seq_mean_token_sum_norm` alone, which divides by
    *all* rows; None means the width T of the tensors.
    total: `totals` of the whole mini-batch where `counted` is only a part of it (a micro-batch, a rank).

    Nothing counted: the scale is finite and acts on nothing. Raises ValueError for an unknown mode.
    """
    check_mode(mode)
    tokens, sequences, rows = (totals(counted) if total is None else total).clamp(min=1).double()
    if mode == "token_mean":
        return tokens.reciprocal()
    if mode == "seq_mean_token_sum_norm":
        return (rows * max(1, counted.shape[1] if max_length is None else max_length)).reciprocal()
    if mode == "seq_mean_token_sum":
        return sequences.reciprocal()
    lengths = counted.sum(dim=1, keepdim=True, dtype=torch.int32).clamp(min=1)
    return (sequences * lengths).reciprocal()
