"""The network's steps on a CPU in fewer passes over memory than autograd's own; elsewhere torch's.

Measured on one AVX-512 core: torch's float32 products go through MKL, which on AMD processors stays with AVX2 and
reaches half of what oneDNN does; the composite RMSNorm takes eleven passes over its input, forward and
backward, and this one six. On other devices and dtypes every function here is torch's own.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# oneDNN compiles a product for every shape and keeps the last 1,024 of them, 0.2 MB each, in two caches; batches of
# ever new lengths fill both. An update comes back to few shapes, so that fewer cost no time. Read at the first product.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")
os.environ.setdefault("LRU_CACHE_CAPACITY", "1")  # 0 crashes

# Below this many outputs the fixed cost of a oneDNN call (20 µs) exceeds what it saves.
ONEDNN_MIN_OUTPUTS = 32


def linear(module: nn.Linear, x: Tensor) -> Tensor:
    """module(x) for x [N, in]."""
    if _plain_cpu(x) and HAS_ONEDNN and module.out_features >= ONEDNN_MIN_OUTPUTS:
        product = _with_gradient(_Product, _onednn, x, module.weight)
        return product if module.bias is None else product + module.bias
    return F.linear(x, module.weight, module.bias)


def rms_norm(module: Any, x: Tensor) -> Tensor:
    """x / √(mean(x²) + ε) · weight over the last axis, for any module of a transformers family."""
    if _plain_cpu(x):
        return _with_gradient(_RMSNorm, _rms_norm, x, module.weight, module.variance_epsilon)
    return F.rms_norm(x, module.weight.shape, module.weight, module.variance_epsilon)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding in transformers' half-split convention: x [N, heads, D], cos and sin [N, 1, D].

    sin carries the sign: its first half is negated.
    """
    return _with_gradient(_Rotation, _rotate, x, cos, sin)


def _plain_cpu(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")


def _with_gradient(function: Any, plain: Callable[..., Tensor], *arguments: Any) -> Tensor:
    """`function` where a gradient is wanted, else `plain`, the same without the cost of asking for one."""
    out: Tensor = function.apply(*arguments) if torch.is_grad_enabled() else plain(*arguments)
    return out


HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _onednn(x: Tensor, weight: Tensor) -> Tensor:
    """x [N, in] · weightᵀ [in, out]; either may be strided."""
    product: Tensor = torch.ops.mkldnn._linear_pointwise.default(x, weight, None, "none", [], "")
    return product


class _Product(torch.autograd.Function):
    """x · weightᵀ, all three products by oneDNN."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _onednn(x, weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor]:
        x, weight = ctx.saved_tensors
        (grad,) = grads
        # A long sum into a small matrix: faster with the smaller side as its rows.
        wide = weight.shape[0] > weight.shape[1]
        grad_weight = _onednn(x.t(), grad.t()).t() if wide else _onednn(grad.t(), x.t())
        return (_onednn(grad, weight.t()) if ctx.needs_input_grad[0] else None), grad_weight


def _rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    return _inverse_rms(x, epsilon).mul(x).mul_(weight)


def _inverse_rms(x: Tensor, epsilon: float) -> Tensor:
    # vector_norm is the fastest sum of squares here.
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return norm.square_().mul_(1 / x.shape[-1]).add_(epsilon).rsqrt_()


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        scale = _inverse_rms(x, epsilon)
        normed = x * scale
        ctx.save_for_backward(normed, scale, weight)
        return normed * weight

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        normed, scale, weight = ctx.saved_tensors
        (grad,) = grads
        product = grad * normed
        grad_weight = product.flatten(0, -2).sum(0)
        slope = (product.flatten(0, -2) @ weight).view(scale.shape).mul_(1 / weight.shape[0])
        return (grad * weight).addcmul_(normed, slope, value=-1).mul_(scale), grad_weight, None


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return torch.addcmul(x * cos, _halves_swapped(x), sin)


class _Rotation(torch.autograd.Function):
    """The backward pass is the rotation by the opposite angle."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotate(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        (grad,) = grads
        return torch.addcmul(grad * cos, _halves_swapped(grad), sin, value=-1), None, None


def _halves_swapped(x: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=-1)
    return torch.cat((b, a), dim=-1)
