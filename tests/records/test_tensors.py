"""Safetensors files written by ourselves: the bytes of the library, and what was damaged is said."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from harness.records.files import write_hashed
from harness.records.tensors import DTYPES, Damaged, pieces, read_tensors


def several() -> dict[str, Tensor]:
    """Every type, a scalar, an empty tensor, a view with gaps, and names that sort oddly."""
    generator = torch.Generator().manual_seed(0)
    tensors = {f"t{i}": torch.randint(0, 2, (3, 2), generator=generator).to(d) for i, d in enumerate(DTYPES.values())}
    scalars = {"10.step": torch.tensor(3.0), "9.step": torch.tensor(4.0)}
    return tensors | scalars | {"empty": torch.zeros(0, 4), "a.ä": torch.arange(12.0).view(3, 4)[:, ::2]}


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_bytes_are_those_of_the_library(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    for tensors in (several(), {}):
        written = write_hashed(tmp_path / "t", pieces(tensors, metadata=metadata))
        expected = save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata)
        assert (tmp_path / "t").read_bytes() == expected
        assert written["bytes"] == len(expected)


def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    written = write_hashed(tmp_path / "t", pieces(several()))
    back = dict(read_tensors(tmp_path / "t", written["sha256"]))
    assert back.keys() == several().keys()
    for name, tensor in several().items():
        assert back[name].dtype == tensor.dtype and torch.equal(back[name], tensor), name


def test_a_narrower_type_holds_the_same_values(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(5, dtype=torch.int32), "b": torch.ones(2)}
    write_hashed(tmp_path / "t", pieces(tensors, {"a": torch.uint8}))
    back = load_file(tmp_path / "t")
    assert (
        back["a"].dtype == torch.uint8
        and back["a"].tolist() == [0, 1, 2, 3, 4]
        and torch.equal(back["b"], tensors["b"])
    )


def test_every_flipped_or_missing_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "t"
    sha256 = write_hashed(path, pieces({"a": torch.ones(3), "b": torch.zeros(2, dtype=torch.int32)}))["sha256"]
    content = path.read_bytes()
    damaged = [
        content[:i] + bytes([content[i] ^ bit]) + content[i + 1 :] for i in range(len(content)) for bit in (1, 128)
    ]
    damaged += [content[:i] for i in range(len(content))] + [content + b"0", b"\xff" * 8 + content]
    for bad in damaged:
        path.write_bytes(bad)
        with pytest.raises((Damaged, ValueError, KeyError, TypeError, AttributeError)):
            list(read_tensors(path, sha256))
