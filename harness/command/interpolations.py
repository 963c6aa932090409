"""Which values of a configuration come from the environment, directly or through another key; and those of a run."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Set
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from harness.command.mistakes import about
from harness.config import Config
from harness.errors import UserError
from harness.schema import leaves

REFERENCE = re.compile(r"\$\{\s*(\.*)([\w.]*)\s*\}")

# What is left of a value without its plain references: a function, oc.env or one that may lead there (our own two do
# not), or a key written otherwise or put together.
MAY_READ_IT = re.compile(r"\$\{(?!\s*(?:modulo|home):)")


def from_environment(cfg: DictConfig) -> dict[str, Any]:
    """Dotted name → the value as it was written, of all that an environment variable decides, or may decide.

    cfg: composed configuration, not resolved.
    """
    tree: Any = OmegaConf.to_container(cfg, resolve=False)
    written = dict(leaves(tree))
    return {name: value for name, value in written.items() if _is_from_environment(name, written, frozenset())}


def _is_from_environment(name: str, written: dict[str, Any], above: Set[str]) -> bool:
    """above: names that lead here; a circle is OmegaConf's to refuse."""
    text = str(written[name])
    if MAY_READ_IT.search(REFERENCE.sub("", text)):
        return True
    targets = {_target(name, dots, path) for dots, path in REFERENCE.findall(text)}
    below = {key for key in written for target in targets if key == target or key.startswith(f"{target}.")}
    return any(_is_from_environment(key, written, above | {name}) for key in below - above - {name})


def _target(name: str, dots: str, path: str) -> str:
    """The key that a reference means; each dot before it is a step up from the key that holds it."""
    parts = name.split(".")
    return ".".join([*parts[: len(parts) - len(dots)], path]) if dots else path


def recorded_values(
    recorded: Mapping[str, Any], wanted: Callable[[str], bool], given: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Values of a run's configuration, in which those of the environment stand as they were written: ${oc.env:NAME}.

    recorded: of its file, nested.
    wanted: whether a dotted name, of a mapping or of a value, is.
    given: the word that names the run, "fork=RUN@8".
    Returns the wanted values, nested, as the environment is now; and dotted name → as it was written, of its own.
    Raises UserError, naming the key, where something that a value refers to is not there.
    """
    try:
        tree = OmegaConf.create(dict(recorded))
        values = _resolved(tree, wanted)
        written = from_environment(tree)
    except (OmegaConfBaseException, ValueError) as error:
        raise UserError(f"{given}: its configuration cannot be taken over: {about(error)}") from error
    return values, {name: written[name] for name, _ in leaves(values) if name in written}


def _resolved(node: DictConfig, wanted: Callable[[str], bool], prefix: str = "") -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key in node:
        name = str(key)
        if wanted(f"{prefix}{name}"):
            value = node[key]
            if isinstance(value, DictConfig):
                value = _resolved(value, wanted, f"{prefix}{name}.")
            values[name] = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_list(value) else value
    return values


def check_types(config: Config, given: str) -> None:
    """Raises UserError where a value that was taken over is none of its key."""
    values = {name: value for name, value in config.as_dict().items() if name != "choices"}
    try:
        OmegaConf.merge(OmegaConf.structured(Config), values)
    except OmegaConfBaseException as error:
        raise UserError(f"{given}: its configuration cannot be taken over: {about(error)}") from error
