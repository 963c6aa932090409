"""`rollout=torch`: batched sampling of a transformers model with a key-value cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from harness import randomness
from harness.config import Config
from harness.models.loading import LoadedModel
from harness.models.policy import Policy
from harness.models.sequences import pad
from harness.rollout.base import BaseEngine
from harness.rollout.interface import StateDict, to_rollouts
from harness.rollout.mismatch import ROUNDINGS, RoundedPolicy, gaussian_noise
from harness.types import Request, Rollouts


class TorchEngine(BaseEngine):
    """Samples with the trainer's own policy. Its decoding passes and the trainer's scores are compared on every batch,
    or on the responses to its first prompt where nothing else uses the scores: they differ where a model computes a
    sequence otherwise than token by token.

    With rollout.mismatch it samples with one that differs by a known amount, and nothing is compared.
    """

    holds_weights = False
    probed = False
    emulates_mismatch = True
    continues = True

    def __init__(self, config: Config, trainer: LoadedModel, version: int = 0) -> None:
        super().__init__(config, trainer, version)
        mismatch = self.config.mismatch
        self._rounded = RoundedPolicy(trainer.policy, mismatch) if mismatch in ROUNDINGS else None
        self._sigma = self.config.mismatch_sigma if mismatch == "gaussian" else 0.0

    def take_weights(self, weights: StateDict) -> None:
        if self._rounded is not None:
            self._rounded.take(weights)

    def generate(self, request: Request) -> Rollouts:
        rollouts = super().generate(request)
        if request.temperature > 0 and self.config.mismatch == "none":
            self.compare(rollouts if self.scores(request) else self.first_scored(rollouts, request))
        return continued(rollouts, request)

    def first_scored(self, rollouts: Rollouts, request: Request) -> Rollouts:
        """The responses to the first prompt with the trainer's log-probs, where the batch goes without."""
        return self.scored(rollouts.prompts(0, 1), request.temperature)

    def sample(self, request: Request) -> Rollouts:
        policy = self.trainer.policy if self._rounded is None else self._rounded.policy
        return sampled(policy, self.end_tokens, request, self.version, self._sigma)


@torch.no_grad()
def sampled(
    policy: Policy, end_tokens: Sequence[int], request: Request, version: int = 0, sigma: float = 0.0
) -> Rollouts:
    """Sequences of `policy`, with the log-probs of the decoding passes.

    end_tokens: ids of the tokens that end a response.
    version: the label of the policy's weights.
    sigma: standard deviation of noise on the logits, nats.
    """
    # Around all steps, so that autocast casts the weights once and not at every step.
    with torch.autocast(policy.model.device.type, enabled=False):
        ids, lengths, logp = _decode(policy, end_tokens, request, sigma)
    mask = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
    return to_rollouts(request, ids[mask], lengths, logp[mask], version, end_tokens)


def _decode(policy: Policy, end_tokens: Sequence[int], request: Request, sigma: float) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids [B, T], response lengths [B] and log-probs [B, T], T = steps until every sequence has ended."""
    limit, device = request.max_new_tokens, policy.model.device
    prompt_ids, prompt_lengths = pad_prompts(request.prompts, device)
    group = torch.arange(len(request.prompts), device=device).repeat_interleave(request.samples)
    count = len(group)
    uniforms = torch.from_numpy(randomness.uniforms(request.keys.reshape(-1), limit).T.copy()).to(device)
    ids = torch.zeros(limit, count, dtype=torch.long, device=device)
    logp = torch.zeros(limit, count, device=device)
    lengths = torch.full((count,), limit, device=device)
    rows = torch.arange(count, device=device)  # the sequence in each row of the decoding state
    ends = torch.tensor(end_tokens, device=device)
    running = torch.ones(count, dtype=torch.bool, device=device)
    begun, kept = _begun(request, device)
    state, logits = policy.start(prompt_ids, prompt_lengths, group, limit)
    step = 0
    for step in range(limit):
        if sigma:
            logits = logits + gaussian_noise(request.keys.reshape(-1)[rows.cpu()], step, sigma, logits)
        tokens, token_logp = sample(logits, uniforms[step, rows], request.temperature, request.top_p)
        if begun is not None:
            tokens = tokens.where(step >= kept[rows], begun[step, rows])
            token_logp = torch.log_softmax(logits.float() / request.temperature, -1).gather(-1, tokens[:, None])[:, 0]
        ids[step, rows], logp[step, rows] = tokens, token_logp
        ended = running & torch.isin(tokens, ends)
        lengths[rows[ended]] = step + 1
        running &= ~ended
        left = int(running.sum())
        if left == 0 or step + 1 == limit:
            break
        # Ended sequences are carried along until they are half of all: moving the cache costs more.
        if left <= len(rows) // 2:
            going_on = running.nonzero()[:, 0]
            rows, tokens, running = rows[going_on], tokens[going_on], running[going_on]
            state.keep(going_on)
        logits = policy.advance(state, tokens)
    return ids[: step + 1].T, lengths, logp[: step + 1].T


def _begun(request: Request, device: torch.device | str) -> tuple[Tensor | None, Tensor]:
    """What has been begun: token ids [max_new_tokens, B], None for nothing, and how many of each response stay, [B]."""
    if request.begun is None:
        return None, torch.zeros(0)
    ids = pad(request.begun.response_ids, request.begun.response_lengths, request.max_new_tokens)
    return ids.T.long().to(device), kept_lengths(request).to(device)


def kept_lengths(request: Request) -> Tensor:
    """Tokens of each begun response that stay: as many as its cut, all where it had ended before. int64 [B]."""
    assert request.begun is not None and request.cuts is not None
    return torch.minimum(torch.from_numpy(request.cuts).reshape(-1), request.begun.response_lengths)


def continued(rollouts: Rollouts, request: Request) -> Rollouts:
    """The rollouts with the log-probs and versions that the kept tokens were sampled with; as they are if none were.

    rollouts: whole responses by a later version, which begin with the kept tokens.
    """
    if request.begun is None:
        return rollouts
    lengths, before, kept = (
        rollouts.response_lengths.long(),
        request.begun.response_lengths.long(),
        kept_lengths(request),
    )
    row = torch.arange(len(lengths)).repeat_interleave(lengths)
    position = torch.arange(len(row)) - (lengths.cumsum(0) - lengths)[row]
    old = position < kept[row]
    source = ((before.cumsum(0) - before)[row] + position)[old]
    merged = {}
    for name in ("logp_engine", "logp_behaviour", "version"):
        values = getattr(rollouts, name).clone()
        values[old] = getattr(request.begun, name)[source]
        merged[name] = values
    return replace(rollouts, **merged)


def sample(logits: Tensor, uniform: Tensor, temperature: float, top_p: float = 1.0) -> tuple[Tensor, Tensor]:
    """One token a row: the inverse of the cumulative distribution, summed in float64, at `uniform`.

    logits: [B, V].
    uniform: float64 [B] in [0, 1).
    temperature: of the softmax; greedy at 0.
    top_p: share of the distribution that is sampled from, the likeliest tokens first.
    Returns token ids int64 [B] and their log-probs [B] under softmax(logits / temperature).
    """
    if temperature == 0:
        log_probs = torch.log_softmax(logits.float(), dim=-1)
        top = log_probs.max(dim=-1)
        return top.indices, top.values
    log_probs = torch.log_softmax(logits.float() / temperature, dim=-1)
    probs = log_probs.exp() if top_p == 1 else nucleus(log_probs.exp(), top_p)
    cumulative = probs.cumsum(dim=-1, dtype=torch.float64)
    # Scaling by the total keeps the draw inside the support when rounding leaves the total below 1.
    tokens = torch.searchsorted(cumulative, (uniform * cumulative[:, -1])[:, None], right=True)
    return tokens[:, 0], log_probs.gather(-1, tokens)[:, 0]


def nucleus(probs: Tensor, top_p: float) -> Tensor:
    """The likeliest tokens that together reach a share, the others at 0 (Holtzman et al. 2020, arXiv 1904.09751).

    probs: [B, V]. top_p: share, in (0, 1].
    Returns [B, V], not normalised; the likeliest token always stays.
    """
    ordered, tokens = probs.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(dim=-1, dtype=torch.float64) - ordered
    return torch.zeros_like(probs).scatter(-1, tokens, ordered.where(before < top_p, 0))


def pad_prompts(prompts: Sequence[Sequence[int]], device: torch.device | str) -> tuple[Tensor, Tensor]:
    """Ragged prompts → int64 [G, P] padded on the right, and their lengths [G]."""
    rows = [torch.tensor(prompt, dtype=torch.long) for prompt in prompts]
    lengths = torch.tensor([len(row) for row in rows], device=device)
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(device), lengths
