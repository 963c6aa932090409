"""The source files that a module needs, found by reading imports, without running anything."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from harness.records.files import file_sha256


def source_sha256(modules: Iterable[str], packages: Iterable[str]) -> str | None:
    """One hash over the sources of some modules and of all that they import, however indirectly.

    modules: dotted names.
    packages: dotted names of the packages that count; what lies elsewhere (torch, a library) does not.
    Returns the hexadecimal digest; None if no module has a source in these packages.
    """
    files = needed(modules, tuple(packages))
    if not files:
        return None
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name} {_sha256(files[name], files[name].stat().st_mtime_ns)}\n".encode())
    return digest.hexdigest()


def needed(modules: Iterable[str], packages: tuple[str, ...]) -> dict[str, Path]:
    """The file of each of the modules, and of every one that they import, if it is in one of the packages."""
    todo, found = list(modules), dict[str, Path]()
    while todo:
        name = todo.pop()
        if name in found or not any(name == p or name.startswith(p + ".") for p in packages):
            continue
        file = source_of(name)
        if file is None:  # a name that is no module: a function, or one that somebody else's import makes
            continue
        found[name] = file
        todo += _imports(name, file, file.stat().st_mtime_ns)
    return found


def source_of(name: str) -> Path | None:
    """The source file of a module, without importing it or a package that holds it."""
    top, _, rest = name.partition(".")
    try:
        spec = importlib.util.find_spec(top) if top else None
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if not spec.submodule_search_locations:
        return Path(str(spec.origin)) if not rest and str(spec.origin).endswith(".py") else None
    for folder in spec.submodule_search_locations:
        path = Path(folder, *filter(None, rest.split(".")))
        as_module = [path.with_name(path.name + ".py")] if rest else []
        for file in (*as_module, path / "__init__.py"):
            if file.is_file():
                return file
    return None


@cache
def _sha256(file: Path, modified: int) -> str:
    """Hash of a source. modified: of the file, part of the cache's key."""
    del modified
    return file_sha256(file)


@cache
def _imports(name: str, file: Path, modified: int) -> tuple[str, ...]:
    """Every dotted name that a source imports, at any depth. modified: of the file, part of the cache's key."""
    del modified
    try:
        return tuple(_imported(ast.parse(file.read_bytes()), name, file.name == "__init__.py"))
    except SyntaxError:
        return ()


def _imported(tree: ast.Module, name: str, is_package: bool) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = name.split(".") if is_package else name.split(".")[:-1]
            above = parents[: len(parents) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
