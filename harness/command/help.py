"""`--help` and `--help NAME`: what there is to choose, and every key with its value and its meaning.

Hydra's own help copies all it knows for each group.
"""

from __future__ import annotations

import functools
import operator
import re
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

import yaml
from hydra import initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from harness.command.compose import CONF, compose_one, options, overrides_of, search_path, set_project_root
from harness.config import known_keys, schema
from harness.errors import UserError, nearest
from harness.schema import Key

HEAD = """How stale may rollouts be? One run, or a sweep with -m.

  python run.py algo=m2po staleness=64 seed=1 updates=400     one run
  python run.py -m algo=grpo,m2po staleness=0,64,256          a sweep
  python run.py sweep=staleness hydra/launcher=joblib         a named sweep, as many runs at once as cores
  python run.py mode=evaluate checkpoint=RUN                  the best checkpoint of a run folder
  python run.py --cfg job algo=m2po                           the whole configuration
  python run.py --help learner                                one group, or one key

"""
WIDTH = 112
INDENT = 44  # where the meanings begin


def help_text(arguments: Sequence[str]) -> str:
    """Help for what a command line chooses; words without = are the groups and keys to tell of.

    Raises UserError for an override that does not fit, or a word that names neither a group nor a key.
    """
    words = overrides_of(arguments)
    overrides, names = [word for word in words if "=" in word], [word for word in words if "=" not in word]
    set_project_root()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose_one(overrides)
    groups = options(overrides)
    lines = list(_keys(cfg, overrides))
    for name in names:
        if name not in groups and not any(_is_below(key, name) for key, _ in lines):
            raise UserError(f"--help {name}: no such group or key; {nearest(name, {*groups, *known_keys()})}")
    told = "\n".join(text for key, text in lines if not names or any(_is_below(key, name) for name in names))
    chosen = "\n".join(_group(name, groups[name]) for name in sorted(groups) if name in (names or groups))
    parts = [f"== Groups and their options (GROUP=OPTION) ==\n{chosen}\n\n"] if chosen else []
    return ("" if names else HEAD) + "".join(parts) + (f"== Keys (KEY=VALUE) ==\n{told}" if told else "")


def _is_below(key: str, name: str) -> bool:
    return key == name or key.startswith(name + ".")


def _group(name: str, names: list[str]) -> str:
    return textwrap.fill(f"{name}: {', '.join(names)}", WIDTH, subsequent_indent=" " * (len(name) + 2))


def _keys(cfg: DictConfig, overrides: list[str]) -> Iterator[tuple[str, str]]:
    """Every key with its line of help, in the order of the schema."""
    values: Any = OmegaConf.to_container(cfg)
    for name, key in schema().items():
        value = functools.reduce(operator.getitem, name.split("."), values)
        if name not in ("algo", "task", "lag"):
            yield name, _line(name, value, _meaning(key))
            continue
        comments = _comments(name, cfg.hydra.runtime.choices[name], overrides)
        for part, own in value.items():
            yield f"{name}.{part}", _line(f"{name}.{part}", own, comments.get(part, ""))


def _meaning(key: Key) -> str:
    return f"{key.meaning} ({' | '.join(key.choices)})" if key.choices else key.meaning


def _line(name: str, value: Any, meaning: str) -> str:
    shown = f"{name}={_text(value)}"
    first = f"{shown:<{INDENT - 2}}  " if meaning else shown
    return textwrap.fill(first + meaning, WIDTH, subsequent_indent=" " * INDENT, break_long_words=False)


def _text(value: Any) -> str:
    """A value as one types it."""
    return yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("\n...\n").strip()


def _comments(group: str, option: str, overrides: list[str]) -> dict[str, str]:
    """The comment behind each key of an option's yaml file."""
    files = [root / group / f"{option}.yaml" for root in search_path(overrides)]
    text = next(file.read_text(encoding="utf-8") for file in files if file.is_file())
    return dict(re.findall(r"^(\w+):.*?\s# *(.+)$", text, re.MULTILINE))
