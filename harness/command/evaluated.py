"""`mode=evaluate checkpoint=RUN`: which weights of a run are evaluated, and on what: as the run itself would have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from harness.command.interpolations import check_types, recorded_values
from harness.config import Config
from harness.errors import UserError
from harness.models.checks import FOLDER, resolve_path
from harness.records.files import read_json
from harness.records.layout import CHECKPOINT, CHECKPOINTS, CONFIG, MANIFEST
from harness.records.limits import read_yaml
from harness.records.tail import validation_scores

GROUPS = ("task", "model", "rollout")  # of which something is taken over
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
    typed = {word.lstrip("+").partition("=")[0] for word in given}
    return _as_recorded(config, *_recorded(run), typed, f"checkpoint={run}")


def _as_recorded(config: Config, recorded: dict[str, Any], task: str, typed: set[str], run: str) -> Config:
    """The config with what a run says. recorded, task: as _recorded's. typed: keys. run: the word that names it."""
    names = _unsaid(config.model, "model", OF_MODEL[1 if typed & {"model", "experiment"} else 0 :])
    if not typed & {"task", "experiment"}:
        names += _unsaid(config.rollout, "rollout", OF_ROLLOUT)
        own = {name: value for name, value in config.task.items() if f"task.{name}" in typed}
        config = replace(config, task=own, choices=config.choices | {"task": task})
        names += [f"task.{name}" for name in recorded["task"] if name not in own]
    values, written = recorded_values(recorded, lambda key: key in GROUPS or _is_below(key, names), run)
    taken = replace(
        config,
        model=replace(config.model, **values["model"]),
        rollout=replace(config.rollout, **values["rollout"]),
        task=values["task"] | config.task,
        interpolated=written | config.interpolated,
    )
    check_types(taken, run)
    return taken


def _is_below(key: str, names: Sequence[str]) -> bool:
    """Whether a key is one of those named, or in one."""
    return any(f"{key}.".startswith(f"{name}.") for name in names)


def chosen(run: Path, which: Any) -> int:
    """The update of a run's checkpoint.

    run: its folder.
    which: best (on validation), last, or an update.
    Raises UserError, naming those there are, where it is not there.
    """
    folders = [path for path in (run / CHECKPOINTS).glob("[0-9]*") if path.name.isdecimal()]
    there = sorted(int(path.name) for path in folders if (path / CHECKPOINT).is_file())
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
        if not all(isinstance(recorded[group], dict) for group in GROUPS):
            raise TypeError("no groups in it")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"checkpoint={run}: its {CONFIG} cannot be read ({type(error).__name__}); give a checkpoint's "
            "files in a folder of their own, and the task"
        ) from error
    return recorded, task


def _unsaid(node: Any, group: str, names: Sequence[str]) -> list[str]:
    """Those keys of a group that have their default. node: its dataclass."""
    defaults = {one.name: one.default for one in fields(node)}
    return [f"{group}.{name}" for name in names if getattr(node, name) == defaults[name]]
