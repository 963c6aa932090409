"""Emulated engine mismatch (`rollout.mismatch`): a sampler that differs from the trainer by a known amount.

An inference engine computes other logits than the trainer: its weights are rounded, its kernels sum in another order.
Here the difference is a setting: `bf16` and `fp8` sample with weights that went through that rounding, `gaussian`
samples from logits + σ·N(0, 1), σ²/2·(1 − Σp²) nats of KL divergence away from the trainer, to first order.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor

from harness import randomness
from harness.models.policy import Policy

ROUNDINGS = ("bf16", "fp8")
FP8 = torch.float8_e4m3fn


class RoundedPolicy:
    """A copy of a policy whose weights are rounded whenever they are taken over; it computes in the original's type.

    trainer: the policy to copy.
    rounding: one of ROUNDINGS.
    """

    def __init__(self, trainer: Policy, rounding: str) -> None:
        self.policy = copy.deepcopy(trainer)
        self._rounding = rounding

    @torch.no_grad()
    def take(self, weights: dict[str, Tensor]) -> None:
        """Rounds every matrix of a state dict into the copy; vectors (norms, biases) stay as they are."""
        for name, tensor in self.policy.model.state_dict().items():
            new = weights[name]
            tensor.copy_(rounded(new, self._rounding) if new.ndim > 1 else new)


def rounded(weight: Tensor, rounding: str) -> Tensor:
    """A matrix after a round trip through a smaller type, in its own type.

    weight: [..., in].
    rounding: bf16, or fp8 (e4m3 with a scale for each output, as engines quantise online).
    """
    if rounding == "bf16":
        return weight.bfloat16().to(weight.dtype)
    largest = weight.abs().amax(-1, keepdim=True).clamp(min=torch.finfo(weight.dtype).tiny)
    scale = largest / torch.finfo(FP8).max
    return (weight / scale).to(FP8).to(weight.dtype) * scale


def gaussian_noise(keys: np.ndarray, step: int, sigma: float, like: Tensor) -> Tensor:
    """Noise on the logits of one decoding step: a function of each sequence's key and the step alone.

    keys: uint64 [B], of the sequences.
    step: tokens sampled before.
    sigma: standard deviation, nats.
    like: logits [B, V], for shape, type and device.
    Returns [B, V].
    """
    own = randomness.keys(0, "engine mismatch", keys.astype(np.int64), step)
    uniforms = torch.from_numpy(randomness.uniforms(own, like.shape[1]) + 2.0**-54)  # never 0, whose quantile is −∞
    return sigma * torch.special.ndtri(uniforms).to(like)
