"""What a schema of dataclasses is made of: a field that carries its meaning, range and role beside its default."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any

from harness.errors import UserError


@dataclass(frozen=True)
class Key:
    """What the schema says of a key beside its type and default.

    meaning: what the value is, in one sentence, with its unit.
    role: science (changes what is computed) | driver (who computes it, and when: the same bits under an exact lag) |
        record (what is written down of it) | place (where a run lies and how a command treats it: not identity).
    low, high: smallest and largest value · above, below: bounds that are not values themselves.
    choices: the only values.
    multiple_of: the key whose value must divide this one's.
    """

    meaning: str
    role: str = "science"
    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()
    multiple_of: str = ""


def key(default: Any, meaning: str, role: str = "science", **limits: Any) -> Any:
    """A dataclass field that carries its Key. default: a value, or `list` or `dict` for an empty one."""
    metadata = {"key": Key(meaning, role, **limits)}
    if default in (list, dict):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


def keys_of(cls: Any, prefix: str = "") -> Iterator[tuple[str, Key]]:
    """Every key of a dataclass and of the dataclasses in its fields, under its dotted name."""
    for one in fields(cls):
        if "key" in one.metadata:
            yield prefix + one.name, one.metadata["key"]
        elif hasattr(one.default_factory, "__dataclass_fields__"):
            yield from keys_of(one.default_factory, f"{prefix}{one.name}.")


def leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of nested mappings under its dotted name."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def lookup(config: Any, name: str) -> Any:
    """The value of a dotted name of the schema."""
    value: Any = config
    for part in name.split("."):
        value = getattr(value, part)
    return value


def check_multiple(config: Any, name: str, of: str = "updates_per_step") -> None:
    """Raises UserError unless the value of the key `name` is a multiple of that of the key `of`."""
    value, unit = lookup(config, name), lookup(config, of)
    if value % unit:
        below = value - value % unit
        near = [str(v) for v in (below, below + unit) if v or name == "staleness"]
        raise UserError(f"{name}={value}: not divisible by {of}={unit}; nearest valid: {' or '.join(near)}")
