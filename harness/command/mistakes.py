"""A mistake in a command line or in a yaml file → one line that says what was probably meant."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Any

import yaml
from hydra import compose
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from harness.config import known_keys, schema
from harness.errors import UserError, first_line, nearest

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
# Hydra asserts where a yaml file or a sweeper's own key has the wrong shape.
ERRORS = (HydraException, OmegaConfBaseException, ValueError, AssertionError, yaml.YAMLError)
# OmegaConf's words for a value of another kind, and its kinds in words.
OTHER_KIND = re.compile(r"Value '(.*)' (?:of type '\w+' could not be converted to|is not a valid) (\w+)")
KINDS = {"Integer": "a whole number", "Float": "a number", "bool": "true or false"}
# What OmegaConf says → what it means for the key {}.
MESSAGES = {
    "mandatory value": "{0}: has no value; give {0}=VALUE",
    "is not Optional": "{0}=null: expected a value",
    "Cannot assign str to Dict": "{0}: is a group; choose its option under defaults (- override /{0}: OPTION)",
    "does not support deletion": "{0}: cannot be taken out; give it another value",
}


def refuse_renamed(override: Override) -> None:
    """Raises UserError for a name of 0.1.0's, with what to type instead."""
    old = override.key_or_group
    if old in RENAMED:
        value = str(override.input_line).partition("=")[2]
        raise UserError(f"{old}: is now {RENAMED[old]}; type {RENAMED[old]}={value or 'VALUE'}")


def refuse_unknown_option(override: Override, groups: dict[str, list[str]]) -> None:
    """Raises UserError for GROUP=OPTION without such an option (Hydra is silent about optional groups), or ~KEY."""
    key, value = override.key_or_group, override.value()
    if override.is_delete() and key in schema():
        raise UserError(MESSAGES["does not support deletion"].format(key))
    if key in groups and value is not None and not isinstance(value, list) and value not in groups[key]:
        raise UserError(f"{key}={value}: no such option; {nearest(str(value), groups[key])}")


def explain(parsed: list[Override], groups: dict[str, list[str]], error: Exception) -> str:
    """Finds the key that Hydra stumbled over, in the command or in a yaml file, and names what it may have meant."""
    chosen = [str(o.input_line) for o in parsed if o.key_or_group in {*groups, "hydra.searchpath"}]
    try:
        names = {*_names(compose("config", overrides=chosen)), *known_keys(), *groups}
    except ERRORS as deeper:  # a yaml file's own mistake
        return about(deeper)
    for override in parsed:
        key = override.key_or_group
        if key not in names and not key.startswith("hydra"):
            return no_such_key(key, names)
    return about(error)


def about(error: BaseException) -> str:
    """One line for an error of Hydra's or OmegaConf's, whose message is meant for programmers."""
    if isinstance(error, yaml.YAMLError):
        return " ".join(str(error).split())
    behind = error.__cause__ or error.__context__
    cause = behind if isinstance(behind, OmegaConfBaseException) and behind.full_key else error
    key, message = str(getattr(cause, "full_key", None) or ""), first_line(cause)
    if "dereferencing" in message:  # what an environment variable holds is not for the terminal
        message = re.sub(r"Value '.*' of", "a value of", message)
    if not key:
        return message
    if "not in" in message:
        return no_such_key(key, known_keys())
    for words, line in MESSAGES.items():
        if words in message:
            return line.format(key)
    other = OTHER_KIND.match(message)
    if other and other[2] in KINDS:
        return f"{key}={other[1]}: expected {KINDS[other[2]]}"
    return f"{key}: {message[0].lower()}{message[1:]}"


def no_such_key(key: str, names: Collection[str]) -> str:
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


def strangers(node: DictConfig, prefix: str = "") -> Iterator[str]:
    """Keys that an override with + has added where the schema has none."""
    for name in map(str, node):
        path, value = f"{prefix}{name}", node._get_node(name)
        if path not in known_keys():
            yield path
        elif path not in schema() and isinstance(value, DictConfig):
            yield from strangers(value, f"{path}.")


def _names(cfg: Any, prefix: str = "") -> Iterator[str]:
    for key in map(str, cfg):
        yield f"{prefix}{key}"
        node = cfg._get_node(key)
        if isinstance(node, DictConfig) and not node._is_none() and not node._is_missing():
            yield from _names(node, f"{prefix}{key}.")
