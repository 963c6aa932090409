"""Keys and values of responses that share their prompts: a prompt is kept once for its whole group."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


class PromptGroups:
    """Which responses share a prompt.

    Groups of one size in order, which every batch has that is not split, are a view; others an index into
    [G, largest].

    group: int64 [B], the prompt of each response.
    groups: G, number of prompts.
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
        """A prompt's row for each of its responses: [G, …] → [B, …]."""
        if self._equal:  # the gradient of an expansion is one sum, that of an index a scatter, ten times slower
            return prompts[:, None].expand(-1, self.largest, *prompts.shape[1:]).flatten(0, 1)
        return prompts[self.group]

    def gather(self, responses: Tensor) -> Tensor:
        """Responses by group: [B, …] → [G, largest, …], zeros where a group has fewer."""
        if not self._equal:
            slots = responses.new_zeros(self.groups * self.largest, *responses.shape[1:])
            responses = slots.index_copy_(0, self._slots, responses)
        return responses.unflatten(0, (self.groups, self.largest))

    def scatter(self, grouped: Tensor) -> Tensor:
        """The inverse of `gather`: [G, largest, …] → [B, …]."""
        return grouped.flatten(0, 1) if self._equal else grouped.flatten(0, 1)[self._slots]


@dataclass
class PrefixCache:
    """Keys and values while B responses to G prompts are sampled, n responses to the prompt that has most.

    groups: which responses share a prompt.
    prompt_keys: of each layer [G, kv heads, P, D].
    prompt_values: of each layer [G, kv heads, P, D].
    prompt_bias: [G, 1, 1, 1, P], added to the scores: 0, or −inf on padding.
    keys: of each layer [G, kv heads, max_new_tokens, n, D], the responses'.
    values: of each layer [G, kv heads, max_new_tokens, n, D], the responses'.
    positions: int64 [B], of the next token.
    width: P, tokens of the longest prompt.
    steps: response tokens so far.
    """

    groups: PromptGroups
    prompt_keys: list[Tensor]
    prompt_values: list[Tensor]
    prompt_bias: Tensor
    keys: list[Tensor]
    values: list[Tensor]
    positions: Tensor
    width: int
    steps: int = 0

    def keep(self, rows: Tensor) -> None:
        """Forgets every response but some, and the prompts without any.

        rows: int64, indices of the responses that go on.
        """
        prompts, group = torch.unique(self.groups.group[rows], return_inverse=True)
        old, self.groups = self.groups, PromptGroups(group, len(prompts))
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
        """Attention of one new token a response to its prompt and itself.

        A product a response is a product with one row, which costs more in calls and in reading than in
        arithmetic. Here a group's queries meet all keys of their group at once, and each takes its own from
        the result, the diagonal: n times the arithmetic, a third of the time for n = 8.

        layer: index of the layer.
        q: [B, heads, D].
        k, v: [B, kv heads, D], kept.
        Returns [B, heads·D].
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
        weights = softmax(torch.cat((shared, own), dim=-1))
        shared, own = weights.split((shared.shape[-1], own.shape[-1]), dim=-1)
        crossed = torch.zeros_like(crossed)
        crossed.diagonal(dim1=2, dim2=5).copy_(own.movedim(2, -1))
        seen = shared.flatten(2, 3) @ self.prompt_values[layer]
        seen = seen + crossed.flatten(4).flatten(2, 3) @ self_values
        return self.groups.scatter(seen.unflatten(2, (n, -1)).transpose(1, 2)).flatten(1)


def softmax(scores: Tensor) -> Tensor:
    """Softmax over the last axis; half precision is computed in float32.

    scores: [..., S].
    Returns the weights, in the shape and dtype of the scores.
    """
    half = scores.dtype in (torch.bfloat16, torch.float16)
    return torch.softmax(scores.float(), dim=-1).to(scores.dtype) if half else torch.softmax(scores, dim=-1)
