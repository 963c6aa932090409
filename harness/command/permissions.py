"""Leave to run code counts where it is typed. In a configuration file it may be another person's.

That is: packages that may be imported, answers graded outside the sandbox, a Ray cluster (what it answers is unpickled
here), and a launcher's shell commands.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import yaml
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from harness.errors import UserError, printable

HARMLESS: dict[str, Callable[[Any], bool]] = {
    "allow_code": lambda packages: not packages,
    "sandbox": lambda state: state != "off",
    "ray.address": lambda address: address in (None, "auto", "local"),
}
LAUNCHER = "hydra.launcher"


def check_typed(cfg: DictConfig, typed: Sequence[Override]) -> None:
    """Raises UserError for leave to run code that a file gives.

    cfg: composed configuration with its `hydra` node.
    typed: overrides of the command line, each with one value.
    """
    words = _by_themselves(typed)
    for key, value in _given(cfg):
        if _value(words, key) != value:
            word = shlex.quote(f"{key}={_as_typed(value)}".replace("\n", "�"))
            raise UserError(
                f"{printable(key)}: set by a file, and leave to run code counts only where it is typed; "
                f"if you trust that file add {printable(word)}"
            )


def _given(cfg: DictConfig) -> Iterator[tuple[str, Any]]:
    """(key, value) of all leave to run code in a configuration."""
    for key, harmless in HARMLESS.items():
        value = OmegaConf.to_object(cfg.allow_code) if key == "allow_code" else OmegaConf.select(cfg, key)
        if not harmless(value):
            yield key, value
    for key, value in _leaves(cfg.hydra.launcher, LAUNCHER):
        nested = key.count(".") > LAUNCHER.count(".") + 1
        if nested or isinstance(value, list) or len(str(value).splitlines()) > 1:  # no single word of sbatch's
            yield key, value


def _leaves(node: DictConfig, path: str) -> Iterator[tuple[str, Any]]:
    """(key, value) of all that a launcher is given, lists whole; as written where only a job can resolve it."""
    for name in map(str, node):
        try:
            value = node[name]
        except OmegaConfBaseException:
            written: Any = OmegaConf.to_container(node, resolve=False)
            value = written[name]
        if isinstance(value, DictConfig):
            yield from _leaves(value, f"{path}.{name}")
        elif value is not None:
            yield f"{path}.{name}", OmegaConf.to_container(value, resolve=True) if OmegaConf.is_list(value) else value


def _by_themselves(typed: Sequence[Override]) -> DictConfig:
    """What the words of a command line say without any file."""
    words = OmegaConf.create({})
    for override in typed:
        if not override.is_delete():
            OmegaConf.update(words, override.key_or_group, override.value(), force_add=True)
    return words


def _value(cfg: DictConfig, key: str) -> Any:
    """What a key is said to be, without interpolations; None where nothing is, or a file is referred to."""
    try:
        value = OmegaConf.select(cfg, key)
        return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    except OmegaConfBaseException:
        return None


def _as_typed(value: Any) -> str:
    return value if isinstance(value, str) else yaml.safe_dump(value, default_flow_style=True, width=10**6).strip()
