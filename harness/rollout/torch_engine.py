"""`rollout=torch`: batched sampling of a transformers model with a key-value cache."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from harness import randomness
from harness.models.policy import Policy
from harness.models.sequences import SequenceBatch
from harness.rollout.interface import Newer, StateDict, to_rollouts
from harness.types import Request, Rollouts


class TorchEngine:
    """Samples from `policy`. `trainer_logp` adds one teacher-forced pass over the finished sequences, the
    behaviour log-probs in trainer numerics; without it they are those of the decoding passes."""

    def __init__(self, policy: Policy, end_token: int, *, trainer_logp: bool, version: int = 0) -> None:
        self.policy = policy
        self.version = version
        self.newer: Newer | None = None  # never asked: a chunk is sampled by one version
        self._end = end_token
        self._trainer_logp = trainer_logp

    def load(self, version: int, weights: StateDict) -> None:
        """Copies the weights in, unless they are this engine's own tensors (driver=serial)."""
        own = self.policy.model.state_dict()
        with torch.no_grad():
            for name, tensor in own.items():
                if tensor.data_ptr() != weights[name].data_ptr():
                    tensor.copy_(weights[name])
        self.version = version

    @torch.no_grad()
    def generate(self, request: Request) -> Rollouts:
        device = self.policy.model.device
        prompt_ids, prompt_lengths = pad_prompts(request.prompts, device)
        group = torch.arange(len(request.prompts), device=device).repeat_interleave(request.samples)
        ids, mask, logp = self._sample(request, prompt_ids, prompt_lengths, group)
        finished = (ids.eq(self._end) & mask).any(1)
        behaviour = logp
        if self._trainer_logp and request.temperature > 0:
            batch = SequenceBatch(prompt_ids, prompt_lengths, group, ids, mask)
            behaviour = self.policy.score(batch, request.temperature).logp
        return to_rollouts(request.prompts, request.samples, ids, mask, logp, behaviour, self.version, finished)

    def close(self) -> None:
        """Nothing to release."""

    def _sample(
        self, request: Request, prompt_ids: Tensor, prompt_lengths: Tensor, group: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Token ids, mask and log-probs [B, T], T = steps until every sequence has ended."""
        limit, device = request.max_new_tokens, prompt_ids.device
        count = len(group)
        uniforms = torch.from_numpy(randomness.uniforms(request.keys.reshape(-1), limit).T.copy()).to(device)
        ids = torch.zeros(limit, count, dtype=torch.long, device=device)
        logp = torch.zeros(limit, count, device=device)
        lengths = torch.full((count,), limit, device=device)
        rows = torch.arange(count, device=device)  # the sequence in each row of the decoding state
        running = torch.ones(count, dtype=torch.bool, device=device)
        state, logits = self.policy.start(prompt_ids, prompt_lengths, group, limit)
        step = 0
        for step in range(limit):
            tokens, token_logp = sample(logits, uniforms[step, rows], request.temperature)
            ids[step, rows], logp[step, rows] = tokens, token_logp
            ended = running & (tokens == self._end)
            lengths[rows[ended]] = step + 1
            running &= ~ended
            left = int(running.sum())
            if left == 0 or step + 1 == limit:
                break
            # Ended sequences are carried along until they are half of all: moving the cache costs more.
            if left <= len(rows) // 2:
                kept = running.nonzero()[:, 0]
                rows, tokens, running = rows[kept], tokens[kept], running[kept]
                state.keep(kept)
            logits = self.policy.advance(state, tokens)
        width = step + 1
        mask = torch.arange(width, device=device) < lengths[:, None]
        return ids[:width].T.contiguous(), mask, logp[:width].T.contiguous()


def sample(logits: Tensor, uniform: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """One token a row and its log-prob under softmax(logits / temperature); greedy at temperature 0.

    logits [B, V], uniform float64 [B] in [0, 1). The token is the inverse of the cumulative distribution,
    summed in float64, at `uniform`.
    """
    if temperature == 0:
        log_probs = torch.log_softmax(logits.float(), dim=-1)
        top = log_probs.max(dim=-1)
        return top.indices, top.values
    log_probs = torch.log_softmax(logits.float() / temperature, dim=-1)
    cumulative = log_probs.exp().cumsum(dim=-1, dtype=torch.float64)
    # Scaling by the total keeps the draw inside the support when rounding leaves the total below 1.
    tokens = torch.searchsorted(cumulative, (uniform * cumulative[:, -1])[:, None], right=True)
    return tokens[:, 0], log_probs.gather(-1, tokens)[:, 0]


def pad_prompts(prompts: Sequence[Sequence[int]], device: torch.device | str) -> tuple[Tensor, Tensor]:
    """Ragged prompts → int64 [G, P] padded on the right, and their lengths [G]."""
    rows = [torch.tensor(prompt, dtype=torch.long) for prompt in prompts]
    lengths = torch.tensor([len(row) for row in rows], device=device)
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(device), lengths
