"""Token log-probs and entropies from hidden states, without the full logits where the vocabulary is large.

At V = 152k the logits of 2,048 tokens are 1.2 GB in float32 and autograd keeps two or three copies. Above
`CHUNK_ELEMENTS` the head is therefore applied to some rows at a time (head_rows.py), and the backward pass
computes their logits again instead of keeping them. Below it the plain expression is faster.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from harness.models.head_rows import Chunks, chunks_of

CHUNK_ELEMENTS = 2**25  # logits up to which all are computed at once, and on a CPU those of a chunk: 128 MB in float32


class TokenScores(NamedTuple):
    """What a policy says about given tokens.

    logp: log-prob of each token (nats), float32, in the shape of the tokens.
    entropy: of the distribution that the token was drawn from (nats), the same shape and type; carries a gradient only
        where that was asked for.
    """

    logp: Tensor
    entropy: Tensor


def scores_from_logits(
    logits: Tensor, targets: Tensor, temperature: float, *, entropy_gradient: bool = False
) -> TokenScores:
    """Scores of tokens under softmax(logits / temperature).

    logits: [..., V].
    targets: int64 [...], the tokens.
    temperature: above 0.
    entropy_gradient: whether the entropy is differentiable too.
    Returns scores [...].
    """
    log_probs = torch.log_softmax(logits.float() / temperature, dim=-1)
    logp = log_probs.gather(-1, targets[..., None])[..., 0]
    if entropy_gradient:
        return TokenScores(logp, -(log_probs.exp() * log_probs).sum(-1))
    with torch.no_grad():
        entropy = torch.special.entr(log_probs.exp()).sum(-1)
    return TokenScores(logp, entropy)


def head_scores(
    hidden: Tensor,
    head: nn.Linear,
    targets: Tensor,
    temperature: float,
    *,
    mask: Tensor | None = None,
    entropy_gradient: bool = False,
) -> TokenScores:
    """Scores of tokens under the softmax of the output head, without the full logits where those are many.

    hidden: [..., H], hidden states.
    head: the output head, H → V.
    targets: int64 [...], the tokens.
    temperature: above 0; divides the logits.
    mask: bool [...], tokens whose scores are used; the others may come out as 0. None: all.
    entropy_gradient: whether the entropy is differentiable too.
    Returns scores [...].
    """
    if targets.numel() * head.weight.shape[0] <= CHUNK_ELEMENTS or head.bias is not None:
        return scores_from_logits(head(hidden), targets, temperature, entropy_gradient=entropy_gradient)
    used = torch.ones_like(targets, dtype=torch.bool) if mask is None else mask
    device = hidden.device.type
    compute = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    chunks = chunks_of(head.weight, CHUNK_ELEMENTS)
    with torch.autocast(device, enabled=False):
        scores = _ChunkedScores.apply(
            hidden[used].to(compute), head.weight, targets[used], temperature, entropy_gradient, chunks
        )
    return TokenScores(*(torch.zeros_like(used, dtype=torch.float32).masked_scatter(used, one) for one in scores))


class _ChunkedScores(torch.autograd.Function):
    """hidden [N, H] in the type of the computation and the head's weight [V, H] → log-prob and entropy [N]."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        temperature: float,
        entropy_gradient: bool,
        chunks: Chunks,
    ) -> tuple[Tensor, Tensor]:
        cast = weight.to(hidden.dtype)
        logp = torch.empty(len(targets), dtype=torch.float32, device=hidden.device)
        entropy, normaliser = torch.empty_like(logp), torch.empty_like(logp)
        for rows in chunks.slices(len(targets)):
            found = chunks.scores(chunks.filled(hidden[rows]) @ cast.T, chunks.filled(targets[rows]), temperature)
            for whole, part in zip((logp, entropy, normaliser), found, strict=True):
                whole[rows] = part[: len(whole[rows])]
        ctx.save_for_backward(hidden, cast, targets, normaliser, entropy if entropy_gradient else None)
        ctx.temperature, ctx.chunks, ctx.master_dtype = temperature, chunks, weight.dtype
        if not entropy_gradient:
            ctx.mark_non_differentiable(entropy)
        return logp, entropy

    @staticmethod
    def backward(
        ctx: Any, grad_logp: Tensor, grad_entropy: Tensor
    ) -> tuple[Tensor | None, Tensor | None, None, None, None, None]:
        hidden, cast, targets, normaliser, entropy = ctx.saved_tensors
        chunks, filled = ctx.chunks, ctx.chunks.filled
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(cast, dtype=ctx.master_dtype)
        for rows in chunks.slices(len(targets)):
            states = filled(hidden[rows])
            pull = None if entropy is None else (filled(entropy.detach()[rows]), filled(grad_entropy[rows]))
            grad_logits = chunks.gradient(
                states @ cast.T, filled(targets[rows]), filled(normaliser[rows]), filled(grad_logp[rows]), pull,
                ctx.temperature,
            )  # fmt: skip
            grad_hidden[rows] = (grad_logits @ cast)[: len(hidden[rows])]
            if grad_logits.dtype == grad_weight.dtype:
                grad_weight.addmm_(grad_logits.T, states)  # no second [V, H] matrix
            else:
                grad_weight += grad_logits.T @ states
            del grad_logits  # else it would lie beside the next chunk's
        return grad_hidden, grad_weight, None, None, None, None
