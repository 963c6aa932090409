"""Scope made true: a method sees at once all that its rule needs, however the mini-batch is split.

A learner splits the optimizer mini-batch into micro-batches, and data parallelism splits it into ranks.
Weights of token and sequence scope can be found micro-batch by micro-batch; those of batch scope (M2PO, BAPO)
are found once, on all rows of all ranks, and handed back as slices. The denominators are those of the whole
mini-batch for every method. Masks are bit-identical to those of one process with one micro-batch.
"""

from collections.abc import Sequence
from dataclasses import fields

import torch
import torch.distributed as dist
from torch import Tensor

from algorithms import Algorithm, TokenStats, TokenWeights
from algorithms.aggregation import totals

Group = dist.ProcessGroup | None
OPTIONAL = ("logp_proximal", "staleness", "logp_engine")


def weights_in_scope(
    loss: Algorithm,
    micro_stats: Sequence[TokenStats],
    group: Group = None,
    scope: str = "declared",
) -> list[TokenWeights]:
    """Weights of each micro-batch, found in the scope that `loss` declares.

    micro_stats: this rank's share of the mini-batch, at least one (it may have no rows). group: the
    data-parallel process group; None for a single process. Every rank of the group must call it.
    scope: "declared", or "micro_batch", which finds every method's weights in each micro-batch alone, as most
    peers do: other masks, kept for study.
    """
    if loss.scope != "batch" or scope == "micro_batch":
        return [loss.weights(stats) for stats in micro_stats]
    whole, start = gather(trim(join(micro_stats)), group)
    weights = loss.weights(whole)
    parts = []
    for stats in micro_stats:
        rows, width = stats.mask.shape
        parts.append(_fit(weights.rows(start, start + rows), width))
        start += rows
    return parts


def total_in_scope(micro_weights: Sequence[TokenWeights], group: Group = None) -> Tensor:
    """`aggregation.totals` of the whole mini-batch on all ranks, [3] int64: integers, so exact.

    The denominators of `coefficients`; gradients of the ranks are then to be *summed*.
    """
    total = torch.stack([totals(part.counted) for part in micro_weights]).sum(dim=0)
    if group is not None:
        dist.all_reduce(total, group=group)
    return total


def join(micro_stats: Sequence[TokenStats]) -> TokenStats:
    """One TokenStats from several, row after row, padded to the widest; detached. For diagnostics too."""
    if len(micro_stats) == 1:
        return micro_stats[0]
    width = max(stats.mask.shape[1] for stats in micro_stats)
    present = [name for name in OPTIONAL if getattr(micro_stats[0], name) is not None]
    names = ("logp_current", "logp_behaviour", "advantages", "mask", *present)
    return TokenStats(
        **{name: torch.cat([_widen(getattr(stats, name).detach(), width) for stats in micro_stats]) for name in names}
    )


def join_weights(micro_weights: Sequence[TokenWeights]) -> TokenWeights:
    """One TokenWeights from several, as `join` does for statistics; the metrics are those of the first."""
    if len(micro_weights) == 1:
        return micro_weights[0]
    width = max(part.weights.shape[1] for part in micro_weights)
    joined = {
        f.name: torch.cat([_widen(getattr(part, f.name), width) for part in micro_weights])
        for f in fields(TokenWeights)
        if f.name != "metrics"
    }
    return TokenWeights(**joined, metrics=micro_weights[0].metrics)


def gather(stats: TokenStats, group: Group = None) -> tuple[TokenStats, int]:
    """All ranks' rows in rank order, and the number of rows before this rank's. Chunks may be uneven or
    empty.
    """
    if group is None:
        return stats, 0
    device, world = stats.mask.device, dist.get_world_size(group)
    shapes = [torch.zeros(2, dtype=torch.int64, device=device) for _ in range(world)]
    dist.all_gather(shapes, torch.tensor(stats.mask.shape, device=device), group=group)
    rows, widths = zip(*(shape.tolist() for shape in shapes), strict=True)
    height, width = max(rows), max(widths)
    whole = {}
    for name in ("logp_current", "logp_behaviour", "advantages", "mask", *OPTIONAL):
        value = getattr(stats, name)
        if value is not None:
            whole[name] = _gather_rows(value.detach(), height, width, rows, group)
    return TokenStats(**whole), sum(rows[: dist.get_rank(group)])


def trim(stats: TokenStats) -> TokenStats:
    """Cut the columns behind the last valid token (asks the device once).

    A float sum may differ in its last bit with the width of the padding, and no split shall decide that
    width.
    """
    used = stats.mask.any(dim=0).nonzero()
    width = int(used[-1]) + 1 if used.numel() else 0
    if width == stats.mask.shape[1]:
        return stats
    cut = {f.name: getattr(stats, f.name) for f in fields(stats)}
    return TokenStats(
        **{name: value if value is None or value.dim() == 1 else value[:, :width] for name, value in cut.items()}
    )


def _gather_rows(value: Tensor, height: int, width: int, rows: Sequence[int], group: Group) -> Tensor:
    """All ranks' rows of one field, padded for the journey and cut again."""
    mine = _widen(value, width)
    # Bytes in the place of bool, which not every back end carries.
    wire = mine.to(torch.uint8) if mine.dtype == torch.bool else mine
    padded = wire.new_zeros(height, *wire.shape[1:])
    padded[: len(wire)] = wire
    chunks = [torch.empty_like(padded) for _ in rows]
    dist.all_gather(chunks, padded, group=group)
    whole = torch.cat([chunk[:count] for chunk, count in zip(chunks, rows, strict=True)])
    return whole.to(mine.dtype)


def _widen(value: Tensor, width: int) -> Tensor:
    """Pad [B,T] to [B,width] with zeros; [B] stays."""
    if value.dim() == 1 or value.shape[1] == width:
        return value
    return torch.nn.functional.pad(value, (0, width - value.shape[1]))


def _fit(weights: TokenWeights, width: int) -> TokenWeights:
    """Cut the columns that other micro-batches needed, or put trimmed ones back."""
    cut = {f.name: _widen(getattr(weights, f.name)[:, :width], width) for f in fields(weights) if f.name != "metrics"}
    return TokenWeights(**cut, metrics=weights.metrics)
