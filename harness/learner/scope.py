"""Scope made true: a method sees at once all that its rule needs, however the mini-batch is split.

A learner splits the optimizer mini-batch into micro-batches, and data parallelism splits it into ranks.
Weights of token and sequence scope can be found micro-batch by micro-batch; those of batch scope (M2PO, BAPO)
are found once, on all rows of all ranks, and handed back as slices. The denominators are those of the whole
mini-batch for every method. Masks are bit-identical to those of one process with one micro-batch.
"""

from collections.abc import Sequence
from dataclasses import fields
from itertools import accumulate

import torch
import torch.distributed as dist
from torch import Tensor

from algorithms import Algorithm, TokenStats, TokenWeights
from algorithms.aggregation import totals
from algorithms.token_weights import widen

Group = dist.ProcessGroup | None


def weights_in_scope(
    loss: Algorithm,
    micro_stats: Sequence[TokenStats],
    group: Group = None,
    scope: str = "declared",
) -> list[TokenWeights]:
    """Weights of each micro-batch, found in the scope that `loss` declares.

    loss: the method.
    micro_stats: this rank's share of the mini-batch, at least one (it may have no rows).
    group: the data-parallel process group, every rank of which must call this; None for a single process.
    scope: "declared", or "micro_batch", which finds every method's weights in each micro-batch alone, as most
    peers do: other masks, kept for study.
    """
    if loss.scope != "batch" or scope == "micro_batch":
        return [loss.weights(stats) for stats in micro_stats]
    whole, start = gather(trim(join(micro_stats)), group)
    weights = loss.weights(whole)
    ends = list(accumulate((len(stats.mask) for stats in micro_stats), initial=start))
    return [
        weights.select(slice(first, last), stats.mask.shape[1])
        for first, last, stats in zip(ends, ends[1:], micro_stats, strict=False)
    ]


def total_in_scope(micro_weights: Sequence[TokenWeights], group: Group = None) -> Tensor:
    """`aggregation.totals` of the whole mini-batch on all ranks, [3] int64: integers, so exact.

    micro_weights: this rank's. group: as in `weights_in_scope`. With these denominators the gradients of the ranks are
    to be *summed*.
    """
    total = torch.stack([totals(part.counted) for part in micro_weights]).sum(dim=0)
    if group is not None:
        dist.all_reduce(total, group=group)
    return total


def join(micro_stats: Sequence[TokenStats]) -> TokenStats:
    """One TokenStats from several, row after row, padded to the widest; detached."""
    if len(micro_stats) == 1:
        return micro_stats[0]
    width = max(stats.mask.shape[1] for stats in micro_stats)
    names = _given(micro_stats[0])
    return TokenStats(
        **{name: torch.cat([widen(getattr(stats, name).detach(), width) for stats in micro_stats]) for name in names}
    )


def gather(stats: TokenStats, group: Group = None) -> tuple[TokenStats, int]:
    """All ranks' rows in rank order, detached, and the number of rows before this rank's.

    stats: this rank's rows, as many as it has or none; `stats.group` with ids that no other rank uses.
    group: as in `weights_in_scope`.
    """
    if group is None:
        return stats, 0
    device, world = stats.mask.device, dist.get_world_size(group)
    shapes = [torch.zeros(2, dtype=torch.int64, device=device) for _ in range(world)]
    dist.all_gather(shapes, torch.tensor(stats.mask.shape, device=device), group=group)
    rows, widths = zip(*(shape.tolist() for shape in shapes), strict=True)
    height, width = max(rows), max(widths)
    whole = {name: _gather_rows(getattr(stats, name).detach(), height, width, rows, group) for name in _given(stats)}
    return TokenStats(**whole), sum(rows[: dist.get_rank(group)])


def trim(stats: TokenStats) -> TokenStats:
    """The statistics without the columns behind the last valid token (asks the device once).

    A float sum may differ in its last bit with the width of the padding, and no split shall decide that width.
    """
    valid = stats.mask.any(dim=0).nonzero()
    width = int(valid[-1]) + 1 if valid.numel() else 0
    if width == stats.mask.shape[1]:
        return stats
    return TokenStats(**{name: widen(getattr(stats, name), width) for name in _given(stats)})


def _given(stats: TokenStats) -> list[str]:
    """The fields that are there."""
    return [f.name for f in fields(stats) if getattr(stats, f.name) is not None]


def _gather_rows(value: Tensor, height: int, width: int, rows: Sequence[int], group: Group) -> Tensor:
    """All ranks' rows of one field, padded for the journey and cut again."""
    mine = widen(value, width)
    # Bytes in the place of bool, which not every back end carries.
    wire = mine.to(torch.uint8) if mine.dtype == torch.bool else mine
    padded = wire.new_zeros(height, *wire.shape[1:])
    padded[: len(wire)] = wire
    chunks = [torch.empty_like(padded) for _ in rows]
    dist.all_gather(chunks, padded, group=group)
    whole = torch.cat([chunk[:count] for chunk, count in zip(chunks, rows, strict=True)])
    return whole.to(mine.dtype)
