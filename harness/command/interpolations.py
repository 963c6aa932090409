"""Which values of a composed configuration come from the environment, directly or through another key."""

from __future__ import annotations

import re
from collections.abc import Set
from typing import Any

from omegaconf import DictConfig, OmegaConf

from harness.schema import leaves

REFERENCE = re.compile(r"\$\{\s*(\.*)([\w.]*)\s*\}")

# What is left of a value without its plain references: a function, oc.env or one that may lead there (our own two do
# not), or a key written otherwise or put together.
MAY_READ_IT = re.compile(r"\$\{(?!\s*(?:modulo|home):)")


def from_environment(cfg: DictConfig) -> dict[str, Any]:
    """Dotted name → the value as it was written, of all that an environment variable decides, or may decide.

    cfg: composed configuration, not resolved.
    """
    tree: Any = OmegaConf.to_container(cfg, resolve=False)
    written = dict(leaves(tree))
    return {name: value for name, value in written.items() if _is_from_environment(name, written, frozenset())}


def _is_from_environment(name: str, written: dict[str, Any], above: Set[str]) -> bool:
    """above: names that lead here; a circle is OmegaConf's to refuse."""
    text = str(written[name])
    if MAY_READ_IT.search(REFERENCE.sub("", text)):
        return True
    targets = {_target(name, dots, path) for dots, path in REFERENCE.findall(text)}
    below = {key for key in written for target in targets if key == target or key.startswith(f"{target}.")}
    return any(_is_from_environment(key, written, above | {name}) for key in below - above - {name})


def _target(name: str, dots: str, path: str) -> str:
    """The key that a reference means; each dot before it is a step up from the key that holds it."""
    parts = name.split(".")
    return ".".join([*parts[: len(parts) - len(dots)], path]) if dots else path
