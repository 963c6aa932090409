"""What the staleness of a free-running run really was, and what it cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise

from harness.types import Batch, GradedRollouts


def losses(batch: Batch, graded: GradedRollouts, dropped: Sequence[GradedRollouts]) -> dict[str, float]:
    """Samples that the bound kept from being trained on: how many, how long (tokens) and how good on average.

    batch: as it left the queue.
    graded: its chunks as one, in their order; the masked ones among them count.
    dropped: its dropped chunks. Long responses are the late ones, so what is lost is not a fair sample.
    """
    edges = pairwise(accumulate((chunk.rollouts.n_prompts for chunk in batch.chunks), initial=0))
    masked = [graded.prompts(*edge) for chunk, edge in zip(batch.chunks, edges, strict=True) if not chunk.trained]
    excess = [*dropped, *masked]
    lengths = [length for part in excess for length in part.rollouts.response_lengths.tolist()]
    rewards = [reward for part in excess for reward in part.rewards.tolist()]
    return {
        "dropped_samples": float(len(lengths)),
        "dropped_length": _mean(lengths),
        "dropped_reward": _mean(rewards),
    }


def timing(batch: Batch) -> dict[str, float]:
    """Mean seconds that a batch's chunks lay in the queue, and their mean publish lag in updates."""
    return {
        "time/queue_s": _mean([chunk.queue_s for chunk in batch.chunks]),
        "time/publish_lag": _mean([chunk.publish_lag for chunk in batch.chunks]),
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
