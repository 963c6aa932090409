"""Gradients and values, method by method, against every peer that has the method."""

from dataclasses import dataclass

import torch
from torch import Tensor

from parity.catalogue import MATCHES, Match, stats_of
from parity.peers import Inputs, Peer

DTYPES = {"float64": torch.float64, "float32": torch.float32}
TOLERANCE = {"float64": 1e-7, "float32": 1e-5}
"""On the largest difference of two gradients over the largest gradient, and on the difference of two values."""


def tolerance(peer: str, kind: str) -> float:
    """Of a peer in a dtype: AReaL makes π_prox/π_behav in float32 whatever it is given."""
    return TOLERANCE["float32" if peer == "AReaL" else kind]


def mini_batch(dtype: torch.dtype, seed: int = 1, rows: int = 24, width: int = 40, drift: float = 1.0) -> Inputs:
    """Uneven lengths, log-ratios `drift` times (N(0, .3²) and some around ±2), far inside ±20; no empty row."""
    g = torch.Generator().manual_seed(seed)

    def noise() -> Tensor:
        return torch.randn(rows, width, generator=g, dtype=torch.float64)

    behaviour = -0.05 - 3 * torch.rand(rows, width, generator=g, dtype=torch.float64)
    current = behaviour + drift * (0.3 * noise() + 1.7 * (noise().abs() > 2) * noise().sign())
    current = current.clamp(max=-1e-3)  # probabilities below 1, which DPPO's divergence needs
    return Inputs(
        logp=current.clone().to(dtype).requires_grad_(),
        behaviour=behaviour.to(dtype),
        advantages=torch.randn(rows, generator=g, dtype=torch.float64).to(dtype),
        mask=torch.arange(width) < torch.randint(1, width + 1, (rows, 1), generator=g),
        proximal=(behaviour + 0.8 * (current - behaviour) + drift * 0.05 * noise()).to(dtype),
        engine=(behaviour + 0.6 * noise()).to(dtype),
    )


@dataclass(frozen=True)
class Difference:
    """gradient: largest difference over the largest gradient. value: absolute, None if not comparable."""

    gradient: float
    value: float | None

    def within(self, tolerance: float) -> bool:
        """Whether both are; NaN is not."""
        return self.gradient <= tolerance and (self.value is None or self.value <= tolerance)


def compare(match: Match, peer: Peer, dtype: torch.dtype) -> Difference:
    """One method, one peer, one dtype."""
    ours, theirs = mini_batch(dtype, drift=match.drift), mini_batch(dtype, drift=match.drift)
    out = match.method(stats_of(ours))
    out.loss.backward()
    loss = peer(theirs)
    loss.backward()
    assert ours.logp.grad is not None and theirs.logp.grad is not None
    gap = (ours.logp.grad - theirs.logp.grad).abs().max() / ours.logp.grad.abs().max()
    value = (out.metrics["surrogate"] - loss.detach()).abs()
    return Difference(float(gap), float(value) if match.value else None)


def everything() -> dict[tuple[str, str, str], Difference]:
    """(method, peer, dtype) → difference, for every row of the catalogue."""
    return {
        (match.label, name, kind): compare(match, build(), dtype)
        for match in MATCHES
        for name, build in match.peers.items()
        for kind, dtype in DTYPES.items()
    }
