"""Checkpoints that cannot lie: a folder is written beside, synced and renamed; its manifest is the commit.

    checkpoints/000400/   config.json, model.safetensors, tokenizer files   an ordinary Hugging Face folder
                          optimizer.safetensors, rollouts.safetensors       the rest of the state
                          checkpoint.json                                   counters, and every file's size and hash

A checkpoint whose files do not match its checkpoint.json is named, left alone, and the one before is used.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from harness.errors import RunFailed
from harness.models.loading import LoadedModel
from harness.models.sequences import Rollouts
from harness.records.files import file_sha256, read_json, sync_folder, write_json

MANIFEST = "checkpoint.json"
KEEP = 2  # newest checkpoints kept, beside the best one


@dataclass(frozen=True)
class Checkpoint:
    """counters: JSON state. optimizer: flat tensors. line: rollouts by batch index, the delay line."""

    folder: Path
    counters: dict[str, Any]
    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    line: dict[int, Rollouts]


def save(
    root: Path,
    update: int,
    model: LoadedModel,
    optimizer: dict[str, Tensor],
    line: dict[int, Rollouts],
    counters: dict[str, Any],
) -> Path:
    """Writes checkpoint `update` below `root`, verifies it, and only then drops older ones.

    Raises RunFailed when the disk is full or the folder cannot be written; what was there stays good.
    """
    final = root / f"{update:06d}"
    if final.exists() and defect(final) is None:
        return final
    partial = root / f".{update:06d}.partial"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        model.module.save_pretrained(partial)
        model.tokenizer.save_pretrained(partial)
        save_file(optimizer, partial / "optimizer.safetensors")
        save_file(_flat_line(line), partial / "rollouts.safetensors")
        files = {path.name: _commit(path) for path in sorted(partial.iterdir())}
        write_json(partial / MANIFEST, {"update": update, "counters": counters, "line": sorted(line), "files": files})
        sync_folder(partial)
        if final.exists():
            shutil.rmtree(final)  # it was found defective, or we would not have come here
        partial.rename(final)
        sync_folder(root)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise RunFailed(
            f"checkpoint at update {update} could not be written ({error}); "
            "the one before is intact: free space, run again"
        ) from error
    return final


def prune(root: Path, keep_also: set[int]) -> None:
    """Drops all but the newest `KEEP` checkpoints and `keep_also`, once the newest is known to be good."""
    found = _folders(root)
    if not found or defect(found[-1]):
        return
    for folder in found[:-KEEP]:
        if int(folder.name) not in keep_also:
            shutil.rmtree(folder)


def newest_good(root: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that is whole, and a line about each newer one that is not."""
    complaints: list[str] = []
    for folder in reversed(_folders(root)):
        problem = defect(folder)
        if problem is None:
            return load(folder), complaints
        complaints.append(f"{folder}: {problem}; using the one before")
    return None, complaints


def load(folder: Path) -> Checkpoint:
    manifest = read_json(folder / MANIFEST)
    flat = load_file(folder / "rollouts.safetensors")
    line = {
        index: Rollouts(**{name: flat[f"{index}.{name}"] for name in Rollouts.__dataclass_fields__})
        for index in manifest["line"]
    }
    return Checkpoint(
        folder,
        manifest["counters"],
        load_file(folder / "model.safetensors"),
        load_file(folder / "optimizer.safetensors"),
        line,
    )


def defect(folder: Path) -> str | None:
    """What is wrong with a checkpoint, None if every file has the size and hash its manifest says."""
    try:
        files: dict[str, dict[str, Any]] = read_json(folder / MANIFEST)["files"]
        for name, expected in files.items():
            path = folder / name
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != expected["bytes"]:
                return f"{name} has {path.stat().st_size} bytes instead of {expected['bytes']}"
            if file_sha256(path) != expected["sha256"]:
                return f"{name} does not have the hash it was written with"
    except (OSError, ValueError, KeyError, TypeError) as error:
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
    return {
        f"{index}.{name}": tensor.contiguous()
        for index, rollouts in line.items()
        for name, tensor in rollouts.tensors().items()
    }


def _commit(path: Path) -> dict[str, Any]:
    """Size and hash of a file that has reached the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return {"bytes": path.stat().st_size, "sha256": file_sha256(path)}


def _folders(root: Path) -> list[Path]:
    return sorted(p for p in root.iterdir() if p.is_dir() and p.name.isdigit()) if root.is_dir() else []
