"""A fast policy for the Llama, Qwen2 and Qwen3 families: a prompt is computed once for its whole group.

Eight responses share a prompt, so transformers' forward, which sees eight rows, computes the prompt eight
times; here the tokens of G prompts and B responses lie in one matrix [G·P + B·T, H], every linear layer is
one product, and only attention knows that a response sees its prompt and itself. Padding is on the right,
where causal attention cannot see it. Decoding writes into a preallocated cache.

The parameters, norms and rotary tables are those of the transformers model; a test compares log-probs and
gradients with its own forward.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from harness.models.attention import causal_attention, response_attention
from harness.models.entrance import Entrance
from harness.models.logprobs import TokenScores, head_scores
from harness.models.prefix_cache import PrefixCache, PromptGroups
from harness.models.sequences import SequenceBatch

FAMILIES = ("llama", "qwen2", "qwen3")
ROPE_TYPES = ("default", "linear", "llama3", "yarn")

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]  # layer, q, k, v [N, heads, D] → [N, heads·D]


def supports(model: PreTrainedModel) -> bool:
    """Whether `SharedPrefixPolicy` computes the model's architecture exactly.

    model: any causal language model.
    """
    config = model.config
    rope = getattr(config, "rope_parameters", None) or {}
    return (
        config.model_type in FAMILIES
        and rope.get("rope_type", "default") in ROPE_TYPES
        and not getattr(config, "use_sliding_window", False)
        and getattr(config, "hidden_act", None) == "silu"
    )


class SharedPrefixPolicy:
    """A Llama, Qwen2 or Qwen3 model that computes a prompt once for its whole group.

    model: in eval mode, without dropout; its parameters are used, not copied.
    Raises ValueError for a model that it does not support.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        if not supports(model):
            raise ValueError(f"{model.config.model_type}: not one of {', '.join(FAMILIES)} in a supported form")
        self.model = model
        config = model.config
        self._heads = config.num_attention_heads
        self._kv_heads = config.num_key_value_heads
        self._head_dim = getattr(config, "head_dim", None) or config.hidden_size // self._heads
        self._rotary: tuple[Tensor, Tensor] | None = None
        self._enter: Callable[..., TokenScores] = self._score
        base: Any = model.base_model
        self._enter_layer: list[Callable[..., Tensor]] = [
            functools.partial(self._layer, layer, index) for index, layer in enumerate(base.layers)
        ]

    def enter_through(self, wrap: Entrance) -> None:
        """Computes the model and its layers through functions that have been wrapped. wrap: as Policy's."""
        base: Any = self.model.base_model
        self._enter = wrap(self.model, self._score)
        self._enter_layer = list(map(wrap, base.layers, self._enter_layer))

    def score(self, batch: SequenceBatch, temperature: float, *, entropy_gradient: bool = False) -> TokenScores:
        """Log-prob and entropy of every response token under softmax(logits / temperature).

        batch: G prompts [G, P] and B responses [B, T], on the model's device.
        temperature: above 0.
        Returns two [B, T] float32 (nats), the log-probs differentiable; padding holds finite values of no meaning.
        """
        return self._enter(batch, temperature, entropy_gradient)

    def _score(self, batch: SequenceBatch, temperature: float, entropy_gradient: bool) -> TokenScores:
        groups, width = batch.prompt_ids.shape
        responses, steps = batch.response_ids.shape
        # A response token is predicted from the one before it, so the last one is never an input.
        inputs = batch.response_ids[:, :-1]
        split = groups * width
        ids = torch.cat((batch.prompt_ids.flatten(), inputs.flatten()))
        columns = torch.arange(width, device=ids.device)
        positions = torch.cat((columns.repeat(groups), batch.positions[:, :-1].flatten()))
        respond = response_attention(batch, self._dtype)

        def attend(_: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            q_prompt, k_prompt, v_prompt = (x[:split].unflatten(0, (groups, width)) for x in (q, k, v))
            q_own, k_own, v_own = (x[split:].unflatten(0, (responses, steps - 1)) for x in (q, k, v))
            prompt = causal_attention(q_prompt, k_prompt, v_prompt)
            own = respond(q_own, (k_prompt, k_own), (v_prompt, v_own))
            return torch.cat((prompt.flatten(0, 1), own.flatten(0, 1)))

        hidden = self._layers(ids, positions, width + steps, attend)
        last_prompt = torch.arange(groups, device=ids.device) * width + batch.prompt_lengths - 1
        own_rows = split + torch.arange(responses * (steps - 1), device=ids.device).view(responses, steps - 1)
        before = torch.cat((last_prompt[batch.group][:, None], own_rows), dim=1)
        head = self.model.get_output_embeddings()
        return head_scores(
            hidden[before],
            head,
            batch.response_ids,
            temperature,
            mask=batch.mask,
            entropy_gradient=entropy_gradient,
        )

    def start(
        self, prompt_ids: Tensor, prompt_lengths: Tensor, group: Tensor, max_new_tokens: int
    ) -> tuple[PrefixCache, Tensor]:
        """Computes the prompts and makes room for the responses.

        prompt_ids: int64 [G, P], padded on the right.
        prompt_lengths: int64 [G], tokens.
        group: int64 [B], the prompt of each response.
        max_new_tokens: how often `advance` may be called.
        Returns the cache and the logits [B, V] of the first response token.
        """
        groups, width = prompt_ids.shape
        responses = PromptGroups(group, groups)
        room = (groups, self._kv_heads, max_new_tokens, responses.largest, self._head_dim)
        hidden_columns = torch.arange(width, device=group.device) >= prompt_lengths[:, None]
        bias = torch.zeros(hidden_columns.shape, dtype=self._dtype, device=group.device)
        bias = bias.masked_fill_(hidden_columns, float("-inf"))[:, None, None, None]
        cache = PrefixCache(responses, [], [], bias, [], [], prompt_lengths[group], width)

        def attend(_: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            q, k, v = (x.unflatten(0, (groups, width)) for x in (q, k, v))
            cache.prompt_keys.append(k.transpose(1, 2).contiguous())
            cache.prompt_values.append(v.transpose(1, 2).contiguous())
            cache.keys.append(k.new_empty(room))
            cache.values.append(v.new_empty(room))
            return causal_attention(q, k, v).flatten(0, 1)

        positions = torch.arange(width, device=prompt_ids.device).repeat(groups)
        hidden = self._layers(prompt_ids.flatten(), positions, width, attend).view(groups, width, -1)
        last = hidden[torch.arange(groups, device=hidden.device), prompt_lengths - 1]
        return cache, self._head(last)[group]

    def advance(self, state: PrefixCache, tokens: Tensor) -> Tensor:
        """Appends a token to every response.

        state: as `start` gave it; changed in place.
        tokens: int64 [B].
        Returns the logits [B, V] of the next token.
        """
        length = state.width + state.steps + 1
        hidden = self._layers(tokens, state.positions, length, state.attend)
        state.positions = state.positions + 1
        state.steps += 1
        return self._head(hidden)

    # Inside the network ------------------------------------------------------------------------------

    @property
    def _embeddings(self) -> torch.nn.Embedding:
        embeddings = self.model.get_input_embeddings()
        assert isinstance(embeddings, torch.nn.Embedding)
        return embeddings

    @property
    def _dtype(self) -> torch.dtype:
        return self._embeddings.weight.dtype

    def _layers(self, ids: Tensor, positions: Tensor, length: int, attend: Attend) -> Tensor:
        """Token ids [N] at positions [N], all below `length` → hidden states [N, H] after the last norm."""
        base: Any = self.model.base_model
        x = self._embeddings(ids)
        cos, sin = (table[positions][:, None] for table in self._rotary_tables(length))
        recompute = base.training and self.model.is_gradient_checkpointing and torch.is_grad_enabled()
        for layer in self._enter_layer:
            x = checkpoint(layer, x, cos, sin, attend, use_reentrant=False) if recompute else layer(x, cos, sin, attend)
        return _rms_norm(base.norm, x)

    def _layer(self, layer: Any, index: int, x: Tensor, cos: Tensor, sin: Tensor, attend: Attend) -> Tensor:
        attention, mlp = layer.self_attn, layer.mlp
        y = _computed(_rms_norm(layer.input_layernorm, x))
        q = attention.q_proj(y).unflatten(-1, (self._heads, self._head_dim))
        k = attention.k_proj(y).unflatten(-1, (self._kv_heads, self._head_dim))
        v = attention.v_proj(y).unflatten(-1, (self._kv_heads, self._head_dim))
        if hasattr(attention, "q_norm"):
            q, k = _rms_norm(attention.q_norm, q), _rms_norm(attention.k_norm, k)
        q, k = (_computed(_rotate(one, cos, sin)) for one in (q, k))
        x = x + attention.o_proj(attend(index, q, k, v))
        y = _computed(_rms_norm(layer.post_attention_layernorm, x))
        return x + mlp.down_proj(F.silu(mlp.gate_proj(y)) * mlp.up_proj(y))

    def _rotary_tables(self, length: int) -> tuple[Tensor, Tensor]:
        """cos and sin [positions, D] in the model's dtype, grown when a longer sequence comes."""
        weight = self._embeddings.weight
        moved = self._rotary is not None and self._rotary[0].device != weight.device
        if self._rotary is None or moved or len(self._rotary[0]) < length:
            positions = torch.arange(max(length, 128), device=weight.device)
            with torch.no_grad():
                base: Any = self.model.base_model
                cos, sin = base.rotary_emb(weight[:1], positions[None])
            self._rotary = cos[0].clone(), sin[0].clone()
        return self._rotary

    def _head(self, hidden: Tensor) -> Tensor:
        return self.model.get_output_embeddings()(hidden)


def _rms_norm(module: Any, x: Tensor) -> Tensor:
    """x / √(mean(x²) + ε) · weight over the last axis, for the norm of any family: one fused pass each way, in the
    type of the weight (which it must be to be fused)."""
    return F.rms_norm(x.to(module.weight.dtype), module.weight.shape, module.weight, module.variance_epsilon)


def _computed(x: Tensor) -> Tensor:
    """x in the type that products are computed in: cast once here, where autocast would cast it for each of them."""
    device = x.device.type
    return x.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else x


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding in transformers' half-split convention.

    x: [N, heads, D].
    cos, sin: [N, 1, D].
    Returns [N, heads, D].
    """
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin
