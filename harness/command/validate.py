"""Checks that need the model's tokenizer and the data: can they be read, and do the prompts fit?"""

from __future__ import annotations

from functools import lru_cache

from harness import build
from harness.config import Config
from harness.models.checks import check_model
from harness.models.loading import longest_prompt
from harness.models.tokens import check_readable, check_vocabulary, load_tokenizer
from harness.tasks.prepare import prepare
from harness.tasks.prompts import PromptEncoder

READ = 8  # prompts that the tokenizer must be able to say


def check_data(config: Config) -> None:
    """Raises UserError for a tokenizer or data that the run could not use. Equal inputs are checked once."""
    _check(_Inputs(config))


class _Inputs:
    """What the checks of the data depend on; equal for most cells of a sweep."""

    def __init__(self, config: Config) -> None:
        self.config = config
        rollout = config.rollout
        self._key = repr(
            (config.task, config.served_model, rollout.max_prompt_tokens, rollout.max_new_tokens, config.eval)
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Inputs) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


@lru_cache(maxsize=64)
def _check(inputs: _Inputs) -> None:
    config = inputs.config
    # First the model: it is best said what is wrong with its folder. Then whether it can say this task's prompts.
    architecture, tokenizer = check_model(config.served_model), load_tokenizer(config.served_model)
    check_vocabulary(config.served_model, architecture, tokenizer)
    task = build.task(config)
    first = [problem.prompt for problem in task.train(config.seed, range(READ))]
    check_readable(config.served_model, tokenizer, first)
    prepare(config, task, PromptEncoder(tokenizer, config.model), longest_prompt(config))
