"""The words of a command line → typed configs, through Hydra: groups and their options, sweeps, errors in one line."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from harness import PROJECT
from harness.command.interpolations import from_environment
from harness.command.targets import check_targets
from harness.config import Config, known_keys, schema
from harness.errors import UserError, first_line, nearest

CONF = PROJECT / "conf"
MULTIRUN = ("-m", "--multirun")
SHOW_ONLY = ("--hydra-help", "--version", "--cfg", "-c", "--info", "-i", "--shell-completion", "-sc")
FLAGS = (*MULTIRUN, *SHOW_ONLY, "--run", "-r", "--resolve", "--package", "-p")

# 0.1.0's name of a key → its name now.
RENAMED = {
    "core": "driver",
    "on_excess": "lag.on_excess",
    "schedule": "lag.schedule",
    "max_versions": "lag.max_versions",
    "rollout.engine": "rollout",
    "rollout.shards": "rollout.chunks",
    "rollout.vllm.probe_tolerance": "rollout.probe_tolerance",
    "ray.shard_timeout_s": "ray.chunk_timeout_s",
}
NAMED_GROUPS = ("algo", "task", "model", "lag", "rollout")
# Hydra asserts where a yaml file or a sweeper's own key has the wrong shape.
ERRORS = (HydraException, OmegaConfBaseException, ValueError, AssertionError, yaml.YAMLError)
# What OmegaConf says → what it means for the key {}.
MESSAGES = {
    "mandatory value": "{0}: has no value; give {0}=VALUE",
    "is not Optional": "{0}=null: expected a value",
    "Cannot assign str to Dict": "{0}: is a group; choose its option under defaults (- override /{0}: OPTION)",
    "does not support deletion": "{0}: cannot be taken out; give it another value",
}

# The base of conf/config.yaml: the yaml files say only what differs from the schema's defaults.
ConfigStore.instance().store("config_schema", Config)
# conf/model/carry_long.yaml: the seed chooses one of three base policies.
OmegaConf.register_new_resolver("modulo", lambda number, by: number % by, replace=True)


def set_project_root() -> None:
    """conf/config.yaml finds sweeps/ through this, whatever folder the command is typed in."""
    os.environ["LAGRANGE_ROOT"] = str(PROJECT)


def compose_cells(arguments: Sequence[str]) -> tuple[list[Config], list[list[str]], str, DictConfig]:
    """Every cell of a command line, not yet checked.

    Returns the configs, the overrides of each, the sweep's name ("" for a single run), and the settings of Hydra's
    launcher. Raises UserError.
    """
    refuse_flags(arguments)
    given, multirun = overrides_of(arguments), any(a in MULTIRUN for a in arguments)
    set_project_root()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        lines, name = _expand(given, multirun)
        composed = [compose_one(line) for line in lines]
        launcher = composed[0].hydra.launcher
        return [build_config(cfg) for cfg in composed], lines, name, launcher


def check_shown(arguments: Sequence[str]) -> None:
    """Raises UserError where a command line that only shows something would run code from outside, or is wrong."""
    refuse_flags(arguments)
    set_project_root()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        compose_one([word for word in overrides_of(arguments) if "=" in word])


def overrides_of(arguments: Sequence[str]) -> list[str]:
    """The arguments that are no flags."""
    return [argument for argument in arguments if not argument.startswith("-")]


def compose_one(overrides: list[str]) -> DictConfig:
    """One composed configuration, with its `hydra` node. Raises UserError."""
    parsed = OverridesParser.create().parse_overrides(overrides)
    groups = options(overrides)
    for override in parsed:
        _refuse_renamed(override)
        _refuse_unknown_option(override, groups)
    try:
        cfg = compose("config", overrides=overrides, return_hydra_config=True)
    except ERRORS as error:
        raise UserError(_explain(parsed, groups, error)) from error
    check_targets(cfg)
    return cfg


def build_config(cfg: DictConfig) -> Config:
    """Composed configuration (with its `hydra` node, for the chosen options) → typed Config.

    Raises UserError for an unknown key or a missing value.
    """
    with open_dict(cfg):
        choices = cfg.pop("hydra").runtime.choices
    for name in _strangers(cfg):
        raise UserError(_no_such_key(name, known_keys()))
    try:
        made = OmegaConf.to_object(cfg)
    except OmegaConfBaseException as error:
        raise UserError(_about(error)) from error
    assert isinstance(made, Config)
    made.interpolated = from_environment(cfg)
    made.choices = {group: str(choices[group]) for group in NAMED_GROUPS}
    return made


def config_of_job(cfg: DictConfig) -> Config:
    """The typed config inside a Hydra job, whose chosen options live beside `cfg`."""
    with open_dict(cfg):
        cfg.hydra = {"runtime": {"choices": HydraConfig.get().runtime.choices}}
    return build_config(cfg)


def options(overrides: list[str]) -> dict[str, list[str]]:
    """Every config group with its options, those in folders below it with their path (experiment=paper/x)."""
    found: dict[str, list[str]] = {"experiment": [], "sweep": []}
    for root in search_path(overrides):
        for file in sorted(root.glob("*/**/*.yaml")):
            group, *rest = file.relative_to(root).with_suffix("").parts
            found.setdefault(group, []).append("/".join(rest))
    return found


def search_path(overrides: list[str]) -> list[Path]:
    """Folders that hold config groups: ours, and those of hydra.searchpath."""
    roots = [CONF, PROJECT / "sweeps"]
    for override in OverridesParser.create().parse_overrides(overrides):
        value = override.value()
        if override.key_or_group == "hydra.searchpath" and isinstance(value, list):
            roots += [Path(str(path).removeprefix("file://")) for path in value]
    return roots


# Sweeps --------------------------------------------------------------------------------------------------


def _expand(given: list[str], multirun: bool) -> tuple[list[list[str]], str]:
    """The overrides of all cells, and the sweep's name ("" for a single run)."""
    parser = OverridesParser.create()
    try:
        parsed = parser.parse_overrides(given)
    except HydraException as error:
        raise UserError(
            f"{first_line(error)}; expected KEY=VALUE, in quotes where the value has special characters"
        ) from error
    for override in parsed:
        _refuse_renamed(override)
    scalar = [str(o.input_line) for o in parsed if not o.is_sweep_override()]
    swept = [o.get_key_element().lstrip("+~") for o in parsed if o.is_sweep_override()]
    base = compose_one(scalar)
    if not multirun and "MULTIRUN" not in str(base.hydra.mode):
        if swept:
            raise UserError(f"{swept[0]} has several values; add -m to run them all")
        return [given], ""
    params = [f"{key}={value}" for key, value in (base.hydra.sweeper.get("params") or {}).items()]
    mine = {o.get_key_element().lstrip("+~") for o in parsed}
    params = [p for p in params if p.split("=")[0] not in mine]
    batches = BasicSweeper.split_arguments(parser.parse_overrides([*params, *given]), None)
    chosen = [o.value() for o in parsed if o.key_or_group == "sweep"]
    name = str(chosen[0]).replace("/", "-") if chosen else "-".join(swept) or "multirun"
    return [list(line) for line in batches[0]], re.sub(r"[^A-Za-z0-9_.-]", "-", name)


# Errors --------------------------------------------------------------------------------------------------


def refuse_flags(arguments: Sequence[str]) -> None:
    """Raises UserError for flags by which Hydra would run another configuration than the one that was checked."""
    for flag in (argument.partition("=")[0] for argument in arguments):
        if flag.startswith("-") and flag not in FLAGS:
            raise UserError(f"{flag}: no such flag here; a folder of configurations goes in hydra.searchpath=[PATH]")


def _refuse_renamed(override: Override) -> None:
    """Raises UserError for a name of 0.1.0's, with what to type instead."""
    old = override.key_or_group
    if old in RENAMED:
        value = str(override.input_line).partition("=")[2]
        raise UserError(f"{old}: is now {RENAMED[old]}; type {RENAMED[old]}={value or 'VALUE'}")


def _refuse_unknown_option(override: Override, groups: dict[str, list[str]]) -> None:
    """Raises UserError for GROUP=OPTION without such an option (Hydra is silent about optional groups)."""
    key, value = override.key_or_group, override.value()
    if key in groups and value is not None and not isinstance(value, list) and value not in groups[key]:
        raise UserError(f"{key}={value}: no such option; {nearest(str(value), groups[key])}")


def _explain(parsed: list[Override], groups: dict[str, list[str]], error: Exception) -> str:
    """Finds the key that Hydra stumbled over, in the command or in a yaml file, and names what it may have meant."""
    chosen = [str(o.input_line) for o in parsed if o.key_or_group in {*groups, "hydra.searchpath"}]
    try:
        names = {*_names(compose("config", overrides=chosen)), *known_keys(), *groups}
    except ERRORS as deeper:  # a yaml file's own mistake
        return _about(deeper)
    for override in parsed:
        key = override.key_or_group
        if key not in names and not key.startswith("hydra"):
            return _no_such_key(key, names)
    return _about(error)


def _about(error: BaseException) -> str:
    """One line for an error of Hydra's or OmegaConf's, whose message is meant for programmers."""
    if isinstance(error, yaml.YAMLError):
        return " ".join(str(error).split())
    behind = error.__cause__ or error.__context__
    cause = behind if isinstance(behind, OmegaConfBaseException) else error
    key, message = str(getattr(cause, "full_key", None) or ""), first_line(cause)
    if not key:
        return message
    if "not in" in message:
        return _no_such_key(key, known_keys())
    for words, line in MESSAGES.items():
        if words in message:
            return line.format(key)
    return f"{key}: {message[0].lower()}{message[1:]}"


def _no_such_key(key: str, names: Collection[str]) -> str:
    if key in RENAMED:
        new = RENAMED[key]
        where = (
            "that in the yaml file" if new in schema() or "." in new else f"- override /{new}: OPTION under defaults"
        )
        return f"{key}: is now {new}; write {where}"
    group, dot, _ = key.partition(".")
    below = [name for name in names if name.startswith(group + ".") and not name.endswith("_target_")]
    if dot and below:
        return f"{key}: no such key; {nearest(key, below)}"
    same = sorted(name for name in names if name.rpartition(".")[2] == key)
    if same:
        return f"{key}: no such key; did you mean {' or '.join(same)}?"
    hint = nearest(key, names)
    return f"{key}: no such key; {hint if hint.startswith('did') else nearest(key, [n for n in names if '.' not in n])}"


def _strangers(node: DictConfig, prefix: str = "") -> Iterator[str]:
    """Keys that an override with + has added where the schema has none."""
    for name in map(str, node):
        path, value = f"{prefix}{name}", node._get_node(name)
        if path not in known_keys():
            yield path
        elif path not in schema() and isinstance(value, DictConfig):
            yield from _strangers(value, f"{path}.")


def _names(cfg: Any, prefix: str = "") -> Iterator[str]:
    for key in map(str, cfg):
        yield f"{prefix}{key}"
        node = cfg._get_node(key)
        if isinstance(node, DictConfig) and not node._is_none() and not node._is_missing():
            yield from _names(node, f"{prefix}{key}.")
