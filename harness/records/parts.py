"""Names of a checkpoint's files of tensors: one file of each kind, or a part for each of several ranks."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
OPTIMIZER = "optimizer.safetensors"
METADATA = {"format": "pt"}  # of the weights' files, for transformers


def part_name(whole: str, rank: int, world: int) -> str:
    """The file of one of several ranks, named as Hugging Face names the parts of a model. whole: its name for one."""
    stem, _, ending = whole.partition(".")
    return whole if world == 1 else f"{stem}-{rank + 1:05d}-of-{world:05d}.{ending}"


def tensor_files(names: Iterable[str], whole: str) -> list[str]:
    """Those of the names that are a file, or its parts. whole: its name where one process has written it."""
    stem, _, ending = whole.partition(".")
    return sorted(name for name in names if name == whole or re.fullmatch(rf"{stem}-\d+-of-\d+\.{ending}", name))


def index_of(weight_map: dict[str, str]) -> list[bytes]:
    """The index of a folder's weights, for programs that would take every *.safetensors for weights, as vLLM does.

    weight_map: name of a tensor → its file.
    """
    return [json.dumps({"metadata": {}, "weight_map": weight_map}).encode()]
