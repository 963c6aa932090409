"""Safetensors files, written and read one tensor at a time, so that no second copy of a model is ever in memory.

    8 bytes: length of the header · the header, JSON: {name: {dtype, shape, data_offsets}} · the tensors' bytes

The files are those of the safetensors library, byte for byte; the library itself holds all tensors at once.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Container, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

# In the order in which the format lays tensors out.
DTYPES = {
    "I64": torch.int64,
    "F64": torch.float64,
    "F32": torch.float32,
    "I32": torch.int32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
CODES = {dtype: code for code, dtype in DTYPES.items()}
RANKS = {dtype: rank for rank, dtype in enumerate(CODES)}
METADATA = "__metadata__"


class Damaged(ValueError):
    """A file is not what was written; the message says which one and how."""


def pieces(
    tensors: Mapping[str, Tensor],
    stored_as: Mapping[str, torch.dtype] | None = None,
    metadata: dict[str, str] | None = None,
    whole: Callable[[Tensor], Tensor] = lambda tensor: tensor,
    own: Container[str] | None = None,
) -> Iterator[memoryview]:
    """A safetensors file, piece by piece: its header, then each tensor's bytes.

    tensors: by name, of any shape, on any device; one at a time is copied, and only where its bytes are not at hand.
    stored_as: name → another type that holds the tensor's values.
    metadata: of the file.
    whole: brings a tensor together, whose slices several processes hold; all of them call it for every tensor, in turn.
    own: names of the tensors that the file holds, where others go to the files of other processes.
    """
    own = tensors if own is None else own
    dtypes = {name: tensor.dtype for name, tensor in tensors.items()} | dict(stored_as or {})
    names = sorted(tensors, key=lambda name: (RANKS[dtypes[name]], name))
    yield _header([(name, dtypes[name], tensors[name].shape) for name in names if name in own], metadata)
    for name in names:
        tensor = whole(tensors[name].detach())
        if name in own:
            yield _bytes(tensor.to("cpu", dtypes[name]).contiguous())


def read_tensors(path: Path, sha256: str) -> Iterator[tuple[str, Tensor]]:
    """Each tensor of a safetensors file with its name, one at a time, on the CPU, in memory of its own.

    sha256: of the whole file, known once the last tensor has been read: nothing may rely on one before.
    Raises Damaged if the file has another hash; OSError, KeyError, TypeError, ValueError if it is no safetensors file.
    """
    with path.open("rb") as file:
        source = _HashedSource(file, path)
        for name, entry in _entries(source):
            dtype, shape = DTYPES[entry["dtype"]], entry["shape"]
            source.check_left(math.prod(shape) * dtype.itemsize)
            tensor = torch.empty(shape, dtype=dtype)
            source.fill(_bytes(tensor))
            yield name, tensor
        source.check(sha256)


class _HashedSource:
    """A file that is read from its beginning to its end, and the hash of what was read."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file, self._name = file, path.name
        self._left = path.stat().st_size
        self._digest = hashlib.sha256()

    def check_left(self, size: int) -> None:
        if not 0 <= size <= self._left:
            raise Damaged(f"{self._name} has {self._left} bytes left where {size} should follow")

    def fill(self, target: memoryview) -> None:
        self.check_left(len(target))
        self._left -= self._file.readinto(target)  # type: ignore[attr-defined]
        self._digest.update(target)

    def check(self, sha256: str) -> None:
        if self._left or self._digest.hexdigest() != sha256:
            raise Damaged(f"{self._name} does not have the hash it was written with")


def _entries(source: _HashedSource) -> list[tuple[str, dict[str, Any]]]:
    """Name and entry of every tensor, in the order of their bytes."""
    length = bytearray(8)
    source.fill(memoryview(length))
    source.check_left(int.from_bytes(length, "little"))
    text = bytearray(int.from_bytes(length, "little"))
    source.fill(memoryview(text))
    header: dict[str, Any] = json.loads(text)
    return sorted(
        ((name, entry) for name, entry in header.items() if name != METADATA), key=lambda one: one[1]["data_offsets"]
    )


def _header(entries: list[tuple[str, torch.dtype, torch.Size]], metadata: dict[str, str] | None) -> memoryview:
    header: dict[str, Any] = {} if metadata is None else {METADATA: metadata}
    end = 0
    for name, dtype, shape in entries:
        start, end = end, end + shape.numel() * dtype.itemsize
        header[name] = {"dtype": CODES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return memoryview(len(text).to_bytes(8, "little") + text)


def _bytes(tensor: Tensor) -> memoryview:
    """The memory of a contiguous tensor on the CPU, as bytes."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data
