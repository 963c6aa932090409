"""Which policy stands behind a `staleness` that is no number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.config import Config
from harness.lag.ages import Partial, read
from harness.lag.mixture import MixedLag
from harness.lag.partial import PartialLag


def policy(text: str, config: Config, further: Mapping[str, Any]) -> MixedLag | PartialLag:
    """The policy of a distribution.

    text: as `staleness` spells it.
    config: of the run.
    further: the other parameters of lag=exact.
    Raises UserError, in one line.
    """
    asked, unit, prompts = read(text), config.updates_per_step, config.rollout.prompts_per_step
    asked.check(unit)
    if isinstance(asked, Partial):
        return PartialLag(int(asked.age), unit, **further, spelt=asked, seed=config.seed)
    largest = int(asked.ascending(prompts, unit)[-1])
    return MixedLag(largest, unit, **further, ages=asked, prompts=prompts, seed=config.seed)
