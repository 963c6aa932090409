"""`fork=RUN@UPDATE`: what is not typed is as in the run that is forked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

from harness.command import dependencies
from harness.command.interpolations import check_types, recorded_values
from harness.config import Config, role_of
from harness.errors import UserError
from harness.records import parent
from harness.records.files import read_json
from harness.records.layout import MANIFEST

OWN = ("fork", "mode", "checkpoint")  # of every run


def inherit(config: Config, given: Sequence[str]) -> Config:
    """The config with every value of the forked run's whose key, or group, is not typed; driver and place stay.

    config: as composed.
    given: the words of the command line.
    Raises UserError.
    """
    if not config.fork:
        return config
    typed = {word.lstrip("+").partition("=")[0] for word in given}
    for whole in sorted(typed & {"experiment", "sweep"}):
        raise UserError(
            f"fork={config.fork} with {whole}=: a fork takes over the run's settings; type the keys that change"
        )
    run = f"fork={config.fork}"
    before, written = recorded_values(
        parent.recorded(config.fork),
        lambda key: key not in {*typed, *OWN} and role_of(key) in ("science", "record"),
        run,
    )
    if not isinstance(before.get("choices", {}), dict):
        raise UserError(f"{run}: its configuration cannot be taken over: choices is no mapping")
    choices = {group: str(name) for group, name in before.get("choices", {}).items() if group not in typed}
    taken: Config = replace(
        _taken(config, before, typed, run), choices=config.choices | choices, forked=parent.identity(config.fork)
    )
    check_types(taken, run)
    if typed & {"model", "model.path"}:
        _check_model(taken)
    return replace(taken, interpolated=written | config.interpolated)


def _check_model(config: Config) -> None:
    """Raises UserError where the model that is typed is another one than the parent's, whose weights the fork has.

    A model that has moved is the same one. Where the parent does not say what its model was, nothing is known.
    """
    run, _ = parent.place(str(config.fork))
    before, now = (
        {value for name, value in found.items() if name.startswith("model ")}
        for found in (dependencies.recorded(read_json(run / MANIFEST)), dependencies.dependencies(config))
    )
    if before and now and not before & now:
        raise UserError(
            f"fork={config.fork} with model.path={config.model.path}: another model than the run's that is forked, "
            "whose weights a fork starts from; leave the model out, or train it without fork"
        )


def _taken(node: Any, before: Mapping[str, Any], typed: set[str], run: str, prefix: str = "") -> Any:
    """A dataclass of the configuration with the values of `before`.

    run: the word that names the run. prefix: of the dataclass's keys.
    """
    values: dict[str, Any] = {}
    for one in fields(node):
        name, value = prefix + one.name, getattr(node, one.name)
        if one.name not in before or one.name == "choices":
            continue
        recorded = before[one.name]
        if (isinstance(value, dict) or is_dataclass(value)) and not isinstance(recorded, dict):
            raise UserError(f"{run}: its configuration cannot be taken over: {name} is no mapping")
        if is_dataclass(value):
            recorded = _taken(value, recorded, typed, run, f"{name}.")
        elif isinstance(value, dict):  # algo, task, lag: their parameters may be typed one by one
            recorded |= {k: v for k, v in value.items() if f"{name}.{k}" in typed}
        values[one.name] = recorded
    return replace(node, **values)
