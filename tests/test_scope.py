"""Batch-scope weights are bit for bit those of one process and one micro-batch, under any split."""

import os
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import algorithms
from algorithms import TokenStats, TokenWeights, compose
from algorithms.aggregation import AGGREGATIONS
from algorithms.token_weights import join_weights
from harness.learner.scope import gather, join, total_in_scope, trim, weights_in_scope

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
    given = {name: getattr(stats, name) for name in TokenStats.__dataclass_fields__}
    return trim(TokenStats(**{name: None if value is None else value[start:stop] for name, value in given.items()}))


def split(stats: TokenStats, borders: list[int]) -> list[TokenStats]:
    return [rows(stats, start, stop) for start, stop in pairwise(borders)]


def same(parts, whole) -> None:
    """Bit-equal masks and weights, up to the width of the padding."""
    joined = join_weights(parts)
    for name in ("weights", "kept", "counted", "changed"):
        mine, target = getattr(joined, name), getattr(whole, name)
        width = min(mine.shape[1], target.shape[1])
        assert torch.equal(mine[:, :width], target[:, :width]), name
        assert not mine[:, width:].any() and not target[:, width:].any()


def gradient(loss: algorithms.Algorithm, stats: TokenStats, weights: TokenWeights, total: torch.Tensor | None = None):
    """Gradient of the loss in the log-probs of one part, [b,t], and its value."""
    logp = stats.logp_current.clone().requires_grad_()
    out = compose(loss, replace(stats, logp_current=logp), weights=weights, max_length=WIDTH, total=total)
    out.loss.backward()
    return logp.grad, float(out.loss.detach())


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
    expected, whole = gradient(loss, stats, loss.weights(stats))

    grads, value = torch.zeros_like(expected), 0.0
    borders = [0, 3, 4, 9, ROWS]
    parts = split(stats, borders)
    weights = weights_in_scope(loss, parts)
    total = total_in_scope(weights)
    for part, part_weights, start in zip(parts, weights, borders, strict=False):
        grad, loss_part = gradient(loss, part, part_weights, total)
        grads[start : start + len(grad), : grad.shape[1]] = grad
        value += loss_part
    assert torch.allclose(grads, expected, rtol=1e-12, atol=1e-15)
    assert value == pytest.approx(whole, rel=1e-12)


def test_the_denominator_is_that_of_the_whole_to_the_last_bit():
    stats, loss = mini_batch(torch.float64), algorithms.make("grpo")
    parts = split(stats, [0, 6, ROWS])
    weights = weights_in_scope(loss, parts)
    total = total_in_scope(weights)
    whole, _ = gradient(loss, stats, loss.weights(stats))
    for part, part_weights, start in zip(parts, weights, (0, 6), strict=True):
        grad, _ = gradient(loss, part, part_weights, total)
        assert torch.equal(grad, whole[start : start + len(grad), : grad.shape[1]])


def test_join_keeps_every_field():
    optional = {name: torch.rand(ROWS, WIDTH) for name in ("logp_proximal", "logp_engine", "entropy")}
    stats = replace(mini_batch(), **optional, staleness=torch.arange(ROWS), group=torch.arange(ROWS) // 4)
    joined, expected = join(split(stats, [0, 2, 7, ROWS])), trim(stats)
    for name in TokenStats.__dataclass_fields__:
        mine, target = getattr(joined, name), getattr(expected, name)
        valid = expected.mask if target.dim() == 2 else torch.ones(ROWS, dtype=torch.bool)
        assert mine.dtype == target.dtype and torch.equal(mine[valid], target[valid]), name
    assert join(split(mini_batch(), [0, 2, ROWS])).staleness is None


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
            same(weights, whole.select(slice(start, stop)))
            total = total_in_scope(weights, dist.group.WORLD)
            expected, _ = gradient(loss, stats, whole)
            for part_weights, part, first in zip(weights, parts, (start, middle), strict=True):
                grad, _ = gradient(loss, part, part_weights, total)
                assert torch.equal(grad, expected[first : first + len(grad), : grad.shape[1]])
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
