"""What Hydra's own settings may do: name its launchers and sweepers. Callbacks and the like need allow_code.

A shared configuration file can hold them, so they may set no variable and write no file either.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from harness.command.slurm import TARGET as SLURM
from harness.errors import UserError

STOCK = {
    "hydra._internal.core_plugins.basic_launcher.BasicLauncher",
    "hydra._internal.core_plugins.basic_sweeper.BasicSweeper",
    "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher",
    "hydra_plugins.hydra_ray_launcher.ray_launcher.RayLauncher",
    "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher",
    "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher",
    SLURM,
    "logging.StreamHandler",
    "colorlog.ColoredFormatter",
}
STREAMS = ("ext://sys.stdout", "ext://sys.stderr")
IMPORTS = "ext://"  # in the settings of logging: what follows is imported
NAMES_CODE = ("_target_", "class", "()")  # the last two in the settings of logging


def check_targets(cfg: DictConfig) -> None:
    """Raises UserError for a class or function that the `hydra` node names, unless it is stock or of allow_code.

    cfg: composed configuration with its `hydra` node.
    """
    packages = [str(package) for package in cfg.get("allow_code") or ()]
    for key, name in _named(cfg.hydra, "hydra"):
        if name not in STOCK and not any(name == p or name.startswith(p + ".") for p in packages):
            package = name.removeprefix(IMPORTS).split(".")[0]
            raise UserError(f"{key}={name}: code from outside; to run it add allow_code=[{package}]")
    check_untouched(cfg.hydra)


def check_untouched(settings: DictConfig) -> None:
    """Raises UserError for settings by which Hydra would change the environment or write files of its own.

    settings: the `hydra` node.
    """
    for name in settings.job.env_set:
        raise UserError(
            f"hydra.job.env_set.{name}: the environment can name code to load; set {name} before run.py instead"
        )
    if settings.output_subdir is not None:
        raise UserError(
            f"hydra.output_subdir={settings.output_subdir}: Hydra would write the configuration there, passwords "
            "included; leave it out, the run folder has config.yaml"
        )


def _named(node: Any, path: str) -> Iterator[tuple[str, str]]:
    """(key, dotted name) of all code that a node names at any depth, interpolations followed.

    One that only a running job can resolve is yielded as it is written.
    """
    if not isinstance(node, DictConfig | ListConfig) or node._is_none() or node._is_missing():
        return
    names: list[Any] = list(node) if isinstance(node, DictConfig) else list(range(len(node)))
    for name in names:
        try:
            value = node[name]
        except OmegaConfBaseException:  # of what only a running job knows, or has no value
            value = OmegaConf.to_container(node, resolve=False)[name] if name in NAMES_CODE else None  # type: ignore[index]
        if name in NAMES_CODE or (str(value).startswith(IMPORTS) and value not in STREAMS):
            yield f"{path}.{name}", str(value)
        else:
            yield from _named(value, f"{path}.{name}")
