"""A policy: token log-probs of given sequences, and next-token logits one step at a time.

Two implementations share this protocol. `SharedPrefixPolicy` (decoder.py) is ours and fast; it serves the
Llama, Qwen2 and Qwen3 families. `TransformersPolicy` (below) asks transformers' own forward and serves any
causal language model. Both own nothing: the parameters belong to the transformers model they wrap.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from harness.models.entrance import Entrance
from harness.models.logprobs import TokenScores, head_scores, scores_from_logits
from harness.models.sequences import SequenceBatch


class DecodingState(Protocol):
    """Keys and values of the sequences being sampled."""

    def keep(self, rows: Tensor) -> None:
        """Forgets every sequence but some.

        rows: int64, indices of those that go on.
        """
        ...


class Policy(Protocol):
    """Computes what training and sampling need from a model.

    model: holds the parameters.
    """

    model: PreTrainedModel

    def enter_through(self, wrap: Entrance) -> None:
        """Computes scores through functions that have been wrapped, for a model that is cut into slices.

        wrap: (module, a function that computes it) → the function to call in its place.
        """
        ...

    def score(self, batch: SequenceBatch, temperature: float, *, entropy_gradient: bool = False) -> TokenScores:
        """Log-prob and entropy of every response token under softmax(logits / temperature).

        batch: G prompts and B responses of at most T tokens, on the model's device.
        temperature: above 0.
        entropy_gradient: whether the entropy is differentiable too.
        Returns two [B, T] float32 (nats), the log-probs differentiable in the model's parameters; padding holds finite
        values of no meaning.
        """
        ...

    def start(
        self, prompt_ids: Tensor, prompt_lengths: Tensor, group: Tensor, max_new_tokens: int
    ) -> tuple[Any, Tensor]:
        """Begins to sample.

        prompt_ids: int64 [G, P], padded on the right.
        prompt_lengths: int64 [G], tokens.
        group: int64 [B], the prompt of each response.
        max_new_tokens: how often `advance` may be called.
        Returns the decoding state and the logits [B, V] of the first response token.
        """
        ...

    def advance(self, state: Any, tokens: Tensor) -> Tensor:
        """Appends a token to every sequence.

        state: as `start` gave it; changed in place.
        tokens: int64 [B].
        Returns the logits [B, V] of the next token.
        """
        ...


@dataclass
class _TransformersState:
    """Decoding state of transformers' own forward.

    cache: keys and values.
    attention_mask: int64 [B, columns so far], 0 on padding.
    position: int64 [B], of the last token.
    """

    cache: DynamicCache
    attention_mask: Tensor
    position: Tensor

    def keep(self, rows: Tensor) -> None:
        """Forgets every sequence but `rows` (int64 indices)."""
        self.cache.batch_select_indices(rows)
        self.attention_mask = self.attention_mask[rows]
        self.position = self.position[rows]


class TransformersPolicy:
    """Any transformers causal LM through its own forward.

    Prompts are padded on the left, so that every response starts in the same column; the attention mask and
    explicit position ids make the padding invisible.

    model: in eval mode, without dropout.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self._enter: Callable[..., TokenScores] = self._score

    def enter_through(self, wrap: Entrance) -> None:
        """Computes the model through a function that has been wrapped. wrap: as Policy's."""
        self._enter = wrap(self.model, self._score)

    @cached_property
    def _split_head(self) -> bool:
        # Asked for when the model is computed: until then it may have no weights, or slices of them.
        return _head_is_linear(self.model)

    def score(self, batch: SequenceBatch, temperature: float, *, entropy_gradient: bool = False) -> TokenScores:
        """Log-prob and entropy of every response token, [B, T] float32 (nats)."""
        return self._enter(batch, temperature, entropy_gradient)

    def _score(self, batch: SequenceBatch, temperature: float, entropy_gradient: bool) -> TokenScores:
        prompts, prompt_mask = _left_pad(batch.prompt_ids, batch.prompt_lengths)
        ids = torch.cat((prompts[batch.group], batch.response_ids), dim=1)
        mask = torch.cat((prompt_mask[batch.group], batch.mask), dim=1)
        keep = batch.response_ids.shape[1] + 1
        inputs: dict[str, Any] = {
            "input_ids": ids,
            "attention_mask": mask.long(),
            "position_ids": _positions(mask),
            "use_cache": False,
        }
        if self._split_head:
            hidden = self.model.base_model(**inputs).last_hidden_state[:, -keep:-1]
            return head_scores(
                hidden,
                self.model.get_output_embeddings(),
                batch.response_ids,
                temperature,
                mask=batch.mask,
                entropy_gradient=entropy_gradient,
            )
        logits = self.model.forward(**inputs, logits_to_keep=keep).logits[:, -keep:-1]
        return scores_from_logits(logits, batch.response_ids, temperature, entropy_gradient=entropy_gradient)

    def start(
        self, prompt_ids: Tensor, prompt_lengths: Tensor, group: Tensor, max_new_tokens: int
    ) -> tuple[_TransformersState, Tensor]:
        """Decoding state of the responses `group` [B] to prompts [G, P], and the logits [B, V] of their first token."""
        ids, mask = _left_pad(prompt_ids, prompt_lengths)
        cache = DynamicCache(config=self.model.config)
        logits = self.model(
            input_ids=ids,
            attention_mask=mask.long(),
            position_ids=_positions(mask),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits
        cache.batch_select_indices(group)
        state = _TransformersState(cache, mask[group].long(), prompt_lengths[group] - 1)
        return state, logits[group, -1]

    def advance(self, state: _TransformersState, tokens: Tensor) -> Tensor:
        """Appends tokens [B] and returns the logits [B, V] of the next."""
        state.position = state.position + 1
        state.attention_mask = torch.cat((state.attention_mask, torch.ones_like(tokens)[:, None]), dim=1)
        return self.model(
            input_ids=tokens[:, None],
            attention_mask=state.attention_mask,
            position_ids=state.position[:, None],
            past_key_values=state.cache,
            use_cache=True,
        ).logits[:, -1]


class ComputePolicy:
    """Another policy computed in `dtype` while its parameters, and with them the optimizer state, stay float32.

    The only place that knows of mixed precision (autocast) and of gradient checkpointing, which transformers does
    in training mode only; there is no dropout, so the mode changes no number. Decoding stays in eval mode.

    inner: the policy, with float32 parameters.
    dtype: float32 or bfloat16.
    """

    def __init__(self, inner: Policy, dtype: torch.dtype) -> None:
        self.model = inner.model
        self._inner = inner
        self._dtype = dtype

    def enter_through(self, wrap: Entrance) -> None:
        """Computes the other policy through functions that have been wrapped. wrap: as Policy's."""
        self._inner.enter_through(wrap)

    def score(self, batch: SequenceBatch, temperature: float, *, entropy_gradient: bool = False) -> TokenScores:
        """Log-prob and entropy of every response token, [B, T] float32 (nats)."""
        self.model.train(self.model.is_gradient_checkpointing and torch.is_grad_enabled())
        try:
            with self._compute():
                return self._inner.score(batch, temperature, entropy_gradient=entropy_gradient)
        finally:
            self.model.eval()

    def start(
        self, prompt_ids: Tensor, prompt_lengths: Tensor, group: Tensor, max_new_tokens: int
    ) -> tuple[Any, Tensor]:
        """Decoding state of the responses `group` [B] to prompts [G, P], and the logits [B, V] of their first token."""
        with self._compute():
            return self._inner.start(prompt_ids, prompt_lengths, group, max_new_tokens)

    def advance(self, state: Any, tokens: Tensor) -> Tensor:
        """Appends tokens [B] and returns the logits [B, V] of the next."""
        with self._compute():
            return self._inner.advance(state, tokens)

    def _compute(self) -> torch.autocast:
        enabled = self._dtype != torch.float32
        return torch.autocast(self.model.device.type, self._dtype if enabled else None, enabled=enabled)


def _left_pad(ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Rows padded on the right → the same rows padded on the left, and their mask."""
    columns = torch.arange(ids.shape[1], device=ids.device)
    source = columns - (ids.shape[1] - lengths)[:, None]
    return ids.gather(1, source.clamp(min=0)), source >= 0


def _positions(mask: Tensor) -> Tensor:
    """Positions [B, columns] of the tokens where `mask` is True, counted from 0."""
    return (mask.long().cumsum(dim=1) - 1).clamp(min=0)


@torch.no_grad()
def _head_is_linear(model: PreTrainedModel) -> bool:
    """Whether logits are exactly head(last hidden state): not so where a family caps or scales its logits.

    In float32, where no rounding hides a difference. `forward` is called by its name: the model has been entered.
    """
    head = model.get_output_embeddings()
    if not isinstance(head, torch.nn.Linear) or model.base_model is model:
        return False
    probe = torch.arange(4, device=head.weight.device)[None] % len(head.weight)
    with torch.autocast(model.device.type, enabled=False):
        hidden = model.base_model(input_ids=probe, use_cache=False).last_hidden_state
        return torch.equal(head(hidden), model.forward(input_ids=probe, use_cache=False).logits)
