"""Values that are null as typed, replaced before they become a run's identity: by what task and model declare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from harness import build
from harness.command.evaluated import inherit
from harness.config import Config, ModelConfig
from harness.models.declared import declared

_seen: dict[str, ModelConfig] = {}  # the cells of a sweep share a model, which takes 15 ms to ask
LENGTHS = {"max_new_tokens": 1024, "max_prompt_tokens": 1024}  # of a task that declares none


def resolve(config: Config, given: Sequence[str] = ()) -> Config:
    """The config with lengths of the task's, dtype and template of the model's, and a learning rate that suits it.

    An evaluation of a run takes the run's before that.

    config: as composed.
    given: the words of the command line that it was composed from.
    Raises UserError for a task or model that cannot be read.
    """
    config = inherit(config, given)
    task = build.task(config)
    lengths = {name: getattr(config.rollout, name) or getattr(task, name, most) for name, most in LENGTHS.items()}
    asked = repr((config.served_model, config.dry_run))
    if asked not in _seen:
        _seen[asked] = declared(config.served_model, dry=config.dry_run)
    served = _seen[asked]
    return replace(
        config,
        model=replace(config.model, dtype=served.dtype, template=served.template),
        rollout=replace(config.rollout, **lengths),
        learner=replace(config.learner, lr=config.learner.lr or config.model.learning_rate),
    )
