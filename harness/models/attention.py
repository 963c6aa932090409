"""Attention of prompts to themselves, and of responses to their prompt and themselves.

A response sees the whole prompt of its group, and of itself what came before. Prompts of different lengths leave a hole
between prompt and response, which a mask closes; kernels without a mask need that there is none, so on a GPU the
responses whose prompts are equally long are computed together.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right

from harness.models.prefix_cache import PromptGroups, softmax
from harness.models.sequences import SequenceBatch

# Scores a head (queries × keys) up to which plain products beat the tiled kernel on a CPU.
SMALL_ATTENTION = 512

Parts = tuple[Tensor, Tensor]  # of prompts [G, P, kv heads, D] and of responses [B, T, kv heads, D]
Respond = Callable[[Tensor, Parts, Parts], Tensor]  # q [B, T, heads, D], keys, values → [B, T, heads·D]


def causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q [rows, T, heads, D], k and v [rows, T, kv heads, D] → [rows, T, heads·D]; each token sees those up to it."""
    return _attention(q, k, v, is_causal=True)


def response_attention(batch: SequenceBatch, dtype: torch.dtype) -> Respond:
    """How the responses of a batch see their prompts and themselves; their last token is no query.

    batch: G prompts [G, P] and B responses [B, T + 1].
    dtype: of a mask.
    """
    half = torch.is_autocast_enabled("cuda") or dtype != torch.float32
    if batch.group.device.type == "cuda" and half and batch.response_ids.shape[1] > 1:
        return by_prompt_length(batch)
    return masked(batch, dtype)


def masked(batch: SequenceBatch, dtype: torch.dtype) -> Respond:
    """All responses at once, the hole behind their prompts closed by a mask."""
    groups, width = batch.prompt_ids.shape
    bias = _prefix_bias(batch, width, batch.response_ids.shape[1] - 1, dtype)
    spread = PromptGroups(batch.group, groups).spread

    def respond(q: Tensor, keys: Parts, values: Parts) -> Tensor:
        k, v = (torch.cat((spread(prompts), own), dim=1) for prompts, own in (keys, values))
        if q.device.type == "cpu" and q.shape[1] * k.shape[1] <= SMALL_ATTENTION:
            q, k, v = (x.transpose(1, 2) for x in (q, k, v))
            return _small_attention(q, k, v, bias).transpose(1, 2).flatten(-2)
        return _attention(q, k, v, attn_mask=bias)

    return respond


def by_prompt_length(batch: SequenceBatch) -> Respond:
    """The responses whose prompts are equally long together, each such part without a mask.

    What is padded behind a response is seen by none of its tokens.
    """
    lengths = batch.prompt_lengths[batch.group]
    parts = [(length, (lengths == length).nonzero()[:, 0]) for length in lengths.unique().tolist()]
    back = torch.argsort(torch.cat([rows for _, rows in parts]))

    def respond(q: Tensor, keys: Parts, values: Parts) -> Tensor:
        seen = []
        for length, rows in parts:
            k, v = (
                torch.cat((prompts[batch.group[rows], :length], own[rows]), dim=1) for prompts, own in (keys, values)
            )
            seen.append(_attention(q[rows], k, v, attn_mask=causal_lower_right(q.shape[1], k.shape[1])))
        return torch.cat(seen)[back]

    return respond


def _attention(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, *, is_causal: bool = False) -> Tensor:
    """q [rows, T, heads, D], k and v [rows, S, kv heads, D] → [rows, T, heads·D]."""
    shared = q.shape[2] != k.shape[2]
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask, is_causal=is_causal, enable_gqa=shared)
    return out.transpose(1, 2).flatten(-2)


def _small_attention(q: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
    """q [rows, heads, T, D], keys and values [rows, kv heads, S, D], bias [rows, 1, T, S] → as q."""
    # Query heads that share a key head lie side by side.
    shape, kv_heads, length = q.shape, *keys.shape[1:3]
    q = (q * shape[-1] ** -0.5).reshape(shape[0], kv_heads, shape[1] // kv_heads * shape[2], shape[3])
    scores = (q @ keys.transpose(-1, -2)).view(*shape[:-1], length).add_(bias)
    weights = softmax(scores)
    return (weights.view(*q.shape[:-1], length) @ values).view(shape)


def _prefix_bias(batch: SequenceBatch, width: int, steps: int, dtype: torch.dtype) -> Tensor:
    """[B, 1, steps, width + steps]: 0 where a response token sees its prompt or itself and its past, else −inf."""
    device = batch.group.device
    columns = torch.arange(width, device=device)
    prompt = (columns < batch.prompt_lengths[batch.group][:, None])[:, None].expand(-1, steps, -1)
    causal = torch.ones(steps, steps, dtype=torch.bool, device=device).tril()
    visible = torch.cat((prompt, causal.expand(len(batch.group), -1, -1)), dim=-1)[:, None]
    return torch.zeros(visible.shape, dtype=dtype, device=device).masked_fill_(~visible, float("-inf"))
