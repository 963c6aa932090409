"""A fast policy for the Llama, Qwen2 and Qwen3 families: a prompt is computed once for its whole group.

Eight responses share a prompt, so transformers' forward, which sees eight rows, computes the prompt eight
times; here the tokens of G prompts and B responses lie in one matrix [G·P + B·T, H], every linear layer is
one product, and only attention knows that a response sees its prompt and itself. Padding is on the right,
where causal attention cannot see it. Decoding writes into a preallocated cache.

The parameters, norms and rotary tables are those of the transformers model; a test compares log-probs and
gradients with its own forward.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from harness.models.kernels import linear, rms_norm, rotate
from harness.models.logprobs import TokenScores, head_scores
from harness.models.sequences import SequenceBatch

FAMILIES = ("llama", "qwen2", "qwen3")
ROPE_TYPES = ("default", "linear", "llama3", "yarn")

# Scores a head (queries × keys) up to which plain products beat the tiled kernel on a CPU.
SMALL_ATTENTION = 512

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]  # layer, q, k, v [N, heads, D] → [N, heads·D]


def supports(model: PreTrainedModel) -> bool:
    """Whether this file computes the model's architecture exactly."""
    config = model.config
    rope = getattr(config, "rope_parameters", None) or {}
    return (
        config.model_type in FAMILIES
        and rope.get("rope_type", "default") in ROPE_TYPES
        and not getattr(config, "use_sliding_window", False)
        and getattr(config, "hidden_act", None) == "silu"
    )


class _Groups:
    """Which responses share a prompt: group [B], the prompt of each of B responses, among G prompts.

    Groups of one size in order, which every batch has that is not split, are a view; others an index into
    [G, largest].
    """

    def __init__(self, group: Tensor, groups: int) -> None:
        sizes = torch.bincount(group, minlength=groups)
        self.group, self.groups, self.largest = group, groups, int(sizes.max())
        order, count = torch.argsort(group, stable=True), torch.arange(len(group), device=group.device)
        rank = torch.empty_like(group)
        rank[order] = count - (sizes.cumsum(0) - sizes)[group[order]]
        self._slots = group * self.largest + rank
        self._equal = groups * self.largest == len(group) and torch.equal(self._slots, count)

    def spread(self, prompts: Tensor) -> Tensor:
        """[G, …] → [B, …]. The gradient of an expansion is one sum, that of an index a scatter, ten times slower."""
        if self._equal:
            return prompts[:, None].expand(-1, self.largest, *prompts.shape[1:]).flatten(0, 1)
        return prompts[self.group]

    def gather(self, responses: Tensor) -> Tensor:
        """[B, …] → [G, largest, …], zeros where a group has fewer."""
        if not self._equal:
            places = responses.new_zeros(self.groups * self.largest, *responses.shape[1:])
            responses = places.index_copy_(0, self._slots, responses)
        return responses.unflatten(0, (self.groups, self.largest))

    def scatter(self, places: Tensor) -> Tensor:
        """[G, largest, …] → [B, …]: `gather` undone."""
        return places.flatten(0, 1) if self._equal else places.flatten(0, 1)[self._slots]


@dataclass
class _Cache:
    """Keys and values by group: of G prompts once, of their responses in n places a group, n the largest group.

    prompt_keys, prompt_values: per layer [G, kv heads, P, D] · prompt_bias [G, 1, 1, 1, P]
    keys, values: per layer [G, kv heads, max_new_tokens, n, D] · positions [B] of the next token
    """

    groups: _Groups
    prompt_keys: list[Tensor]
    prompt_values: list[Tensor]
    prompt_bias: Tensor
    keys: list[Tensor]
    values: list[Tensor]
    positions: Tensor
    width: int
    steps: int = 0

    def keep(self, rows: Tensor) -> None:
        prompts, group = torch.unique(self.groups.group[rows], return_inverse=True)
        old, self.groups = self.groups, _Groups(group, len(prompts))
        for store in (self.prompt_keys, self.prompt_values):
            store[:] = [x[prompts] for x in store]
        for store in (self.keys, self.values):
            # Copied up to the step reached, into as much room as before.
            for layer, x in enumerate(store):
                done = self.groups.gather(old.scatter(x[:, :, : self.steps].movedim(3, 1))[rows]).movedim(1, 3)
                store[layer] = x.new_zeros(*done.shape[:2], x.shape[2], *done.shape[3:])
                store[layer][:, :, : self.steps] = done
        self.prompt_bias = self.prompt_bias[prompts]
        self.positions = self.positions[rows]

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """One query a response: q [B, heads, D], k and v [B, kv heads, D] → [B, heads·D].

        A product a response is a product with one row, which costs more in calls and in reading than in
        arithmetic. Here a group's queries meet all keys of their group at once, and each takes its own from
        the result, the diagonal: n times the arithmetic, a third of the time for n = 8.
        """
        n, heads = self.groups.largest, k.shape[1]
        self.keys[layer][:, :, self.steps] = self.groups.gather(k).transpose(1, 2)
        self.values[layer][:, :, self.steps] = self.groups.gather(v).transpose(1, 2)
        self_keys, self_values = (x[layer][:, :, : self.steps + 1].flatten(2, 3) for x in (self.keys, self.values))
        # Query heads that share a key head lie side by side: [G, kv heads, n · their number, D].
        q = (q * q.shape[-1] ** -0.5).unflatten(1, (heads, -1))
        q = self.groups.gather(q).transpose(1, 2).flatten(2, 3)
        crossed = (q @ self_keys.transpose(-1, -2)).unflatten(3, (-1, n)).unflatten(2, (n, -1))
        own = crossed.diagonal(dim1=2, dim2=5).movedim(-1, 2)  # [G, kv heads, n, sharing, steps]
        shared = (q @ self.prompt_keys[layer].transpose(-1, -2)).unflatten(2, (n, -1)) + self.prompt_bias
        weights = _softmax(torch.cat((shared, own), dim=-1))
        shared, own = weights.split((shared.shape[-1], own.shape[-1]), dim=-1)
        crossed = torch.zeros_like(crossed)
        crossed.diagonal(dim1=2, dim2=5).copy_(own.movedim(2, -1))
        seen = shared.flatten(2, 3) @ self.prompt_values[layer]
        seen = seen + crossed.flatten(4).flatten(2, 3) @ self_values
        return self.groups.scatter(seen.unflatten(2, (n, -1)).transpose(1, 2)).flatten(1)


class SharedPrefixPolicy:
    def __init__(self, model: PreTrainedModel) -> None:
        if not supports(model):
            raise ValueError(f"{model.config.model_type}: not one of {', '.join(FAMILIES)} in a supported form")
        self.model = model
        config = model.config
        self._heads = config.num_attention_heads
        self._kv_heads = config.num_key_value_heads
        self._head_dim = getattr(config, "head_dim", None) or config.hidden_size // self._heads
        self._rotary: tuple[Tensor, Tensor] | None = None

    def score(self, batch: SequenceBatch, temperature: float) -> TokenScores:
        groups, width = batch.prompt_ids.shape
        responses, steps = batch.response_ids.shape
        # A response token is predicted from the one before it, so the last one is never an input.
        inputs = batch.response_ids[:, :-1]
        split = groups * width
        ids = torch.cat((batch.prompt_ids.flatten(), inputs.flatten()))
        columns = torch.arange(width, device=ids.device)
        positions = torch.cat((columns.repeat(groups), batch.positions[:, :-1].flatten()))
        bias = _prefix_bias(batch, width, steps - 1, self._dtype)
        spread = _Groups(batch.group, groups).spread

        def attend(_: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            q_prompt, k_prompt, v_prompt = (x[:split].unflatten(0, (groups, width)) for x in (q, k, v))
            q_own, k_own, v_own = (x[split:].unflatten(0, (responses, steps - 1)) for x in (q, k, v))
            prompt = self._attention(q_prompt, k_prompt, v_prompt)
            keys = torch.cat((spread(k_prompt), k_own), dim=1)
            values = torch.cat((spread(v_prompt), v_own), dim=1)
            own = self._attention(q_own, keys, values, bias)
            return torch.cat((prompt.flatten(0, 1), own.flatten(0, 1)))

        hidden = self._layers(ids, positions, width + steps, attend)
        last_prompt = torch.arange(groups, device=ids.device) * width + batch.prompt_lengths - 1
        own_rows = split + torch.arange(responses * (steps - 1), device=ids.device).view(responses, steps - 1)
        before = torch.cat((last_prompt[batch.group][:, None], own_rows), dim=1)
        return self._head_scores(hidden[before], batch.response_ids, temperature)

    def start(
        self, prompt_ids: Tensor, prompt_lengths: Tensor, group: Tensor, max_new_tokens: int
    ) -> tuple[_Cache, Tensor]:
        groups, width = prompt_ids.shape
        responses = _Groups(group, groups)
        room = (groups, self._kv_heads, max_new_tokens, responses.largest, self._head_dim)
        hidden_columns = torch.arange(width, device=group.device) >= prompt_lengths[:, None]
        bias = torch.zeros(hidden_columns.shape, dtype=self._dtype, device=group.device)
        bias = bias.masked_fill_(hidden_columns, float("-inf"))[:, None, None, None]
        cache = _Cache(responses, [], [], bias, [], [], prompt_lengths[group], width)

        def attend(_: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            q, k, v = (x.unflatten(0, (groups, width)) for x in (q, k, v))
            cache.prompt_keys.append(k.transpose(1, 2).contiguous())
            cache.prompt_values.append(v.transpose(1, 2).contiguous())
            cache.keys.append(k.new_empty(room))
            cache.values.append(v.new_empty(room))
            return self._attention(q, k, v).flatten(0, 1)

        positions = torch.arange(width, device=prompt_ids.device).repeat(groups)
        hidden = self._layers(prompt_ids.flatten(), positions, width, attend).view(groups, width, -1)
        last = hidden[torch.arange(groups, device=hidden.device), prompt_lengths - 1]
        return cache, self._head(last)[group]

    def advance(self, state: _Cache, tokens: Tensor) -> Tensor:
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
        for index, layer in enumerate(base.layers):
            if recompute:
                x = checkpoint(self._layer, layer, index, x, cos, sin, attend, use_reentrant=False)
            else:
                x = self._layer(layer, index, x, cos, sin, attend)
        return rms_norm(base.norm, x)

    def _layer(self, layer: Any, index: int, x: Tensor, cos: Tensor, sin: Tensor, attend: Attend) -> Tensor:
        attention, mlp = layer.self_attn, layer.mlp
        y = rms_norm(layer.input_layernorm, x)
        q = linear(attention.q_proj, y).unflatten(-1, (self._heads, self._head_dim))
        k = linear(attention.k_proj, y).unflatten(-1, (self._kv_heads, self._head_dim))
        v = linear(attention.v_proj, y).unflatten(-1, (self._kv_heads, self._head_dim))
        if hasattr(attention, "q_norm"):
            q, k = rms_norm(attention.q_norm, q), rms_norm(attention.k_norm, k)
        x = x + linear(attention.o_proj, attend(index, rotate(q, cos, sin), rotate(k, cos, sin), v))
        y = rms_norm(layer.post_attention_layernorm, x)
        return x + linear(mlp.down_proj, F.silu(linear(mlp.gate_proj, y)) * linear(mlp.up_proj, y))

    def _attention(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        """q [rows, T, heads, D], k and v [rows, S, kv heads, D] → [rows, T, heads·D]; causal without a bias."""
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        if bias is not None and q.device.type == "cpu" and q.shape[2] * k.shape[2] <= SMALL_ATTENTION:
            return _small_attention(q, k, v, bias).transpose(1, 2).flatten(-2)
        out = F.scaled_dot_product_attention(
            q, k, v, attn_mask=bias, is_causal=bias is None, enable_gqa=self._heads != self._kv_heads
        )
        return out.transpose(1, 2).flatten(-2)

    def _rotary_tables(self, length: int) -> tuple[Tensor, Tensor]:
        """cos and signed sin [positions, D] in the model's dtype, grown when a longer sequence comes."""
        weight = self._embeddings.weight
        stale = self._rotary is not None and self._rotary[0].device != weight.device
        if self._rotary is None or stale or len(self._rotary[0]) < length:
            positions = torch.arange(max(length, 128), device=weight.device)
            with torch.no_grad():
                base: Any = self.model.base_model
                cos, sin = base.rotary_emb(weight[:1], positions[None])
            sin[..., : self._head_dim // 2].neg_()  # the sign of the half-split convention, see `rotate`
            self._rotary = cos[0].clone(), sin[0].clone()
        return self._rotary

    def _head(self, hidden: Tensor) -> Tensor:
        return self.model.get_output_embeddings()(hidden)

    def _head_scores(self, hidden: Tensor, targets: Tensor, temperature: float) -> TokenScores:
        return head_scores(hidden, self.model.get_output_embeddings(), targets, temperature)


def _small_attention(q: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
    """q [rows, heads, T, D], keys and values [rows, kv heads, S, D], bias [rows, 1, T, S] → as q."""
    # Query heads that share a key head lie side by side.
    shape, kv_heads, length = q.shape, *keys.shape[1:3]
    q = (q * shape[-1] ** -0.5).reshape(shape[0], kv_heads, shape[1] // kv_heads * shape[2], shape[3])
    scores = (q @ keys.transpose(-1, -2)).view(*shape[:-1], length).add_(bias)
    weights = _softmax(scores)
    return (weights.view(*q.shape[:-1], length) @ values).view(shape)


def _softmax(scores: Tensor) -> Tensor:
    """Over the last axis, half precision by way of float32."""
    half = scores.dtype in (torch.bfloat16, torch.float16)
    return torch.softmax(scores.float(), dim=-1).to(scores.dtype) if half else torch.softmax(scores, dim=-1)


def _prefix_bias(batch: SequenceBatch, width: int, steps: int, dtype: torch.dtype) -> Tensor:
    """[B, 1, steps, width + steps]: 0 where a response token sees its prompt or itself and its past, else −inf."""
    device = batch.group.device
    columns = torch.arange(width, device=device)
    prompt = (columns < batch.prompt_lengths[batch.group][:, None])[:, None].expand(-1, steps, -1)
    causal = torch.ones(steps, steps, dtype=torch.bool, device=device).tril()
    visible = torch.cat((prompt, causal.expand(len(batch.group), -1, -1)), dim=-1)[:, None]
    return torch.zeros(visible.shape, dtype=dtype, device=device).masked_fill_(~visible, float("-inf"))
