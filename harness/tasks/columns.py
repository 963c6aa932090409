"""What stands in a row: columns inside columns, chat messages as a problem, and the reference answer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from harness.rewards.answers import UNESCAPED_DOLLAR, last_boxed
from harness.rewards.verifiers import gsm8k_answer

Row = dict[str, Any]
Messages = tuple[tuple[str, str], ...]  # (role, content) of each

VERL = ("prompt", "reward_model.ground_truth")  # columns of verl's data: the messages, and the reference answer
ROLES = ("system", "developer", "user", "assistant", "tool")


def has_column(row: Row, column: str) -> bool:
    """Whether a row has a column, or a.b inside its column a."""
    return column in row or _inside(row, column)[0]


def value_of(row: Row, column: str) -> Any:
    """What stands in a column, or in b of the column a for "a.b"; None where there is none."""
    return row[column] if column in row else _inside(row, column)[1]


def _inside(row: Row, column: str) -> tuple[bool, Any]:
    value: Any = row
    for part in column.split("."):
        if not isinstance(value, dict) or part not in value:
            return False, None
        value = value[part]
    return True, value


def column_names(row: Row) -> list[str]:
    """The columns of a row as they may be typed: those of mappings dotted."""
    return list(_names(row, ""))


def _names(row: Row, prefix: str) -> Iterator[str]:
    for name, value in row.items():
        if isinstance(value, dict) and value:
            yield from _names(value, f"{prefix}{name}.")
        else:
            yield prefix + name


def is_verl(row: Row, columns: Sequence[str]) -> bool:
    """Whether rows have verl's layout, and not the columns that were asked for."""
    missing = any(not any(has_column(row, one) for one in either.split("|")) for either in columns)
    return missing and all(has_column(row, column) for column in VERL) and messages_of(row["prompt"]) is not None


def messages_of(value: Any) -> Messages | None:
    """Chat messages [{"role": …, "content": …}, …] as (role, content) pairs; None for anything else.

    value: content may be text, or a list of parts of which all are text. The last message is the user's.
    """
    if not isinstance(value, list) or not value:
        return None
    pairs = [(one.get("role"), _content(one.get("content"))) for one in value if isinstance(one, dict)]
    good = len(pairs) == len(value) and all(role in ROLES and content is not None for role, content in pairs)
    return tuple((str(role), str(content)) for role, content in pairs) if good and pairs[-1][0] == "user" else None


def _content(value: Any) -> str | None:
    if isinstance(value, list) and all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in value):
        return "".join(part["text"] for part in value)
    return value if isinstance(value, str) else None


def is_text(value: Any) -> bool:
    """Whether a value is text that can be written as UTF-8 and is not blank: no lone surrogate."""
    try:
        return isinstance(value, str) and bool(value.strip()) and bool(value.encode())
    except UnicodeEncodeError:
        return False


def read_answer(value: Any, how: str) -> str | None:
    """The reference answer that a column holds.

    value: as read from the file; of a list (OlympiadBench), also in a list, the first entry counts.
    how: plain, gsm8k (the number after ####) or boxed (the last \\boxed{} of a solution).
    Returns the answer, None if there is none.
    """
    while isinstance(value, list):
        value = value[0] if value else None
    if isinstance(value, float):
        value = None if not math.isfinite(value) else int(value) if value.is_integer() else value
    if value is None or isinstance(value, dict | bytes):
        return None
    text = str(value).strip()
    if how == "gsm8k":
        return gsm8k_answer(text)
    text = (last_boxed(text) or "") if how == "boxed" else UNESCAPED_DOLLAR.sub("", text)
    return text if is_text(text) else None
