"""A file or a folder of files → rows, told apart by their bytes: JSONL, a JSON array, CSV, Parquet, gzip of them.

Text may be UTF-8 (with or without a byte order mark), UTF-16, UTF-32 or Windows' cp1252. What is too large, too deep or
something else is refused in one line; nothing here runs what it reads.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from harness.errors import first_line

Row = dict[str, Any]
Wanted = Callable[[list[str]], list[str]]
FORMATS = "JSONL, a JSON array, CSV or Parquet (gzip allowed), or a folder of such files"

LARGEST = 2 * 2**30  # bytes, unpacked
MOST_ROWS = 10_000_000
DEEPEST = 64  # levels of brackets
LONGEST_INTEGER = 1000  # digits; a longer one stays text
BATCH_ROWS = 128  # of Parquet, unpacked at once

BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
NOT_DATA = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself; fetch it (git lfs pull)"),
    (b"<!doctype html", "a web page"),
    (b"<html", "a web page"),
    (b"PK\x03\x04", "a zip archive; unpack it"),
    (b"\x28\xb5\x2f\xfd", "zstd; unpack it (zstd -d)"),
    (b"BZh", "bzip2; unpack it (bunzip2)"),
    (b"\xfd7zXZ", "xz; unpack it (unxz)"),
    (b"ARROW1", "an Arrow file; write it as Parquet"),
    (b"Obj\x01", "an Avro file; write it as Parquet"),
    (b"\x80\x04", "a pickle, which would run code when read; write it as Parquet or JSONL"),
)
NAMES = (".jsonl", ".json", ".ndjson", ".csv", ".tsv", ".parquet", ".gz")
SPLITS = {"train": "train", "test": "test", "validation": "validation", "valid": "validation", "val": "validation"}
SPLITS |= {"dev": "validation", "eval": "validation"}


class Unreadable(ValueError):
    """Why a file cannot be read, in words that follow its name."""


def read_rows(path: Path, wanted: Wanted, split: str) -> list[Row]:
    """The rows of a file, or of the files in a folder in the order of their names.

    path: of the file or folder.
    wanted: names of all columns → those needed; of Parquet the others are not read.
    split: "train", "validation" or "test": which files count, where those of a folder are named after splits.
    Raises Unreadable.
    """
    files = shards(path, split) if path.is_dir() else [path]
    rows: list[Row] = []
    for file in files:
        try:
            rows += _rows(file, wanted)
        except Unreadable as error:
            raise Unreadable(f"{file.relative_to(path)}: {error}" if file != path else str(error)) from error
        if len(rows) > MOST_ROWS:
            raise Unreadable(f"more than {MOST_ROWS:,} rows; give fewer")
    return rows


def shards(folder: Path, split: str) -> list[Path]:
    """The files of a split in a folder such as a download from the hub. Raises Unreadable if there is none."""
    files = [
        f for f in sorted(folder.rglob("*")) if f.is_file() and f.suffix.lower() in NAMES and f.name[0] not in "._"
    ]
    files = [f for f in files if not any(part.startswith(".") for part in f.relative_to(folder).parts)]
    if not files:
        raise Unreadable(f"no file that ends in {', '.join(NAMES)} in this folder")
    splits = {f: split_of(f.relative_to(folder)) for f in files}
    named = {name for name in splits.values() if name}
    if not named:
        return files
    chosen = split if split in named or len(named) > 1 else named.pop()
    found = [f for f in files if splits[f] == chosen]
    if not found:
        raise Unreadable(f"no file of the split {split} in this folder; it has {', '.join(sorted(named))}")
    return found


def split_of(path: Path) -> str:
    """The split that a file's name, or that of a folder above it, begins with (train-00000-of-2.parquet), or ""."""
    for part in (path.name, *reversed(path.parts[:-1])):
        word = part.lower().replace("_", "-").replace(".", "-").split("-")[0]
        if word in SPLITS:
            return SPLITS[word]
    return ""


def _rows(file: Path, wanted: Wanted) -> list[Row]:
    """The rows of one file. Raises Unreadable."""
    size = file.stat().st_size
    if size > LARGEST:
        raise Unreadable(f"{size / 2**30:.1f} GiB; at most {LARGEST / 2**30:.0f} GiB can be read")
    with file.open("rb") as opened:
        head = opened.read(4)
    if head == b"PAR1":
        return _parquet(file, wanted)
    data = file.read_bytes()
    if data[:2] == b"\x1f\x8b":
        data = _unzipped(data)
        if data[:4] == b"PAR1":
            return _parquet(io.BytesIO(data), wanted)
    for magic, words in NOT_DATA:
        if data[:64].lstrip().lower().startswith(magic.lower()):
            raise Unreadable(f"this is {words}; expected {FORMATS}")
    return parsed(decoded(data), file.name.removesuffix(".gz"))


def _unzipped(data: bytes) -> bytes:
    try:
        with gzip.open(io.BytesIO(data)) as packed:
            content = packed.read(LARGEST + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise Unreadable(f"gzip that cannot be unpacked ({first_line(error)})") from error
    if len(content) > LARGEST:
        raise Unreadable(f"more than {LARGEST / 2**30:.0f} GiB once unpacked")
    return content


def decoded(data: bytes) -> str:
    """Bytes as text: by the byte order mark, else UTF-8, UTF-16 without one, or cp1252. Raises Unreadable."""
    encodings = [name for bom, name in BOMS if data.startswith(bom)][:1]
    if not encodings:
        zeros = [data[:400:2].count(0), data[1:400:2].count(0)]
        wide = ["utf-16-be"] if zeros[0] > 50 > zeros[1] else ["utf-16-le"] if zeros[1] > 50 > zeros[0] else []
        encodings = wide or ["utf-8", "cp1252"]
    for encoding in encodings:
        try:
            return data.decode(encoding)
        except UnicodeDecodeError as error:
            last = error
    raise Unreadable(f"not text: byte {data[last.start]:#04x} at {last.start} is no {' or '.join(encodings)}")


def parsed(text: str, name: str) -> list[Row]:
    """The rows of a text: a JSON array, an object a line, or CSV with a header.

    text: of the file. name: of the file; one that ends in csv or tsv is not taken for JSON.
    Raises Unreadable.
    """
    start = text.lstrip()[:1]
    if not start:
        return []
    if name.lower().endswith((".csv", ".tsv")) or (start not in "[{" and _looks_like_csv(text)):
        return list(_csv(text))
    if start == "[":
        return _objects(_json(text, "the file"), "the file")
    return list(_lines(text))


def _lines(text: str) -> Iterator[Row]:
    """An object a line; else the whole text as one object that holds the only list of rows."""
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = _json(line, f"line {number}")
        except Unreadable:
            if number == 1 and "\n" in text.strip():
                yield from _objects(_json_or_line(text, line), "the file")
                return
            raise
        if not isinstance(row, dict):
            raise Unreadable(f"line {number} is no JSON object; expected {FORMATS}")
        yield row


def _json_or_line(text: str, line: str) -> Any:
    """The whole text as JSON; where that fails too, what is wrong with its first line is the better message."""
    try:
        return _json(text, "the file")
    except Unreadable:
        return _json(line, "line 1")


def _objects(value: Any, what: str) -> list[Row]:
    """The rows in a JSON value: a list of objects, or an object whose only list of objects that is."""
    if isinstance(value, dict):
        lists = [v for v in value.values() if isinstance(v, list) and v and isinstance(v[0], dict)]
        value = lists[0] if len(lists) == 1 else [value] if not lists else value
    if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
        raise Unreadable(f"{what} is no list of JSON objects; expected {FORMATS}")
    return value


def _json(text: str, what: str) -> Any:
    """A JSON value; NaN and infinities become null, integers without end stay text. Raises Unreadable."""
    try:
        value = json.loads(text, parse_constant=lambda name: None, parse_int=_integer)
        deep = _depth(value) > DEEPEST
    except RecursionError:
        deep = True
    except ValueError as error:
        raise Unreadable(f"{what} is not JSON ({first_line(error)}); expected {FORMATS}") from error
    if deep:
        raise Unreadable(f"{what} is nested more than {DEEPEST} levels deep")
    return value


def _depth(value: Any) -> int:
    """Levels of lists and objects."""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inside is None else 1 + max(map(_depth, inside), default=0)


def _integer(digits: str) -> int | str:
    return int(digits) if len(digits) <= LONGEST_INTEGER else digits


def _looks_like_csv(text: str) -> bool:
    """Whether the first line is a header: several names, none of them a number."""
    names = next(csv.reader([text.lstrip().split("\n", 1)[0]], delimiter=_delimiter(text)))
    return len(names) > 1 and all(name.strip().replace("_", "").replace(" ", "").isalpha() for name in names)


def _delimiter(text: str) -> str:
    header = text.lstrip().split("\n", 1)[0]
    return max(",\t;", key=header.count)


def _csv(text: str) -> Iterator[Row]:
    csv.field_size_limit(LARGEST)  # a solution may be longer than the 128 KiB that csv allows
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=_delimiter(text))
    try:
        for row in reader:
            yield {str(name): value for name, value in row.items() if name is not None}
    except csv.Error as error:
        raise Unreadable(f"line {reader.line_num} is no CSV ({error}); expected {FORMATS}") from error


def _parquet(file: Path | io.BytesIO, wanted: Wanted) -> list[Row]:
    """The rows of a Parquet file, a batch at a time: a small file of many equal values cannot fill the memory."""
    import pyarrow.parquet  # late: only a Parquet file needs it

    rows: list[Row] = []
    size = 0
    try:
        opened = pyarrow.parquet.ParquetFile(file)
        for batch in opened.iter_batches(BATCH_ROWS, columns=wanted(opened.schema_arrow.names)):
            is_packed = [pyarrow.types.is_dictionary(column.type) for column in batch.columns]
            columns = [c.dictionary_decode() if p else c for c, p in zip(batch.columns, is_packed, strict=True)]
            size += sum(column.nbytes for column in columns)
            if size > LARGEST or len(rows) > MOST_ROWS:
                raise Unreadable(f"more than {LARGEST / 2**30:.0f} GiB or {MOST_ROWS:,} rows once unpacked")
            rows += batch.to_pylist()
    except (OSError, pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise Unreadable(f"no Parquet file that can be read ({first_line(error)})") from error
    return rows
