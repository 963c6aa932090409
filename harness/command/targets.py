"""What may run for Hydra's own settings: its launchers and sweepers; callbacks and the like need allow_code."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, ListConfig
from omegaconf.errors import OmegaConfBaseException

from harness.errors import UserError

STOCK = {
    "hydra._internal.core_plugins.basic_launcher.BasicLauncher",
    "hydra._internal.core_plugins.basic_sweeper.BasicSweeper",
    "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher",
    "hydra_plugins.hydra_ray_launcher.ray_launcher.RayLauncher",
    "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher",
    "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher",
    "logging.StreamHandler",
    "logging.FileHandler",
    "colorlog.ColoredFormatter",
}
NAMES_CODE = ("_target_", "class", "()")  # the last two in the settings of logging


def check_targets(cfg: DictConfig) -> None:
    """Raises UserError for a class or function that the `hydra` node names, unless it is stock or of allow_code.

    cfg: composed configuration with its `hydra` node.
    """
    packages = [str(package) for package in cfg.get("allow_code") or ()]
    for key, name in _named(cfg.hydra, "hydra"):
        if name not in STOCK and not any(name == p or name.startswith(p + ".") for p in packages):
            raise UserError(f"{key}={name}: code from outside; to run it add allow_code=[{name.split('.')[0]}]")


def _named(node: Any, path: str) -> Iterator[tuple[str, str]]:
    """(key, dotted name) of all code that a node names at any depth, interpolations followed."""
    if not isinstance(node, DictConfig | ListConfig) or node._is_none() or node._is_missing():
        return
    names: list[Any] = list(node) if isinstance(node, DictConfig) else list(range(len(node)))
    for name in names:
        try:
            value = node[name]
        except OmegaConfBaseException:  # of what only a running job knows, or has no value: it can name no code
            continue
        if name in NAMES_CODE:
            yield f"{path}.{name}", str(value)
        else:
            yield from _named(value, f"{path}.{name}")
