"""Checkpoints that cannot lie: a folder is written beside, synced and renamed; its manifest is the commit.

    checkpoints/000400/   config.json, model.safetensors, tokenizer files   an ordinary Hugging Face folder
                          optimizer.safetensors, rollouts.safetensors       the rest of the state
                          checkpoint.json                                   counters, and every file's size and hash

Hashes are those of the bytes in memory; every file is read back and compared with them before the folder gets its
name, which is what makes it a checkpoint.
A checkpoint whose files do not match its checkpoint.json is named, left alone, and the one before is used.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor

from harness.errors import RunFailed
from harness.models.loading import LoadedModel
from harness.records.files import file_sha256, read_json, sync_folder
from harness.types import Rollouts

MANIFEST = "checkpoint.json"
KEEP = 2  # newest checkpoints kept, beside the best one
FIELDS = tuple(Rollouts.__dataclass_fields__)
# Integers are stored in the smallest of these that holds them, and come back as int32.
INTEGERS = (torch.uint8, torch.int16, torch.int32)


@dataclass(frozen=True)
class Checkpoint:
    """counters: JSON state. optimizer: flat tensors. line: rollouts by batch index, the delay line."""

    folder: Path
    counters: dict[str, Any]
    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    line: dict[int, Rollouts]


class Checkpoints:
    """Writes the checkpoints of one run below `root`."""

    def __init__(self, root: Path, model: LoadedModel) -> None:
        self._root = root
        self._model = model
        self._unchanging: dict[str, bytes] | None = None

    def save(
        self,
        update: int,
        optimizer: dict[str, Tensor],
        line: dict[int, Rollouts],
        counters: dict[str, Any],
        keep_also: set[int],
    ) -> Path:
        """Writes checkpoint `update`, verifies it, and only then drops all but the newest and `keep_also`.

        Raises RunFailed when the disk is full or the folder cannot be written; what was there stays good.
        """
        final = self._root / f"{update:06d}"
        if final.exists() and defect(final) is None:
            return final
        partial = self._root / f".{update:06d}.partial"
        try:
            self._clean()
            partial.mkdir(parents=True)
            contents = self._model_files() | {
                "optimizer.safetensors": to_bytes(optimizer),
                "rollouts.safetensors": to_bytes(_flat_line(line)),
            }
            contents[MANIFEST] = _manifest(update, counters, contents)
            with ThreadPoolExecutor(len(contents)) as pool:  # the syncs wait together, not one after the other
                for _ in pool.map(lambda item: _write(partial / item[0], item[1]), contents.items()):
                    pass
            for name, content in contents.items():  # not in the pool: every thread would keep memory of its own for it
                if (partial / name).read_bytes() != content:
                    raise OSError(f"{name} reads back otherwise than it was written")
            sync_folder(partial)
            if final.exists():
                shutil.rmtree(final)  # it was found defective, or we would not have come here
            partial.rename(final)
            sync_folder(self._root)
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise RunFailed(
                f"checkpoint at update {update} could not be written ({error}); "
                "the one before is intact: free space, run again"
            ) from error
        self._prune(final, keep_also)
        return final

    def _prune(self, newest: Path, keep_also: set[int]) -> None:
        older = [folder for folder in _folders(self._root) if folder != newest]
        for folder in older[: len(older) - KEEP + 1]:
            if int(folder.name) not in keep_also:
                shutil.rmtree(folder)

    def _clean(self) -> None:
        """Drops what a killed save left behind."""
        for left in self._root.glob(".*.partial"):
            shutil.rmtree(left, ignore_errors=True)

    def _model_files(self) -> dict[str, bytes]:
        if self._unchanging is None:
            self._unchanging = _described(self._model, self._root)
        # Tied tensors are stored once, under the name that comes first, as save_pretrained does.
        seen: set[tuple[int, torch.Size]] = set()
        weights = {}
        for name, tensor in self._model.module.state_dict().items():
            place = (tensor.data_ptr(), tensor.shape)
            if place not in seen:
                weights[name] = tensor.detach().cpu().contiguous()
                seen.add(place)
        # The index is for programs that would take every *.safetensors of the folder for weights, as vLLM does.
        index = {"metadata": {}, "weight_map": dict.fromkeys(weights, "model.safetensors")}
        return self._unchanging | {
            "model.safetensors": to_bytes(weights, metadata={"format": "pt"}),
            "model.safetensors.index.json": json.dumps(index).encode(),
        }


def restore_weights(model: LoadedModel, weights: dict[str, Tensor]) -> None:
    """Loads a checkpoint's weights. Raises RunFailed if a parameter is missing that no tie fills in."""
    result = model.module.load_state_dict(weights, strict=False)
    model.module.tie_weights()
    state = model.module.state_dict()
    stored = {state[name].data_ptr() for name in weights if name in state}
    missing = [name for name in result.missing_keys if state[name].data_ptr() not in stored]
    if missing or result.unexpected_keys:
        odd = (missing or result.unexpected_keys)[0]
        raise RunFailed(f"the checkpoint's weights are not this model's: {odd}; move the run folder away")


def newest_good(root: Path, usable: Callable[[dict[str, Any]], str | None]) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that is whole and `usable` (of its counters; why not, or None), and a line about each
    newer one that is not."""
    complaints: list[str] = []
    for folder in reversed(_folders(root)):
        problem = defect(folder) or usable(read_json(folder / MANIFEST)["counters"])
        if problem is None:
            try:
                return load(folder), complaints
            except (KeyError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
                problem = f"cannot be read ({type(error).__name__}: {error})"
        complaints.append(f"{folder}: {problem}; using the one before")
    return None, complaints


def load(folder: Path) -> Checkpoint:
    manifest = read_json(folder / MANIFEST)
    return Checkpoint(
        folder,
        manifest["counters"],
        load_file(folder / "model.safetensors"),
        load_file(folder / "optimizer.safetensors"),
        _line(load_file(folder / "rollouts.safetensors")),
    )


def defect(folder: Path) -> str | None:
    """What is wrong with a checkpoint, None if every file has the size and hash its manifest says."""
    try:
        manifest: dict[str, Any] = read_json(folder / MANIFEST)
        if manifest.pop("sha256") != _own_sha256(manifest):
            return f"{MANIFEST} does not have the hash it was written with"
        for name, expected in manifest["files"].items():
            path = folder / name
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != expected["bytes"]:
                return f"{name} has {path.stat().st_size} bytes instead of {expected['bytes']}"
            if file_sha256(path) != expected["sha256"]:
                return f"{name} does not have the hash it was written with"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MANIFEST} cannot be read ({type(error).__name__}: {error})"
    return None


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimizer's state as flat named tensors; hyperparameters come from the config."""
    state = optimizer.state_dict()["state"]
    return {f"{index}.{name}": tensor.clone() for index, own in state.items() for name, tensor in own.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _flat_line(line: dict[int, Rollouts]) -> dict[str, Tensor]:
    """All batches joined field by field; `index` [batches] and the `lengths` [batches, fields] cut them again."""
    parts = [line[index].tensors() for index in sorted(line)]
    if not parts:
        return {}
    tensors = {name: _small(torch.cat([part[name] for part in parts])) for name in FIELDS}
    tensors["index"] = torch.tensor(sorted(line))
    tensors["lengths"] = torch.tensor([[len(part[name]) for name in FIELDS] for part in parts])
    return tensors


def _line(flat: dict[str, Tensor]) -> dict[int, Rollouts]:
    if not flat:
        return {}
    pieces = {
        name: _large(flat[name]).split(lengths)
        for name, lengths in zip(FIELDS, flat["lengths"].T.tolist(), strict=True)
    }
    return {
        index: Rollouts(**{name: pieces[name][i].clone() for name in FIELDS})
        for i, index in enumerate(flat["index"].tolist())
    }


def _small(tensor: Tensor) -> Tensor:
    if tensor.dtype != torch.int32 or not len(tensor):
        return tensor.contiguous()
    low, high = int(tensor.min()), int(tensor.max())
    return tensor.to(next(d for d in INTEGERS if torch.iinfo(d).min <= low and high <= torch.iinfo(d).max))


def _large(tensor: Tensor) -> Tensor:
    return tensor.int() if tensor.dtype in INTEGERS else tensor


def _described(model: LoadedModel, root: Path) -> dict[str, bytes]:
    """config.json and the tokenizer's files: the same in every checkpoint of a run."""
    with tempfile.TemporaryDirectory(prefix=".described-", suffix=".partial", dir=root) as folder:
        model.module.config.save_pretrained(folder)
        if model.module.can_generate() and model.module.generation_config is not None:
            model.module.generation_config.save_pretrained(folder)
        model.tokenizer.save_pretrained(folder)
        return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir()) if path.is_file()}


def _manifest(update: int, counters: dict[str, Any], contents: dict[str, bytes]) -> bytes:
    files = {
        name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in contents.items()
    }
    manifest = {"update": update, "counters": counters, "files": files}
    return json.dumps(manifest | {"sha256": _own_sha256(manifest)}, indent=2).encode() + b"\n"


def _write(path: Path, content: bytes) -> None:
    """Brings the bytes to the disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _folders(root: Path) -> list[Path]:
    return sorted(p for p in root.iterdir() if p.is_dir() and p.name.isdigit()) if root.is_dir() else []


def _own_sha256(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def size(folder: Path) -> int:
    """Bytes of everything a checkpoint needs."""
    return sum(path.stat().st_size for path in folder.iterdir())
