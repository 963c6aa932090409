"""Writes docs/configuration.md: every key, and every parameter of a method, task and policy, from what --help reads.

python -m harness.command.reference docs/configuration.md
"""

from __future__ import annotations

import functools
import operator
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from harness.command import parameters
from harness.command.compose import CONF, options
from harness.command.help import CLASSES, defaults, limits, typed
from harness.config import schema

ROLES = """| role | what it decides |
|---|---|
| science | what is computed: another value is another run, and another experiment |
| driver | who computes it, and when: another run folder, under an exact lag the same bits |
| record | what is written down of it |
| place | where a run lies and how a command treats it: no part of what a run is |"""
TITLES = {"algo": "Methods", "task": "Tasks", "lag": "Staleness policies"}


def page() -> str:
    """The page as Markdown."""
    values, choices = defaults()
    parts = ["# Configuration", _OPENING, "## Groups", *_groups(choices), "## Keys", ROLES]
    for section in dict.fromkeys(_section(name) for name in schema()):
        if section not in CLASSES:
            parts += [f"### {section or 'The run itself'}", "\n".join(_keys(section, values))]
    for group, given in CLASSES.items():
        parts += [f"## {TITLES[group]}", *_classes(group, given)]
    return "\n\n".join(parts) + "\n"


_OPENING = """Made from the schema by `make reference`; `--help`, `--help learner` and `--help algo=m2po` say the same
on the terminal.

A key is given as `KEY=VALUE`, an option of a group as `GROUP=OPTION`; with `-m` either may have several values. A file
of your own under `experiment/`, in a folder that `hydra.searchpath=[PATH]` names, holds what you would type again and
again. A parameter of a method, a task or a policy may be given also where its yaml file does not list it."""


def _section(name: str) -> str:
    return name if name in CLASSES else name.rpartition(".")[0]


def _groups(choices: dict[str, str]) -> Iterator[str]:
    """The options of each group, the default in bold; no sweeps that tuning wrote, which are each checkout's own."""
    rows = ["| group | options |", "|---|---|"]
    for group, names in sorted(options([]).items()):
        shown = [
            f"**{name}**" if choices.get(group) == name else name
            for name in sorted(set(names))
            if not name.startswith("tuned/")
        ]
        rows.append(f"| `{group}` | {', '.join(shown)} |")
    yield "\n".join(rows)


def _keys(section: str, values: dict[str, Any]) -> Iterator[str]:
    yield from ("| key | default | meaning | values | role |", "|---|---|---|---|---|")
    for name, key in schema().items():
        if _section(name) == section and name not in CLASSES:
            value = functools.reduce(operator.getitem, name.split("."), values)
            yield _row(f"`{name}`", f"`{typed(value)}`", key.meaning, limits(key), key.role)


def _classes(group: str, given: int) -> Iterator[str]:
    """Every class that an option of a group names, with the options that name it."""
    named: dict[str, list[str]] = {}
    for file in sorted((CONF / group).glob("*.yaml")):
        held = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        if "_target_" in held:
            named.setdefault(held["_target_"], []).append(file.stem)
    for target, names in named.items():
        cls = parameters.find(target)
        assert cls is not None, target
        yield f"### {cls.__name__}"
        yield f"{', '.join(f'`{group}={name}`' for name in names)} (`{target}`): {_plain(parameters.about(cls))}"
        yield "\n".join(_parameters(group, cls, given))


def _parameters(group: str, cls: type, given: int) -> Iterator[str]:
    yield from ("| parameter | default | meaning | values |", "|---|---|---|---|")
    for one in parameters.parameters(cls, given):
        yield _row(f"`{group}.{one.name}`", f"`{typed(one.default)}`", one.meaning, one.range)


def _row(*cells: str) -> str:
    return "| " + " | ".join(_plain(cell) for cell in cells) + " |"


def _plain(text: str) -> str:
    """Text that is nothing but text in a table of Markdown."""
    return " ".join(text.replace("|", "\\|").replace("*", "\\*").replace("<", "&lt;").split())


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the page into the file that the one argument names."""
    (file,) = sys.argv[1:] if arguments is None else arguments
    Path(file).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
