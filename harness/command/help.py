"""`--help` and `--help NAME`: what there is to choose, and every key with its value and its meaning.

Hydra's own help copies all it knows for each group. Values come from Hydra only where the command line chooses
something: the defaults alone are read in a tenth of the time.
"""

from __future__ import annotations

import functools
import importlib.metadata
import operator
import re
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import yaml
from hydra import initialize_config_dir
from omegaconf import OmegaConf

from harness.command import parameters
from harness.command.arguments import overrides_of
from harness.command.compose import CONF, compose_one, options, search_path, set_project_root
from harness.command.output import program
from harness.config import Config, known_keys, schema
from harness.errors import UserError, nearest
from harness.schema import Key

EXAMPLES = {
    "algo=m2po staleness=64 seed=1 updates=400": "one run",
    "-m algo=grpo,m2po staleness=0,64,256": "a sweep",
    "sweep=staleness hydra/launcher=joblib": "a named sweep, as many runs at once as cores",
    "mode=evaluate checkpoint=RUN": "the best checkpoint of a run folder",
    "--cfg job algo=m2po": "the whole configuration",
    "--help learner": "one group, or one key",
    "--help algo=m2po": "a method, a task or a policy with its parameters",
}
WIDTH = 112  # of a line at most
NARROW = 100  # columns of a terminal below which a meaning stands under its key, not beside it
INDENT = 44  # where the meanings begin
CLASSES = {"algo": 0, "task": 0, "lag": 2}  # groups whose options name a class → its parameters that the harness gives


def help_text(arguments: Sequence[str]) -> str:
    """Help for what a command line chooses; words without = are the groups and keys to tell of.

    Where it chooses methods, tasks or policies and nothing else, these are told of.
    Raises UserError for an override that does not fit, or a word that names neither a group nor a key.
    """
    words = overrides_of(arguments)
    overrides, asked = [word for word in words if "=" in word], [word for word in words if "=" not in word]
    names = list(asked)
    chosen = [word.partition("=")[0] for word in overrides]
    if set(chosen) <= {*CLASSES, "allow_code", "hydra.searchpath"}:
        names += [name for name in chosen if name in CLASSES]
    values, choices = _composed(overrides) if overrides else defaults()
    groups = options(overrides)
    detailed = [name for name in CLASSES if any(_is_below(word, name) for word in names)]
    lines = list(_keys(values, choices, overrides, detailed))
    for name in names:
        if name not in groups and not any(_is_below(key, name) for key, _ in lines):
            raise UserError(f"--help {name}: no such group or key; {nearest(name, {*groups, *known_keys()})}")
    told = "\n".join(text for key, text in lines if not names or any(_is_below(key, name) for name in names))
    shown = asked if names else groups
    listed = "\n".join(_group(name, groups[name]) for name in sorted(groups) if name in shown)
    parts = [f"== Groups and their options (GROUP=OPTION) ==\n{listed}\n\n"] if listed else []
    parts += [f"{_class(name, choices[name], values)}\n\n" for name in detailed if name in names]
    head = [] if names else [_head()]
    keys = [f"== Keys (KEY=VALUE) ==\n{told}"] if told else []
    return "".join([*head, *parts, *keys])


def version() -> str:
    """The release that is installed; a folder from which run.py is started need not be."""
    try:
        return f"LagRange {importlib.metadata.version('lagrange-rl')}"
    except importlib.metadata.PackageNotFoundError:
        return "LagRange, started from a folder and not installed; git describe says which"


def _head() -> str:
    """What LagRange is for, and what one types most."""
    lines = [_beside(f"  {program()} {words}", text, 62) for words, text in EXAMPLES.items()]
    return "\n".join(["How stale may rollouts be? One run, or a sweep with -m.\n", *lines, "\n"])


def defaults() -> tuple[dict[str, Any], dict[str, str]]:
    """Every value of `python run.py` without a word, nested, and the option of each group. Not resolved."""
    values, choices = asdict(Config()), {}
    root = yaml.safe_load((CONF / "config.yaml").read_text(encoding="utf-8"))
    for entry in root["defaults"]:
        (name, option), *_ = entry.items() if isinstance(entry, dict) else [(entry, None)]
        if option and " " not in name:
            choices[name] = option
            _merge(values[name], yaml.safe_load((CONF / name / f"{option}.yaml").read_text(encoding="utf-8")) or {})
    _merge(values, {name: value for name, value in root.items() if name in values})
    return values, choices


def _merge(values: dict[str, Any], others: dict[str, Any]) -> None:
    for name, value in others.items():
        if isinstance(value, dict) and isinstance(values.get(name), dict):
            _merge(values[name], value)
        else:
            values[name] = value


def _composed(overrides: list[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """What a command line makes of them."""
    set_project_root()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose_one(overrides)
    values: Any = OmegaConf.to_container(cfg)
    return values, dict(cfg.hydra.runtime.choices)


def _is_below(key: str, name: str) -> bool:
    return key == name or key.startswith(name + ".")


def _group(name: str, names: list[str]) -> str:
    return textwrap.fill(f"{name}: {', '.join(names)}", _width(), subsequent_indent=" " * (len(name) + 2))


def _class(group: str, option: str, values: dict[str, Any]) -> str:
    """What an option of a group is: its class, where it stands, and what its docstring says."""
    target = values[group].get("_target_")
    cls = parameters.find(target, values["allow_code"])
    file = str(target).rpartition(".")[0].replace(".", "/") + ".py"
    head = f"== {group}={option}: {target} ({file}) =="
    return head if cls is None else f"{head}\n{textwrap.fill(parameters.about(cls), _width())}"


def _keys(
    values: dict[str, Any], choices: dict[str, str], overrides: list[str], detailed: Sequence[str]
) -> Iterator[tuple[str, str]]:
    """Every key with its line of help, in the order of the schema. detailed: groups whose class is read, too."""
    for name, key in schema().items():
        if name not in CLASSES:
            value = functools.reduce(operator.getitem, name.split("."), values)
            yield name, _line(name, value, meaning(key))
            continue
        known = _parameters(name, values) if name in detailed else {}
        comments = _comments(name, choices[name], overrides)
        own = {part: one.default for part, one in known.items()} | values[name]
        for part, value in own.items():
            if part != "_target_" or not known:  # the class stands above
                text = _told(known[part], comments.get(part, "")) if part in known else comments.get(part, "")
                yield f"{name}.{part}", _line(f"{name}.{part}", value, text)


def _parameters(group: str, values: dict[str, Any]) -> dict[str, parameters.Parameter]:
    cls = parameters.find(values[group].get("_target_"), values["allow_code"])
    return {} if cls is None else {one.name: one for one in parameters.parameters(cls, CLASSES[group])}


def _told(one: parameters.Parameter, comment: str) -> str:
    """ "τ ≥ 0, nats² (≥ 0; default 0.04)": of the docstring, or where that is silent of the yaml file."""
    limits = "; ".join(filter(None, [one.range, f"default {typed(one.default)}"]))
    return f"{one.meaning.rstrip('.') or comment} ({limits})".lstrip()


def meaning(key: Key) -> str:
    """What the schema says of a key, with its values."""
    return f"{key.meaning} ({limits(key)})" if limits(key) else key.meaning


def limits(key: Key) -> str:
    """The values of a key in words; "" where any will do."""
    if key.choices:
        return " | ".join(key.choices)
    if key.low is not None and key.low == key.high:
        return f"{key.low:g}"
    bounds = {"≥": key.low, ">": key.above, "≤": key.high, "<": key.below}
    words = [f"{sign} {bound:g}" for sign, bound in bounds.items() if bound is not None]
    return ", ".join([*words, *([f"multiple of {key.multiple_of}"] if key.multiple_of else [])])


def _line(name: str, value: Any, text: str) -> str:
    shown = f"{name}={typed(value)}"
    return _beside(shown, text, INDENT) if text else shown


def _beside(words: str, text: str, indent: int) -> str:
    """Words with what they mean, from column `indent` on; on a narrow terminal below them."""
    width = _width()
    if width < NARROW:
        return f"{words}\n{textwrap.indent(textwrap.fill(text, width - 4, break_long_words=False), ' ' * 4)}"
    filled = f"{words:<{indent - 2}}  {text}"
    return textwrap.fill(filled, width, subsequent_indent=" " * indent, break_long_words=False)


def _width() -> int:
    """Columns of the terminal (or $COLUMNS), not more than are read with ease; of a pipe or a file those."""
    return min(WIDTH, shutil.get_terminal_size((WIDTH, 0)).columns)


def typed(value: Any) -> str:
    """A value as one types it."""
    if isinstance(value, tuple | frozenset):
        value = list(value)
    return yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("\n...\n").strip()


def _comments(group: str, option: str, overrides: list[str]) -> dict[str, str]:
    """The comment behind each key of an option's yaml file."""
    files = [root / group / f"{option}.yaml" for root in search_path(overrides)]
    text = next(file.read_text(encoding="utf-8") for file in files if file.is_file())
    return dict(re.findall(r"^(\w+):.*?\s# *(.+)$", text, re.MULTILINE))
