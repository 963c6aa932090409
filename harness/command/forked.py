"""`fork=RUN@UPDATE`: what is not typed is as in the run that is forked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from harness.command.interpolations import from_environment
from harness.command.mistakes import about
from harness.config import Config, role_of
from harness.errors import UserError
from harness.records import parent
from harness.schema import leaves

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
    held = parent.recorded(config.fork)
    held.pop("tracking", None)  # of which nothing is taken over
    tree = OmegaConf.create(held)  # what the environment says is recorded as ${oc.env:NAME}
    try:
        before: Any = OmegaConf.to_container(tree, resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(f"fork={config.fork}: {about(error)}") from error
    choices = {group: name for group, name in before.get("choices", {}).items() if group not in typed}
    taken: Config = replace(
        _taken(config, before, typed), choices=config.choices | choices, forked=parent.identity(config.fork)
    )
    old, new = dict(leaves(before)), taken.flat()
    written = {name: text for name, text in from_environment(tree).items() if new.get(name) == old[name]}
    return replace(taken, interpolated=written | config.interpolated)


def _taken(node: Any, before: Mapping[str, Any], typed: set[str], prefix: str = "") -> Any:
    """A dataclass of the configuration with the values of `before`. prefix: of its keys."""
    values: dict[str, Any] = {}
    for one in fields(node):
        name, value = prefix + one.name, getattr(node, one.name)
        if name in typed or one.name not in before or name in OWN:
            continue
        if is_dataclass(value):
            values[one.name] = _taken(value, before[one.name], typed, f"{name}.")
        elif "key" in one.metadata and role_of(name) in ("science", "record"):
            values[one.name] = before[one.name]
            if isinstance(value, dict):  # algo, task, lag: their parameters may be typed one by one
                values[one.name] = before[one.name] | {k: v for k, v in value.items() if f"{name}.{k}" in typed}
    return replace(node, **values)
