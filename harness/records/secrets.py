"""What a record says of a configuration: the environment's values as they were written, addresses without passwords."""

from __future__ import annotations

from typing import Any

from harness.config import Config
from harness.errors import without_secrets


def recorded(config: Config) -> dict[str, Any]:
    """The configuration in nested mappings, fit to be read by others.

    A number stays itself wherever it came from: it is no secret, and it tells two runs apart.
    """
    return {name: _recorded(name, value, config.interpolated) for name, value in config.as_dict().items()}


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
