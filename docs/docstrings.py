"""For mkdocstrings: our docstrings (one line, then a line a parameter, Returns, Raises) as Markdown lists."""

from __future__ import annotations

import re
from typing import Any

import griffe

PARAMETER = re.compile(r"^((?:\*{0,2}\w+(?:, )?)+): (?=\S)")
ENDING = re.compile(r"^(Returns|Raises)\b")


def as_markdown(docstring: str) -> str:
    """The docstring with an item for each line that begins one; wrapped lines stay with theirs."""
    lines: list[str] = []
    in_list = False
    for line in docstring.splitlines():
        parameter, ending = PARAMETER.match(line), ENDING.match(line)
        if parameter or ending:
            lines += [] if in_list else [""]
            name = "" if parameter is None else f"`{parameter[1]}`: "
            lines.append(f"- {name}{line if parameter is None else line[parameter.end() :]}")
        else:
            lines.append(f"  {line}" if in_list and line.strip() else line)
        in_list = bool(parameter or ending) or (in_list and bool(line.strip()))
    return "\n".join(lines)


class Plain(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = as_markdown(obj.docstring.value)
