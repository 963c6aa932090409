"""`mode=evaluate checkpoint=RUN`: which weights of a run are evaluated, and on what: as the run itself would have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from harness.config import Config
from harness.errors import UserError
from harness.groups import ModelConfig, RolloutConfig
from harness.models.checks import FOLDER, resolve_path
from harness.records.files import read_json
from harness.records.layout import CHECKPOINT, CHECKPOINTS, CONFIG, MANIFEST
from harness.records.limits import read_yaml
from harness.records.tail import validation_scores

OF_MODEL = ("dtype", "template", "system_prompt", "pad_token", "end_token", "attention")
OF_ROLLOUT = ("max_new_tokens", "max_prompt_tokens")


def inherit(config: Config, given: Sequence[str]) -> Config:
    """The config of an evaluation with its checkpoint found, and with what the run says where nothing else is said.

    The task with its parameters, model and prompt, and the lengths are those of the run.

    config: as composed.
    given: the words of the command line.
    Raises UserError for a checkpoint that is not there, or a run that cannot be read.
    """
    if config.mode != "evaluate" or not config.checkpoint:
        return config
    found = Path(resolve_path(config.checkpoint))
    if not found.is_dir() and (config.checkpoint.startswith((".", "/")) or config.checkpoint.count("/") != 1):
        raise UserError(
            f"checkpoint={config.checkpoint}: no such folder; expected a run folder, a checkpoint or {FOLDER}"
        )
    run = found if (found / MANIFEST).is_file() else found.parent.parent
    if not found.is_dir() or not (run / MANIFEST).is_file():
        return config  # a model folder or a hub name: nothing to inherit
    if found == run:
        number = chosen(run, config.checkpoint_at)
        config = replace(config, checkpoint=str(Path(config.checkpoint) / CHECKPOINTS / f"{number:06d}"))
    recorded, task = _recorded(run)
    typed = {word.lstrip("+").partition("=")[0] for word in given}
    model = _unsaid(
        config.model, ModelConfig, recorded["model"], OF_MODEL[1 if typed & {"model", "experiment"} else 0 :]
    )
    config = replace(config, model=model)
    if typed & {"task", "experiment"}:
        return config
    own = {name: value for name, value in config.task.items() if f"task.{name}" in typed}
    rollout = _unsaid(config.rollout, RolloutConfig, recorded["rollout"], OF_ROLLOUT)
    return replace(config, task=recorded["task"] | own, rollout=rollout, choices=config.choices | {"task": task})


def chosen(run: Path, which: Any) -> int:
    """The update of a run's checkpoint.

    run: its folder.
    which: best (on validation), last, or an update.
    Raises UserError, naming those there are, where it is not there.
    """
    there = sorted(int(path.name) for path in (run / CHECKPOINTS).glob("[0-9]*") if (path / CHECKPOINT).is_file())
    if not there:
        raise UserError(f"checkpoint={run}: a run without checkpoints; give another, or a model folder")
    number = {"last": there[-1], "best": best(run)}.get(which, which)
    if number not in there:
        raise UserError(
            f"checkpoint_at={which}: {run.name} has no checkpoint of update {number}; "
            f"it has {', '.join(map(str, there))}; expected best, last or one of them"
        )
    return int(number)


def best(run: Path) -> int | None:
    """The update of a run's best evaluation on validation, the base model's apart; None where there is none."""
    scores = {update: score for update, score in validation_scores(run).items() if update > 0}
    return max(scores, key=lambda update: scores[update], default=None)


def _recorded(run: Path) -> tuple[dict[str, Any], str]:
    """A run's configuration, and the name of its task."""
    try:
        recorded = read_yaml(run / CONFIG)
        task = str(read_json(run / MANIFEST)["task"])
        if not all(isinstance(recorded[group], dict) for group in ("task", "model", "rollout")):
            raise TypeError("no groups in it")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"checkpoint={run}: its {CONFIG} cannot be read ({type(error).__name__}); give a checkpoint's "
            "files in a folder of their own, and the task"
        ) from error
    return recorded, task


def _unsaid(config: Any, schema: Any, recorded: dict[str, Any], names: Sequence[str]) -> Any:
    """The dataclass with the recorded values of those keys that still have their default."""
    defaults = {one.name: one.default for one in fields(schema)}
    values = {name: recorded[name] for name in names if name in recorded}
    return replace(config, **{k: v for k, v in values.items() if k == "path" or getattr(config, k) == defaults[k]})
