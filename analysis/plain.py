"""Text that comes out of records, made inert where it goes: no terminal, spreadsheet or page takes it for more."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # errors use this file, and `--help` does without pandas
    import pandas as pd

_TAG = re.compile(r"<(?=[A-Za-z/!?])")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet computes a cell that begins so


def printable(text: str) -> str:
    """Text without control characters, line breaks and lone surrogates."""
    if text.isascii() and text.isprintable():
        return text
    return "".join("�" if unicodedata.category(character)[0] == "C" else character for character in text)


def markdown_text(text: str) -> str:
    """Text for Markdown: no HTML, no link or picture of its own."""
    return _TAG.sub(r"\<", text).replace("](", "]\\(")


def markdown_cell(text: str) -> str:
    """Text for a cell of a Markdown table: no further cell either."""
    return markdown_text(text).replace("|", "\\|")


def csv_cells(frame: pd.DataFrame) -> pd.DataFrame:
    """A table for CSV: text that a spreadsheet would compute gets a ' in front."""
    return frame.map(lambda cell: f"'{cell}" if isinstance(cell, str) and cell[:1] in _FORMULA else cell)


def pipes(lines: Sequence[Sequence[str]]) -> str:
    """Cells as a table of GitHub's pipes. lines: the heading, then row by row."""
    cells = [[markdown_cell(cell) for cell in line] for line in lines]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]

    def line(row: list[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"

    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([line(cells[0]), rule, *map(line, cells[1:])])
