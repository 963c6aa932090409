"""Rows of tokens: a part an update while the run goes on, joined to one file at its end.

tokens/000005.parquet    whole and synced when it has its name; a checkpoint remembers its size and hash
tokens.parquet           all parts, written beside, synced and renamed
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from harness.errors import RunFailed
from harness.records.files import file_sha256, replacing, write_whole
from harness.records.layout import TOKEN_PARTS, TOKENS

Marks = dict[str, dict[str, Any]]  # path below the run folder → {"bytes", "sha256"}


class TokenParts:
    """Writes the token records of one run.

    folder: the run folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._marks: Marks = {}

    def append(self, update: int, columns: dict[str, Tensor], text: list[str]) -> None:
        """One update's rows, as a part of its own.

        columns: [N] each, a value a token.
        text: of each token.
        """
        (self._folder / TOKEN_PARTS).mkdir(exist_ok=True)
        name = f"{TOKEN_PARTS}/{update:06d}.parquet"
        buffer = pa.BufferOutputStream()
        pq.write_table(
            pa.table({**{k: v.numpy() for k, v in columns.items()}, "text": pa.array(text, pa.string())}), buffer
        )
        self._marks[name] = write_whole(self._folder / name, [memoryview(buffer.getvalue())])

    def marks(self) -> Marks:
        """Size and hash of every part, all of them on the disk."""
        return dict(self._marks)

    def rewind(self, marks: Marks) -> None:
        """Forgets every part that is not among a checkpoint's marks."""
        self._marks = {name: mark for name, mark in marks.items() if name.startswith(f"{TOKEN_PARTS}/")}
        for path in (self._folder / TOKEN_PARTS).glob("*"):
            if f"{TOKEN_PARTS}/{path.name}" not in self._marks:
                path.unlink()

    def join(self) -> None:
        """Makes `tokens.parquet` of the parts, which stay until `drop`. Raises RunFailed naming a damaged one."""
        if not self._marks:
            return
        parts = [self._checked(name) for name in sorted(self._marks)]
        with replacing(self._folder / TOKENS) as partial, pq.ParquetWriter(partial, pq.read_schema(parts[0])) as writer:
            for part in parts:
                writer.write_table(pq.read_table(part))

    def _checked(self, name: str) -> Path:
        problem = part_damage(self._folder, name, self._marks[name])
        if problem is not None:
            raise RunFailed(f"{problem}; run again with retry_failed=true: it goes back to a checkpoint before that")
        return self._folder / name


def drop(folder: Path) -> None:
    """Removes the parts of a run whose end is recorded; killed in between, the next command does it."""
    if (folder / TOKEN_PARTS).is_dir():
        shutil.rmtree(folder / TOKEN_PARTS)


def part_damage(folder: Path, name: str, mark: dict[str, Any]) -> str | None:
    """Why a part is not what was written; None if it is.

    name: its path below the run folder.
    mark: its size and hash.
    """
    path = folder / name
    if not path.is_file():
        return f"{path} is missing"
    if path.stat().st_size != mark["bytes"] or file_sha256(path) != mark["sha256"]:
        return f"{path} is not what was written"
    return None
