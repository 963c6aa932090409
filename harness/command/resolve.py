"""Values that are null as typed, replaced before they become a run's identity: by what task and model declare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from harness import build
from harness.command.evaluated import inherit
from harness.config import Config
from harness.groups import ModelConfig
from harness.lag.ages import canonical
from harness.models.declared import declared, room_of

LENGTH = 1024  # of prompts and responses of a task that declares none, tokens
_seen: dict[str, tuple[ModelConfig, int | None]] = {}  # the cells of a sweep share a model, which takes 15 ms to ask


def resolve(config: Config, given: Sequence[str] = ()) -> Config:
    """The config with lengths of the task's, dtype and template of the model's, and a learning rate that suits it.

    An evaluation of a run takes the run's before that.

    config: as composed.
    given: the words of the command line that it was composed from.
    Raises UserError for a task or model that cannot be read.
    """
    config = inherit(config, given)
    task, rollout, (served, room) = build.task(config), config.rollout, _served(config)
    prompt, response = (getattr(task, name, LENGTH) for name in ("max_prompt_tokens", "max_new_tokens"))
    return replace(
        config,
        staleness=canonical(config.staleness),
        model=replace(config.model, dtype=served.dtype, template=served.template),
        rollout=replace(
            rollout,
            max_prompt_tokens=rollout.max_prompt_tokens or prompt,
            max_new_tokens=rollout.max_new_tokens or min(response, room or response),
        ),
        learner=replace(config.learner, lr=config.learner.lr or config.model.learning_rate),
    )


def _served(config: Config) -> tuple[ModelConfig, int | None]:
    """The model with what it declares, and the longest response that leaves as much to its prompt."""
    asked = repr((config.served_model, config.dry_run))
    if asked not in _seen:
        model, dry = config.served_model, config.dry_run
        _seen[asked] = declared(model, dry=dry), room_of(model, dry=dry)
    return _seen[asked]
