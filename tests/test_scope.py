"""Batch-scope weights are bit for bit those of one process and one micro-batch, under any split."""

import os
from itertools import pairwise

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import algorithms
from algorithms import TokenStats, coefficients, weighted_nll
from algorithms.aggregation import AGGREGATIONS
from harness.learner.scope import (
    gather,
    join,
    join_weights,
    total_in_scope,
    trim,
    weights_in_scope,
)

ROWS, WIDTH = 13, 9
BATCH_METHODS = [
    ("m2po", {"m2_threshold": 0.02}),
    ("m2po", {"m2_threshold": 0.02, "variant": "released"}),
    ("m2po", {"m2_threshold": 0.02, "variant": "all_tokens_mean"}),
    ("m2po", {"m2_threshold": 0.02, "variant": "areal"}),
    ("bapo", {"positive_share": 0.6}),
    ("opsm", {"delta": 0.05, "base": "m2po"}),
]


def mini_batch(dtype=torch.float32) -> TokenStats:
    """Uneven lengths, one empty row, and values in steps of 1/16, so that ties cross every border."""
    torch.manual_seed(5)
    gap = (torch.randn(ROWS, WIDTH) * 4).round() / 16
    lengths = torch.arange(ROWS) % WIDTH
    behaviour = torch.randn(ROWS, WIDTH)
    return TokenStats(
        logp_current=(behaviour.double() + gap).to(dtype),
        logp_behaviour=behaviour,
        advantages=torch.randn(ROWS).sign() * (1 + torch.arange(ROWS) % 2),
        mask=torch.arange(WIDTH) < lengths[:, None],
        logp_proximal=(behaviour.double() + gap / 2).to(dtype),
    )


def rows(stats: TokenStats, start: int, stop: int) -> TokenStats:
    """Rows start … stop − 1, padded to no more than they need."""
    part = {
        name: None if value is None else value[start:stop]
        for name, value in ((n, getattr(stats, n)) for n in TokenStats.__dataclass_fields__)
    }
    return trim(TokenStats(**part))


def split(stats: TokenStats, borders: list[int]) -> list[TokenStats]:
    return [rows(stats, start, stop) for start, stop in pairwise(borders)]


def same(parts, whole) -> None:
    """Bit-equal masks and weights, up to the width of the padding."""
    joined = join_weights(parts)
    for name in ("weights", "kept", "counted", "changed"):
        mine, wanted = getattr(joined, name), getattr(whole, name)
        width = min(mine.shape[1], wanted.shape[1])
        assert torch.equal(mine[:, :width], wanted[:, :width]), name
        assert not mine[:, width:].any() and not wanted[:, width:].any()


@pytest.mark.parametrize(("name", "params"), BATCH_METHODS)
@pytest.mark.parametrize("borders", [[0, ROWS], [0, 1, 2, ROWS], [0, 5, 5, ROWS], list(range(ROWS + 1))])
def test_micro_batches_do_not_matter(name, params, borders):
    stats, loss = mini_batch(), algorithms.make(name, **params)
    whole = loss.weights(stats)
    assert 0 < whole.kept.sum() < stats.mask.sum(), "the case must mask something, or it proves nothing"
    same(weights_in_scope(loss, split(stats, borders)), whole)


def test_micro_batch_scope_is_another_mask():
    stats, loss = mini_batch(), algorithms.make("m2po", m2_threshold=0.02)
    parts = split(stats, [0, 4, 8, ROWS])
    peers = join_weights(weights_in_scope(loss, parts, scope="micro_batch"))
    ours = join_weights(weights_in_scope(loss, parts))
    assert not torch.equal(peers.kept, ours.kept)


@pytest.mark.parametrize("mode", AGGREGATIONS)
@pytest.mark.parametrize("name", ["grpo", "gspo", "m2po"])
def test_gradient_does_not_depend_on_the_split(name, mode):
    stats, loss = mini_batch(torch.float64), algorithms.make(name, aggregation=mode)
    logp = stats.logp_current.clone().requires_grad_()
    whole = loss(
        TokenStats(logp, *[getattr(stats, f) for f in ("logp_behaviour", "advantages", "mask")]),
        max_length=WIDTH,
    )
    (expected,) = torch.autograd.grad(whole.loss, logp)

    found, total = torch.zeros_like(expected), 0.0
    borders = [0, 3, 4, 9, ROWS]
    parts = split(stats, borders)
    weights = weights_in_scope(loss, parts)
    count = total_in_scope(weights)
    for part, part_weights, start in zip(parts, weights, borders, strict=False):
        micro = part.logp_current.clone().requires_grad_()
        loss_part = weighted_nll(micro, coefficients(part_weights, part, loss.aggregation, WIDTH, count))
        loss_part.backward()
        found[start : start + len(micro), : micro.shape[1]] = micro.grad
        total += float(loss_part.detach())
    assert torch.allclose(found, expected, rtol=1e-12, atol=1e-15)
    assert total == pytest.approx(float(whole.loss.detach()), rel=1e-12)


def test_coefficients_carry_the_global_count():
    stats, loss = mini_batch(torch.float64), algorithms.make("grpo")
    parts = split(stats, [0, 6, ROWS])
    weights = weights_in_scope(loss, parts)
    total = total_in_scope(weights)
    pieces = [coefficients(w, s, loss.aggregation, total=total) for w, s in zip(weights, parts, strict=True)]
    whole = coefficients(loss.weights(stats), stats, loss.aggregation)
    for piece, start in zip(pieces, (0, 6), strict=True):
        assert torch.equal(piece, whole[start : start + len(piece), : piece.shape[1]])


def test_join_keeps_every_field():
    stats = mini_batch()
    joined = join(split(stats, [0, 2, 7, ROWS]))
    assert torch.equal(joined.mask, trim(stats).mask)
    assert torch.equal(joined.log_ratio, trim(stats).log_ratio)
    assert torch.equal(joined.advantages, stats.advantages)
    assert joined.logp_proximal is not None and joined.staleness is None


def worker(rank: int, world: int, store: str, threads: int) -> None:
    """One rank: its uneven chunk, in uneven micro-batches, against the whole batch found alone."""
    torch.set_num_threads(threads)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    try:
        # Chunks of 13 rows: (13), (5, 8), (5, 0, 1, 7). Rank 1 of 4 has nothing.
        borders = {1: [0, 13], 2: [0, 5, 13], 4: [0, 5, 5, 6, 13]}[world]
        start, stop = borders[rank], borders[rank + 1]
        middle = (start + stop) // 2
        stats = mini_batch()
        parts = split(stats, [start, middle, stop])
        for name, params in BATCH_METHODS:
            loss = algorithms.make(name, **params)
            whole = loss.weights(stats)
            weights = weights_in_scope(loss, parts, dist.group.WORLD)
            same(weights, whole.rows(start, stop))
            total = total_in_scope(weights, dist.group.WORLD)
            expected = coefficients(whole, stats, loss.aggregation, WIDTH)[start:stop]
            for part, stats_part, wanted in zip(
                weights, parts, (expected[: middle - start], expected[middle - start :]), strict=True
            ):
                scale = coefficients(part, stats_part, loss.aggregation, WIDTH, total)
                assert torch.equal(scale, wanted[:, : scale.shape[1]])
        everything, before = gather(join(parts), dist.group.WORLD)
        assert before == start
        assert torch.equal(everything.log_ratio, trim(stats).log_ratio)
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_do_not_matter(world, tmp_path):
    store = os.fspath(tmp_path / "store")
    if world == 1:
        worker(0, 1, store, torch.get_num_threads())
    else:
        mp.spawn(worker, args=(world, store, 1), nprocs=world)
