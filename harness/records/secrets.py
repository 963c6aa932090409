"""What a record says of a configuration: the environment's values as they were written, addresses without passwords."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from harness.config import Config
from harness.errors import UserError, without_secrets
from harness.schema import leaves

SHORTEST = 6  # characters of a value that is looked for in a text: a shorter one is a word like any other


def recorded(config: Config) -> dict[str, Any]:
    """The configuration in nested mappings, fit to be read by others.

    A number stays itself wherever it came from: it is no secret, and it tells two runs apart.
    """
    return {name: _recorded(name, value, config.interpolated) for name, value in config.as_dict().items()}


def as_written(text: str, config: Config) -> str:
    """Text about a configuration, in which the environment's values stand as they were written."""
    values = dict(leaves(config.as_dict()))
    for name, written in config.interpolated.items():
        value = values.get(name)
        if isinstance(value, str) and len(value) >= SHORTEST:
            text = text.replace(value, str(written))
    return text


@contextmanager
def complaints_as_written(config: Config) -> Iterator[None]:
    """A UserError of the block quotes the environment's values as they were written."""
    try:
        yield
    except UserError as error:
        raise UserError(as_written(str(error), config)) from error


def _recorded(name: str, value: Any, interpolated: dict[str, Any]) -> Any:
    if value is None or isinstance(value, int | float):
        return value
    if name in interpolated:
        return interpolated[name]
    if isinstance(value, dict):
        return {key: _recorded(f"{name}.{key}", below, interpolated) for key, below in value.items()}
    if isinstance(value, list):
        return [_recorded(name, item, interpolated) for item in value]
    return without_secrets(value) if isinstance(value, str) else value
