"""Shadow methods: what other methods would have done with the mini-batches that one method trains on.

Methods are pure functions of token statistics, so they can all be asked about the same mini-batch; nothing of the run
changes.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from algorithms import Algorithm, TokenStats, TokenWeights
from algorithms.aggregation import row_scale
from algorithms.diagnostics import clip_fraction, ess_weighted, masked_fraction
from algorithms.weighted_loss import coefficients


@dataclass(frozen=True)
class Shadows:
    """The methods that are asked, and how often.

    methods: by name.
    every: updates from one question to the next; the first update is one of those asked about.
    """

    methods: Mapping[str, Algorithm] = field(default_factory=dict)
    every: int = 10

    def due(self, version: int) -> bool:
        """Whether the update after `version` updates is one of those asked about."""
        return bool(self.methods) and version % self.every == 0

    def need(self, name: str) -> bool:
        """Whether a method needs this optional field of TokenStats."""
        return any(name in method.needs for method in self.methods.values())

    @torch.no_grad()
    def measure(
        self, stats: TokenStats, trained: Algorithm, weights: TokenWeights, max_length: int | None
    ) -> dict[str, Any]:
        """The columns `shadow/METHOD/…` of one update, on the host.

        stats: of the whole mini-batch; without logp_proximal where it is the first of its step, whose proximal policy
            is the current one.
        trained, weights: the method that trains, and what it said.
        max_length: tokens, as `row_scale` takes it.
        """
        started = time.perf_counter()
        if stats.logp_proximal is None and self.need("logp_proximal"):
            stats = replace(stats, logp_proximal=stats.logp_current)
        own = gradient_of_log_probs(stats, trained, weights, max_length)
        columns: dict[str, Tensor] = {}
        for name, method in self.methods.items():
            answer = method.weights(stats)
            other = gradient_of_log_probs(stats, method, answer, max_length)
            columns |= {
                f"shadow/{name}/masked_fraction": masked_fraction(stats, answer),
                f"shadow/{name}/changed": clip_fraction(stats, answer),
                f"shadow/{name}/ess": ess_weighted(stats, answer),
                f"shadow/{name}/agreement": torch.dot(own, other) / (own.dot(own) * other.dot(other)).sqrt(),
                f"shadow/{name}/norm_ratio": (other.dot(other) / own.dot(own)).sqrt(),
            }
        values = torch.stack([value.double().to(own.device) for value in columns.values()]).tolist()
        return dict(zip(columns, values, strict=True)) | {"time/shadow_s": time.perf_counter() - started}


def gradient_of_log_probs(
    stats: TokenStats, method: Algorithm, weights: TokenWeights, max_length: int | None
) -> Tensor:
    """(w·A + c)/D of every token place, [B·T] float64: the method's gradient with respect to the log-probs.

    weights: the method's, for these statistics. max_length: tokens, as `row_scale` takes it.
    """
    scale = row_scale(weights.counted, str(method.aggregation), max_length)
    return coefficients(stats, weights, scale).double().flatten()
