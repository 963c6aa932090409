"""The front door: every cell of a command composed and checked before the first one starts.

`plan` turns the command line into validated cells, or raises UserError with one line. It writes nothing.
"""

from __future__ import annotations

import hashlib
import os
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from harness import PROJECT
from harness.config import Config, check, known_keys
from harness.errors import UserError, first_line, nearest

CONF = PROJECT / "conf"
NAMED_GROUPS = ("algo", "task", "model", "lag", "rollout")
HELP = """How stale may rollouts be? One run, or a sweep with -m.

  python run.py algo=m2po staleness=64 seed=1 updates=400     one run
  python run.py -m algo=grpo,m2po staleness=0,64,256          a sweep
  python run.py sweep=staleness hydra/launcher=joblib         a named sweep, as many runs at once as cores
  python run.py --cfg job algo=m2po                           the whole configuration

== Groups and their options (GROUP=OPTION) ==
{groups}

== Keys (KEY=VALUE) ==
{keys}"""


@dataclass(frozen=True)
class Plan:
    """cells: what will run, in order · overrides: of each cell · name: of the sweep, "" for a single run ·
    parallel: the launcher starts other processes."""

    cells: list[Config]
    overrides: list[list[str]]
    name: str
    parallel: bool = False

    @property
    def is_sweep(self) -> bool:
        return bool(self.name)

    @property
    def sweep_folder(self) -> Path:
        """Where sweep.json, figures, table and report go: a function of the cells."""
        digest = hashlib.sha256("".join(cell.sha256() for cell in self.cells).encode()).hexdigest()
        return Path(self.cells[0].runs_dir) / "sweeps" / f"{self.name}-{digest[:10]}"


def set_project_root() -> None:
    """conf/config.yaml finds sweeps/ through this, whatever folder the command is typed in."""
    os.environ["LAGRANGE_ROOT"] = str(PROJECT)


def plan(arguments: Sequence[str]) -> Plan:
    """Raises UserError for anything wrong with any cell."""
    from harness.command import validate

    set_project_root()
    multirun = any(argument in ("-m", "--multirun") for argument in arguments)
    given = [argument for argument in arguments if not argument.startswith("-")]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        lines, name = _expand(given, multirun)
        composed = [_compose(line) for line in lines]
        parallel = bool(name) and "BasicLauncher" not in str(composed[0].hydra.launcher._target_)
        cells = [build_config(cfg) for cfg in composed]
    for cell in cells:
        check(cell)
        validate.parts(cell)
    repeated = {cell.folder for cell in cells}
    if len(repeated) < len(cells):
        raise UserError(f"{len(cells)} cells name only {len(repeated)} different runs; drop the repeated values")
    return Plan(cells, lines, name, parallel)


def help_text(arguments: Sequence[str]) -> str:
    """What there is to choose, and every key with its value. Hydra's own help copies all it knows for each group.

    Raises UserError for an override that does not fit.
    """
    given = [argument for argument in arguments if not argument.startswith("-")]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = _compose(given)
    with open_dict(cfg):
        del cfg.hydra
    groups = "\n".join(
        textwrap.fill(f"{group}: {', '.join(options)}", 112, subsequent_indent=" " * (len(group) + 2))
        for group, options in sorted(_options(given).items())
    )
    return HELP.format(groups=groups, keys=OmegaConf.to_yaml(cfg))


def build_config(cfg: DictConfig) -> Config:
    """Composed Hydra config (with its `hydra` node, for the chosen options) → typed Config.

    Raises UserError for a wrong type, an unknown key or a missing value.
    """
    choices = OmegaConf.to_container(cfg.hydra.runtime.choices) if "hydra" in cfg else {}
    assert isinstance(choices, dict)
    plain = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(plain, dict)
    plain.pop("hydra", None)
    plain["choices"] = {group: str(choices[group]) for group in NAMED_GROUPS if group in choices}
    try:
        typed = OmegaConf.merge(OmegaConf.structured(Config), plain)
        made = OmegaConf.to_object(typed)
    except OmegaConfBaseException as error:
        raise UserError(_one_line(error, dict(plain))) from error
    assert isinstance(made, Config)
    return made


def config_of_job(cfg: DictConfig) -> Config:
    """The typed config inside a Hydra job, whose chosen options live beside `cfg`."""
    with open_dict(cfg):
        cfg.hydra = {"runtime": {"choices": HydraConfig.get().runtime.choices}}
    return build_config(cfg)


def _expand(given: list[str], multirun: bool) -> tuple[list[list[str]], str]:
    """The override lines of all cells, and the sweep's name ("" for a single run)."""
    parser = OverridesParser.create()
    try:
        parsed = parser.parse_overrides(given)
    except HydraException as error:
        raise UserError(
            f"{first_line(error)}; expected KEY=VALUE, in quotes where the value has special characters"
        ) from error
    scalar = [str(o.input_line) for o in parsed if not o.is_sweep_override()]
    swept = [o.get_key_element().lstrip("+~") for o in parsed if o.is_sweep_override()]
    base = _compose(scalar)
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


def _compose(overrides: list[str]) -> DictConfig:
    _refuse_unknown_options(overrides)
    try:
        return compose("config", overrides=overrides, return_hydra_config=True)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise UserError(_explain(overrides, error)) from error


def _explain(overrides: list[str], error: Exception) -> str:
    """Finds the override that Hydra stumbled over and names what it may have meant."""
    options = _options(overrides)
    _refuse_unknown_options(overrides)
    parsed = OverridesParser.create().parse_overrides(overrides)
    groups = {*options, "hydra.searchpath"}  # a group's own yaml may lie on the search path
    sound = [str(override.input_line) for override in parsed if override.key_or_group in groups]
    keys = _flat(compose("config", overrides=sound)) if sound else known_keys()
    known = {*keys, *known_keys(), *options}
    for override in parsed:
        key = override.key_or_group
        if key not in known and not key.startswith("hydra"):
            own = [k for k in known if k.startswith(key.split(".")[0] + ".") and not k.endswith("_target_")]
            own = own if "." in key else list(known)
            return f"{key}: no such key; {nearest(key, own or known)}"
    return first_line(error)


def _refuse_unknown_options(overrides: list[str]) -> None:
    """Raises UserError for GROUP=OPTION without such an option (Hydra is silent about optional groups)."""
    options = _options(overrides)
    for override in OverridesParser.create().parse_overrides(overrides):
        key, value = override.key_or_group, override.value()
        if key in options and value is not None and not isinstance(value, list) and value not in options[key]:
            raise UserError(f"{key}={value}: no such option; {nearest(str(value), options[key])}")


def _options(overrides: list[str]) -> dict[str, list[str]]:
    """Every config group with its options, those in folders below it with their path (experiment=paper/x)."""
    roots = [CONF, PROJECT / "sweeps"]
    for override in OverridesParser.create().parse_overrides(overrides):
        if override.key_or_group == "hydra.searchpath":
            value = override.value()
            roots += [Path(str(path).removeprefix("file://")) for path in (value if isinstance(value, list) else [])]
    found: dict[str, list[str]] = {"experiment": [], "sweep": []}
    for root in roots:
        for file in sorted(root.glob("*/**/*.yaml")):
            group, *rest = file.relative_to(root).with_suffix("").parts
            found.setdefault(group, []).append("/".join(rest))
    return found


def _flat(cfg: Any, prefix: str = "") -> list[str]:
    keys = []
    for key in cfg:
        keys.append(f"{prefix}{key}")
        node = cfg._get_node(key)
        if isinstance(node, DictConfig) and not node._is_none() and not node._is_missing():
            keys += _flat(node, f"{prefix}{key}.")
    return keys


def _one_line(error: OmegaConfBaseException, plain: dict[Any, Any]) -> str:
    key = str(getattr(error, "full_key", "") or "")
    message = first_line(error)
    if "not in" in message and key:
        return f"{key}: no such key; {nearest(key, known_keys())}"
    if "Missing mandatory value" in message:
        return f"{key}: has no value; give {key}=VALUE"
    value: Any = plain
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return f"{key}={value}: {message[0].lower()}{message[1:]}"
