"""Samples with transformers' own forward, every sequence computed anew for each token."""

import copy
from typing import Any

import torch
from torch import Tensor

from harness.rollout.base import BaseEngine
from harness.rollout.interface import StateDict, to_rollouts
from harness.types import Request, Rollouts


class PlainEngine(BaseEngine):
    def __init__(self, config: Any, trainer: Any, version: int = 0, *, takes_weights: bool = True) -> None:
        super().__init__(config, trainer, version)
        self._model = copy.deepcopy(trainer.module)
        self._takes_weights = takes_weights

    def take_weights(self, weights: StateDict) -> None:
        if self._takes_weights:
            self._model.load_state_dict(weights)

    def sample(self, request: Request) -> Rollouts:
        pairs = zip(request.prompts, request.keys.tolist(), strict=True)
        samples = [self._sample(prompt, key, request) for prompt, keys in pairs for key in keys]
        ids, logp = ([sample[i] for sample in samples] for i in range(2))
        lengths = torch.tensor([len(tokens) for tokens in ids])
        return to_rollouts(request, torch.cat(ids), lengths, torch.cat(logp), self.version, self.end_tokens)

    def _sample(self, prompt: Any, key: int, request: Request) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(key & (2**63 - 1))
        tokens, logp = list(prompt), []
        while len(logp) < request.max_new_tokens and (not logp or tokens[-1] not in self.end_tokens):
            logits = self._model(torch.tensor([tokens])).logits[0, -1]
            log_probs = torch.log_softmax(logits / (request.temperature or 1.0), dim=-1)
            drawn = torch.multinomial(log_probs.exp(), 1, generator=generator)
            tokens.append(int(drawn if request.temperature else log_probs.argmax()))
            logp.append(log_probs[tokens[-1]])
        return torch.tensor(tokens[len(prompt) :]), torch.stack(logp)
