"""Who may import whom: the table of docs/architecture.md, held by the code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import ROOT

HELPERS = {"types", "config", "groups", "schema", "errors", "randomness", "interrupts", "paths", "progress"}
# room → rooms of ours that it may import, itself aside; helpers are the small files of harness/
MAY_IMPORT: dict[str, set[str]] = {
    "algorithms": set(),
    "types": set(),
    "errors": set(),
    "randomness": set(),
    "interrupts": {"errors"},
    "progress": {"errors"},
    "paths": {"errors"},
    "schema": {"errors"},
    "groups": {"schema"},
    "config": {"errors", "schema", "groups"},
    "lag": {"types", "config", "groups", "errors", "randomness", "records.limits"},
    "rewards": {"types", "errors"},
    "models": {"types", "config", "groups", "errors", "paths"},
    "tasks": {"types", "config", "groups", "errors", "randomness", "progress", "paths", "rewards", "models"}
    | {"records.layout"},
    "rollout": {"types", "config", "groups", "errors", "randomness", "models"},
    "ranks": {"config", "groups", "errors", "interrupts", "models"},
    "learner": {"types", "config", "groups", "errors", "models", "algorithms", "ranks", "records"},
    "drivers": {"types", "config", "groups", "errors", "interrupts", "lag", "rollout", "models", "ranks"},
    "records": {"types", "config", "groups", "schema", "errors", "progress"},
    "tracking": {"records", "config", "groups", "errors"},
    "warmstart": {"types", "errors", "randomness", "models", "rollout", "tasks"},
}
RUN = {"training", "build", "evaluation"}
BELOW = set(MAY_IMPORT) - {"warmstart", "tracking"}
MAY_IMPORT |= {room: (BELOW | RUN) - {room} for room in RUN}
MAY_IMPORT["command"] = BELOW | RUN | {"tracking"}
MAY_IMPORT["run"] = {"command", "errors", "paths", "progress", "analysis"}
MAY_IMPORT["analysis"] = {"records.layout", "records.limits"}
NEVER = {"analysis": {"torch", "transformers", "harness.config"}}
ENTRIES = {"status", "sync", "twin", "grade", "follow", "ui"}  # `python -m harness.…`: at most 15 lines each


@cache
def files() -> list[Path]:
    found = [path for room in ("algorithms", "harness", "analysis") for path in sorted((ROOT / room).rglob("*.py"))]
    return [*found, ROOT / "run.py"]


def module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def room(name: str) -> str:
    """The room of a module: algorithms, analysis, run, or the part of harness."""
    parts = name.split(".")
    return parts[0] if parts[0] != "harness" else (parts[1] if len(parts) > 1 else "")


@cache
def modules() -> set[str]:
    return {module(path) for path in files()}


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, at any depth, under its full name."""
    known = modules()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in known else node.module


@pytest.mark.parametrize("path", files(), ids=module)
def test_a_room_imports_only_what_the_table_allows(path: Path) -> None:
    here = room(module(path))
    if here == "" or here in ENTRIES:
        return
    for name in imports(path):
        top = name.split(".")[0]
        assert top not in NEVER.get(here, set()), f"{path} imports {name}"
        if top in ("algorithms", "harness", "analysis"):
            there = room(name)
            allowed = MAY_IMPORT[here] | {here, ""}
            assert there in allowed or name.removeprefix("harness.") in allowed, f"{path} imports {name}"


def test_the_loose_files_of_the_harness_are_few() -> None:
    loose = {path.stem for path in (ROOT / "harness").glob("*.py")} - {"__init__"}
    assert loose - ENTRIES <= HELPERS | RUN
    for entry in loose & ENTRIES:
        assert len((ROOT / "harness" / f"{entry}.py").read_text().splitlines()) <= 15


def test_no_file_of_the_core_is_long() -> None:
    long = {str(path): n for path in files() if (n := len(path.read_text().splitlines())) > 300}
    assert not [path for path in long if "/analysis/" not in path], long


def test_no_two_files_import_each_other() -> None:
    graph = {module(path): set(imports(path)) - {module(path)} for path in files()}
    reached: dict[str, set[str]] = {}

    def below(name: str, path: tuple[str, ...]) -> set[str]:
        assert name not in path, " → ".join([*path[path.index(name) :], name])
        if name not in reached:
            reached[name] = {name}.union(
                *(below(other, (*path, name)) for other in graph.get(name, ()) if other in graph)
            )
        return reached[name]

    for name in graph:
        below(name, ())


def test_the_page_shows_this_table() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    for here in MAY_IMPORT:
        if here not in HELPERS:
            assert re.search(rf"`(harness/)?{here}(\.py|/)?`", page), f"docs/architecture.md does not name {here}"
