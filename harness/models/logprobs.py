"""Token log-probs and entropies from hidden states, without the full logits where the vocabulary is large.

At V = 152k the logits of 2,048 tokens are 1.2 GB in float32 and autograd keeps two or three copies. Above
`CHUNK_ELEMENTS` the head is therefore applied in chunks of tokens, and the backward pass computes the
logits of a chunk again instead of storing them. Below it the plain expression is faster.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

CHUNK_ELEMENTS = 2**25  # logits a chunk: 128 MB in float32


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
    hidden: Tensor, head: nn.Linear, targets: Tensor, temperature: float, *, entropy_gradient: bool = False
) -> TokenScores:
    """Scores of tokens under the softmax of the output head, without the full logits where those are many.

    hidden: [..., H], hidden states.
    head: the output head, H → V.
    targets: int64 [...], the tokens.
    temperature: above 0; divides the logits.
    entropy_gradient: whether the entropy is differentiable too.
    Returns scores [...].
    """
    if targets.numel() * head.weight.shape[0] <= CHUNK_ELEMENTS or head.bias is not None:
        return scores_from_logits(head(hidden), targets, temperature, entropy_gradient=entropy_gradient)
    weight = head.weight
    if torch.is_autocast_enabled(hidden.device.type):
        compute = torch.get_autocast_dtype(hidden.device.type)
        hidden, weight = hidden.to(compute), weight.to(compute)
    with torch.autocast(hidden.device.type, enabled=False):
        logp, entropy = _ChunkedScores.apply(
            hidden.flatten(0, -2), weight, targets.flatten(), temperature, entropy_gradient
        )
    return TokenScores(logp.view(targets.shape), entropy.view(targets.shape))


class _ChunkedScores(torch.autograd.Function):
    """∂logp/∂z = onehot − p and ∂entropy/∂z = −p·(log p + entropy), z = logits / temperature, chunk by chunk."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float, entropy_gradient: bool
    ) -> tuple[Tensor, Tensor]:
        logp = torch.empty(len(targets), dtype=torch.float32, device=hidden.device)
        entropy, normaliser = torch.empty_like(logp), torch.empty_like(logp)
        for rows in _chunks(len(targets), weight.shape[0]):
            logits = (hidden[rows] @ weight.T).float().div_(temperature)
            normaliser[rows] = logits.logsumexp(-1)
            logp[rows] = logits.gather(-1, targets[rows, None])[:, 0] - normaliser[rows]
            expected = torch.linalg.vecdot(logits, (logits - normaliser[rows, None]).exp_())
            entropy[rows] = normaliser[rows] - expected
        ctx.save_for_backward(hidden, weight, targets, normaliser, entropy if entropy_gradient else None)
        ctx.temperature = temperature
        if not entropy_gradient:
            ctx.mark_non_differentiable(entropy)
        return logp, entropy

    @staticmethod
    def backward(
        ctx: Any, grad_logp: Tensor, grad_entropy: Tensor
    ) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        hidden, weight, targets, normaliser, entropy = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight, dtype=torch.float32)
        for rows in _chunks(len(targets), weight.shape[0]):
            scale = grad_logp[rows, None] / ctx.temperature
            logits = (hidden[rows] @ weight.T).float().div_(ctx.temperature)
            log_probs = logits.sub_(normaliser[rows, None])
            pull = scale
            if entropy is not None:
                pull = scale + (log_probs + entropy[rows, None]) * grad_entropy[rows, None] / ctx.temperature
            grad_logits = log_probs.exp_().mul_(-pull)
            grad_logits.scatter_add_(-1, targets[rows, None], scale)
            grad_logits = grad_logits.to(weight.dtype)
            grad_hidden[rows] = grad_logits @ weight
            if grad_logits.dtype == grad_weight.dtype:
                grad_weight.addmm_(grad_logits.T, hidden[rows])  # no second [V, H] matrix
            else:
                grad_weight += grad_logits.T @ hidden[rows]
        return grad_hidden, grad_weight.to(weight.dtype), None, None, None


def _chunks(tokens: int, vocabulary: int) -> list[slice]:
    size = max(CHUNK_ELEMENTS // vocabulary, 1)
    return [slice(start, start + size) for start in range(0, tokens, size)]
