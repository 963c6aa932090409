"""The words of a command line → typed configs, through Hydra: groups and their options, sweeps, errors in one line."""

from __future__ import annotations

import copy
import functools
import os
import re
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from harness import SETTINGS
from harness.command.arguments import MULTIRUN, as_meant, overrides_of, refuse_flags
from harness.command.interpolations import from_environment
from harness.command.mistakes import (
    ERRORS,
    about,
    explain,
    no_such_key,
    refuse_renamed,
    refuse_unknown_option,
    strangers,
)
from harness.command.permissions import HARMLESS, check_typed
from harness.command.targets import check_targets
from harness.config import Config, known_keys
from harness.errors import UserError, printable

CONF = SETTINGS / "conf"
VALUE = re.compile(r"(?!hydra)[\w.]+=")  # KEY=VALUE, without + or ~ in front, @ in it
NAMED_GROUPS = ("algo", "task", "model", "lag", "rollout")
# The class that one of these names is the schema of its keys: a parameter that no yaml file lists is one all the same,
# and what is none is refused by `build.check_parameters`.
OPEN = ("algo", "task", "lag", "rollout.options")
OmegaConf.register_new_resolver("home", os.path.expanduser, replace=True)  # of conf/config.yaml
# conf/model/carry_long.yaml: the seed chooses one of three base policies.
OmegaConf.register_new_resolver("modulo", lambda number, by: number % by, replace=True)


def _schema() -> DictConfig:
    """The base of conf/config.yaml: the yaml files say only what differs from the schema's defaults."""
    node: DictConfig = OmegaConf.structured(Config)
    for name in OPEN:
        OmegaConf.set_struct(OmegaConf.select(node, name), False)
    return node


ConfigStore.instance().store("config_schema", _schema())


def set_project_root() -> None:
    """conf/config.yaml finds sweeps/ through this, whatever folder the command is typed in."""
    os.environ["LAGRANGE_ROOT"] = str(SETTINGS)


def compose_cells(arguments: Sequence[str]) -> tuple[list[Config], list[list[str]], str, DictConfig]:
    """Every cell of a command line, not yet checked.

    Returns the configs, the overrides of each, the sweep's name ("" for a single run), and the settings of Hydra's
    launcher. Raises UserError.
    """
    arguments = as_meant(arguments)
    refuse_flags(arguments)
    given, multirun = overrides_of(arguments), any(a in MULTIRUN for a in arguments)
    set_project_root()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        lines, name = _expand(given, multirun)
        groups = frozenset(options(lines[0]))
        choices = [_choice(line, groups) for line in lines]
        composed = {choice: compose_one(list(choice), given) for choice in dict.fromkeys(choices)}
        launcher = composed[choices[0]].hydra.launcher
        for cfg in composed.values():
            forget_hydra(cfg)
        configs = [
            build_config(with_values(composed[choice], [word for word in line if word not in choice]))
            for line, choice in zip(lines, choices, strict=True)
        ]
        return configs, lines, name, launcher


def forget_hydra(cfg: DictConfig) -> None:
    """Leaves of Hydra's own settings only the chosen options: they are most of what would be copied for every cell."""
    with open_dict(cfg):
        cfg.hydra = {"runtime": {"choices": cfg.hydra.runtime.choices}}


def _choice(line: Sequence[str], groups: Collection[str]) -> tuple[str, ...]:
    """The words of a line that Hydra must compose anew: all but values of keys, which are set in a copy."""
    return tuple(word for word in line if not VALUE.match(word) or word.partition("=")[0] in {*groups, *HARMLESS})


def with_values(composed: DictConfig, words: list[str]) -> DictConfig:
    """A copy of a composed configuration with some of its values replaced. Raises UserError."""
    cfg = copy.deepcopy(composed)
    parsed = parse(words)
    for override in parsed:
        refuse_renamed(override)
    try:
        ConfigLoaderImpl._apply_overrides_to_config(parsed, cfg)
    except ERRORS as error:
        raise UserError(explain(parsed, options(words), error)) from error
    return cfg


def check_shown(arguments: Sequence[str]) -> None:
    """Raises UserError where a command line that only shows something would run code from outside, or is wrong."""
    refuse_flags(arguments)
    set_project_root()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        compose_one([word for word in overrides_of(arguments) if "=" in word])


def compose_one(overrides: list[str], given: Sequence[str] | None = None) -> DictConfig:
    """One composed configuration, with its `hydra` node.

    given: words of the command line; overrides of other keys come from a file. None: all are typed.
    Raises UserError.
    """
    parsed = parse(overrides)
    groups = options(overrides)
    for override in parsed:
        refuse_renamed(override)
        refuse_unknown_option(override, groups)
    try:
        cfg = compose("config", overrides=overrides, return_hydra_config=True)
        typed = {override.key_or_group for override in (parsed if given is None else parse(given))}
        check_typed(cfg, [override for override in parsed if override.key_or_group in typed])
        check_targets(cfg)
    except UserError:
        raise
    except ERRORS as error:
        raise UserError(explain(parsed, groups, error)) from error
    return cfg


def build_config(cfg: DictConfig) -> Config:
    """Composed configuration (with its `hydra` node, for the chosen options) → typed Config.

    Raises UserError for an unknown key or a missing value.
    """
    with open_dict(cfg):
        choices = cfg.pop("hydra").runtime.choices
    for name in strangers(cfg):
        raise UserError(no_such_key(name, known_keys()))
    _expand_home(cfg)
    try:
        made = OmegaConf.to_object(cfg)
    except OmegaConfBaseException as error:
        raise UserError(about(error)) from error
    assert isinstance(made, Config)
    made.interpolated = from_environment(cfg)
    made.choices = {group: str(choices[group]) for group in NAMED_GROUPS}
    return made


def _expand_home(node: DictConfig) -> None:
    """Replaces ~/ at the beginning of every value, in the groups too: Python, unlike a shell, makes a folder of it."""
    for name, value in node.items_ex(resolve=False):
        if isinstance(value, DictConfig) and not value._is_none() and not value._is_missing():
            _expand_home(value)
        elif isinstance(value, str) and value.startswith("~/"):
            node[name] = os.path.expanduser(value)


def config_of_job(cfg: DictConfig) -> Config:
    """The typed config inside a Hydra job, whose chosen options live beside `cfg`."""
    with open_dict(cfg):
        cfg.hydra = {"runtime": {"choices": HydraConfig.get().runtime.choices}}
    return build_config(cfg)


def words_of_job() -> list[str]:
    """The overrides of a Hydra job."""
    return list(HydraConfig.get().overrides.task)


def options(overrides: list[str]) -> dict[str, list[str]]:
    """Every config group with its options, those in folders below it with their path (experiment=paper/x)."""
    found: dict[str, list[str]] = {"experiment": [], "sweep": []}
    for root in search_path(overrides):
        for file in sorted(root.glob("*/**/*.yaml")):
            group, *rest = file.relative_to(root).with_suffix("").parts
            found.setdefault(group, []).append("/".join(rest))
    return found


def search_path(overrides: list[str]) -> list[Path]:
    """Folders that hold config groups: ours, and those of hydra.searchpath. Raises UserError for a missing one."""
    roots = [CONF, SETTINGS / "sweeps"]
    for override in parse(overrides):
        value = override.value()
        if override.key_or_group == "hydra.searchpath" and isinstance(value, list):
            roots += [_folder(str(path)) for path in value]
    return roots


def _folder(path: str) -> Path:
    """A folder of hydra.searchpath, for which Hydra has only a warning where it does not exist."""
    folder = Path(path.removeprefix("file://"))
    if "://" not in str(folder) and not path.startswith("pkg:") and not folder.is_dir():
        raise UserError(f"hydra.searchpath=[{path}]: no such folder; expected one that holds algo/, task/ or the like")
    return folder


# Sweeps --------------------------------------------------------------------------------------------------


def _expand(given: list[str], multirun: bool) -> tuple[list[list[str]], str]:
    """The overrides of all cells, and the sweep's name ("" for a single run)."""
    parsed = parse(given)
    _refuse_ambiguous(parsed)
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
    lines = BasicSweeper.split_arguments(parse([*params, *given]), None)[0]
    if not lines:
        raise UserError(f"{' '.join(given)}: names no cell; give each swept key at least one value that there is")
    chosen = [o.value() for o in parsed if o.key_or_group == "sweep"]
    name = str(chosen[0]).replace("/", "-") if chosen else "-".join(swept) or "multirun"
    return [list(line) for line in lines], re.sub(r"[^A-Za-z0-9_.-]", "-", name)


def _refuse_ambiguous(parsed: Sequence[Override]) -> None:
    """Raises UserError for what Hydra would answer with a traceback, or with only a part of what was asked."""
    given = Counter(override.key_or_group for override in parsed)
    for override in parsed:
        refuse_renamed(override)
        key, typed = override.key_or_group, str(override.input_line)
        if override.is_interval_sweep():
            raise UserError(f"{typed}: an interval has no values of its own; type {key}=0,64 or {key}=range(0,256,64)")
        if key in ("sweep", "experiment") and given[key] > 1:
            raise UserError(f"{key}: given {given[key]} times; give one {key} a command")
        if given[key] > 1 and key in options([]):
            words = [str(o.input_line).partition("=")[2] for o in parsed if o.key_or_group == key]
            raise UserError(f"{key}: given {given[key]} times; give one, or all of them: -m {key}={','.join(words)}")
        if key == "sweep" and override.is_sweep_override():
            raise UserError(f"{typed}: several sweeps; give one a command")


def parse(words: Sequence[str]) -> list[Override]:
    """The overrides of a command line. Raises UserError for a word that is none."""
    hydra = GlobalHydra.instance()
    loader = hydra.config_loader() if hydra.is_initialized() else None  # knows the options that a glob names
    return [copy.copy(_parse(word, loader)) for word in words]


@functools.lru_cache(maxsize=4096)
def _parse(word: str, loader: Any) -> Override:
    try:
        if word.startswith("="):
            raise HydraException
        return OverridesParser.create(loader).parse_overrides([word])[0]
    except HydraException as error:
        shown = printable(word.replace("\n", "�"))  # the answer is one line
        key, equals, value = shown.partition("=")
        if not equals or not key:
            raise UserError(f"{shown}: expected KEY=VALUE, for instance staleness=64") from error
        quoted = value.replace("'", "\\'")
        raise UserError(
            f"{key}={value}: the value cannot be read; put it in quotes that reach the program: \"{key}='{quoted}'\""
        ) from error
