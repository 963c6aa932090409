"""Checks that need the parts themselves: model, tokenizer, data; does the algorithm take these parameters?"""

from __future__ import annotations

from functools import lru_cache

from harness import build
from harness.config import Config
from harness.models.loading import load_tokenizer, longest_prompt
from harness.records.folder import check_folder
from harness.tasks.prepare import prepare
from harness.tasks.prompts import PromptEncoder


def parts(config: Config) -> None:
    """Raises UserError. Writes nothing. A dry run needs neither model nor data."""
    build.algorithm(config)
    build.task(config)
    build.staleness_policy(config).check(config)
    build.engine_class(config).check(config)
    build.check_driver(config)
    if not config.dry_run:
        _data(_Inputs(config))
    check_folder(config)


class _Inputs:
    """What the data checks of a config depend on; equal for most cells of a sweep, which then are checked once."""

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
def _data(inputs: _Inputs) -> None:
    config = inputs.config
    longest = longest_prompt(config)
    encode = PromptEncoder(load_tokenizer(config.served_model), config.model)
    prepare(config, build.task(config), encode, longest)
