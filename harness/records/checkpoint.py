"""Checkpoints: a folder is written beside, synced, read back and renamed; its manifest is the commit.

    checkpoints/000400/   config.json, model.safetensors, tokenizer files   an ordinary Hugging Face folder
                          optimizer.safetensors, rollouts.safetensors       the rest of the state
                          (model-00001-of-00002.safetensors … of two ranks; the same for the optimizer)
                          checkpoint.json                                   counters, and every file's size and hash

Files are hashed while they are written, tensor by tensor, and while they are read; the name of the folder is what
makes it a checkpoint. One whose files do not match its checkpoint.json is named and removed, and the one before used.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.config import Config
from harness.errors import RunFailed, UserError, printable
from harness.records import flat
from harness.records.files import file_sha256, read_json, read_signed, signed, sync, sync_all, write_hashed
from harness.records.layout import CHECKPOINT
from harness.records.parts import METADATA, OPTIMIZER, WEIGHTS, WEIGHTS_INDEX, index_of, tensor_files
from harness.records.tensors import pieces, read_tensors
from harness.types import Rollouts

ROLLOUTS = "rollouts.safetensors"
NOT_THERE = (FileNotFoundError, IsADirectoryError, NotADirectoryError)  # damage; other OSErrors are the disk's
KEEP = 2  # newest checkpoints kept where record.keep_checkpoints lists updates


def check_kept(config: Config) -> None:
    """Raises UserError for a `record.keep_checkpoints` that is none, or lists updates that end no step of this run."""
    keep, unit = config.record.keep_checkpoints, config.updates_per_step
    if not (keep == "all" or (isinstance(keep, list) and keep) or (type(keep) is int and keep >= 1)):
        raise UserError(f"record.keep_checkpoints={keep}: expected a number of at least 1, all, or a list of updates")
    for update in keep if isinstance(keep, list) else ():
        if type(update) is not int or update % unit or not 0 < update <= config.updates:
            raise UserError(
                f"record.keep_checkpoints: update {update} ends no step of this run; "
                f"expected multiples of updates_per_step={unit} from {unit} to {config.updates}"
            )


@dataclass(frozen=True)
class RunState:
    """Everything a run carries on from.

    weights: the model's state dict.
    optimizer: the learner's.
    rollouts: the rollout queue, by index of chunk.
    counters: the rest, as JSON.
    write_files: writes weights, their index and the optimizer into a folder, in place of the two above, where one
        process alone cannot; returns size and hash of each file.
    """

    weights: dict[str, Tensor]
    optimizer: torch.optim.Optimizer
    rollouts: dict[int, Rollouts]
    counters: dict[str, Any]
    write_files: Callable[[Path], dict[str, dict[str, Any]]] | None = None


class Checkpoints:
    """Writes the checkpoints of one run.

    root: the folder they lie in.
    describe: writes config.json and the tokenizer's files into a folder; the same in every checkpoint of a run.
    keep: `record.keep_checkpoints`: how many of the newest stay, "all", or the updates whose checkpoints stay.
    config_sha256: hash of the run's configuration.
    """

    def __init__(self, root: Path, describe: Callable[[Path], None], keep: Any = KEEP, config_sha256: str = "") -> None:
        self._root = root
        self._config_sha256 = config_sha256
        self._describe = describe
        self._description: dict[str, list[bytes]] = {}
        self.listed = frozenset(keep if isinstance(keep, list) else ())
        self._newest = None if keep == "all" else KEEP if isinstance(keep, list) else int(keep)

    def save(self, update: int, state: RunState, best: int) -> Path:
        """Writes and verifies the checkpoint of an update, and only then drops those that need not stay.

        best: update of the best checkpoint on validation, which stays.
        Returns its folder. Raises RunFailed when the disk is full or cannot be written; what was there stays good.
        """
        final = self._root / f"{update:06d}"
        if final.exists() and defect(final) is None and _counters(final) == json.loads(json.dumps(state.counters)):
            return final  # this very moment; another one's counters do not fit the rows of today
        partial = self._root / f".{update:06d}.partial"
        try:
            self._remove_partial()
            partial.mkdir(parents=True)
            self._write(partial, update, state)
            if final.exists():
                self._remove(final)  # of a run that started again before it, or defective
            partial.rename(final)
            sync(self._root)
            self._prune(final, best)
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise RunFailed(
                f"checkpoint at update {update} could not be written ({error}); "
                "the one before is intact: free space (df -h, df -i) or mend the disk, run again with retry_failed=true"
            ) from error
        return final

    def settle(self, version: int) -> None:
        """Removes what killed saves left, and checkpoints newer than the one carried on from.

        version: its update, −1 if there is none. Those after it are damaged or of other records; kept, they would be
        counted among the newest, and good ones would go in their place.
        """
        self._remove_partial()
        for folder in _folders(self._root):
            if int(folder.name) > version:
                self._remove(folder)

    def _write(self, folder: Path, update: int, state: RunState) -> None:
        """Writes all files and reads them back. Raises OSError."""
        rollouts = flat.rollout_tensors(state.rollouts)
        contents: dict[str, Iterable[bytes | memoryview]] = {
            **self._model_description(),
            ROLLOUTS: pieces(rollouts, flat.narrowest(rollouts)),
        }
        if state.write_files is None:
            weights = flat.stored_once(state.weights)
            contents[WEIGHTS_INDEX] = index_of(dict.fromkeys(weights, WEIGHTS))
            contents[WEIGHTS] = pieces(weights, metadata=METADATA)
            contents[OPTIMIZER] = pieces(flat.optimizer_tensors(state.optimizer))
        files = {name: write_hashed(folder / name, content) for name, content in contents.items()}
        if state.write_files is not None:
            files |= state.write_files(folder)
        write_hashed(folder / CHECKPOINT, [_manifest(update, self._config_sha256, state.counters, files)])
        sync_all([folder / name for name in (*files, CHECKPOINT)])
        problem = defect(folder)
        if problem is not None:
            raise OSError(f"reads back otherwise than it was written: {problem}")
        sync(folder)

    def _model_description(self) -> dict[str, list[bytes]]:
        if not self._description:
            with tempfile.TemporaryDirectory(prefix=".describe-", suffix=".partial", dir=self._root) as folder:
                self._describe(Path(folder))
                files = sorted(path for path in Path(folder).iterdir() if path.is_file())
                self._description = {path.name: [path.read_bytes()] for path in files}
        return self._description

    def _prune(self, newest: Path, best: int) -> None:
        if self._newest is None:
            return
        older = [folder for folder in _folders(self._root) if folder != newest]
        for folder in older[: max(len(older) - self._newest + 1, 0)]:
            if int(folder.name) not in self.listed | {best}:
                self._remove(folder)

    def _remove(self, folder: Path) -> None:
        """In one step for whoever looks: a checkpoint is whole or has no name."""
        left = self._root / f".{folder.name}.removed.partial"
        folder.rename(left)
        shutil.rmtree(left)

    def _remove_partial(self) -> None:
        """Drops what a killed save left behind."""
        for left in self._root.glob(".*.partial"):
            shutil.rmtree(left, ignore_errors=True)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that has been read and found whole, as what RunState was made of.

    optimizer: by flat name, for `flat.restore_optimizer`.
    files: every file's hash by its name.
    """

    folder: Path
    counters: dict[str, Any]
    optimizer: dict[str, Tensor]
    rollouts: dict[int, Rollouts]
    files: dict[str, str]

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Each weight with its name, read from its file one at a time."""
        for name in tensor_files(self.files, WEIGHTS):
            yield from read_tensors(self.folder / name, self.files[name])


def newest_good(
    root: Path,
    usable: Callable[[dict[str, Any]], str | None],
    device: str = "cpu",
    config_sha256: str = "",
    *,
    sliced: bool = False,
) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that is whole and usable, None if there is none.

    root: the folder of checkpoints.
    usable: counters → why they cannot be used, or None.
    device: where the optimizer's tensors go, one at a time.
    config_sha256: hash of the run's configuration; a checkpoint of another is passed over.
    sliced: the optimizer is not read here, but in slices by each of the learner's ranks.
    Returns it with a line about each newer one that was passed over, for `Checkpoints.settle` to remove.
    Raises OSError where the disk or the rights refuse to read: that says nothing about what is written there.
    """
    complaints: list[str] = []
    for folder in reversed(_folders(root)):
        # What overwrites nothing is hashed while it is read for good; the weights overwrite the model's, so are not.
        unread = (ROLLOUTS,) if sliced else (OPTIMIZER, ROLLOUTS)
        problem = defect(folder, unread) or _stranger(folder, config_sha256)
        problem = problem or usable(_counters(folder))
        if problem is None:
            try:
                return read_checkpoint(folder, None if sliced else device), complaints
            except (*NOT_THERE, AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
                problem = f"cannot be read ({type(error).__name__}: {error})"
        complaints.append(f"{folder}: {problem}; removed, the one before is used")
    return None, complaints


def _stranger(folder: Path, config_sha256: str) -> str | None:
    """Why a checkpoint is not this run's, None if it is, or does not say (those of 0.1.0)."""
    written = read_json(folder / CHECKPOINT).get("config_sha256")
    if not (written and config_sha256) or written == config_sha256:
        return None
    return f"belongs to another configuration ({written[:10]}, this run is {config_sha256[:10]})"


def _counters(folder: Path) -> Any:
    return read_json(folder / CHECKPOINT)["counters"]


def read_checkpoint(folder: Path, device: str | None) -> Checkpoint:
    """A checkpoint whose files are whole. device: of the optimizer's tensors; None leaves them in their files."""
    manifest = read_json(folder / CHECKPOINT)
    hashes = {name: str(file["sha256"]) for name, file in manifest["files"].items()}
    optimizer = {
        name: tensor.to(device)
        for file in tensor_files(hashes, OPTIMIZER)
        if device is not None
        for name, tensor in read_tensors(folder / file, hashes[file])
    }
    rollouts = flat.stored_rollouts(dict(read_tensors(folder / ROLLOUTS, hashes[ROLLOUTS])))
    return Checkpoint(folder, manifest["counters"], optimizer, rollouts, hashes)


def defect(folder: Path, unread: Iterable[str] = ()) -> str | None:
    """What is wrong with a checkpoint, None if every file has the size and hash its manifest says.

    unread: files whose hash is not looked at, however many they are split into.
    """
    try:
        files = read_signed(folder / CHECKPOINT)["files"]
        skipped = {name for whole in unread for name in tensor_files(files, whole)}
        problems = (_file_defect(folder / name, file, name in skipped) for name, file in files.items())
        return next((problem for problem in problems if problem), None)
    except (*NOT_THERE, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{CHECKPOINT} cannot be read ({type(error).__name__}: {error})"


def check_whole(folder: Path, weights: bool) -> None:
    """Refuses a checkpoint of a run whose files are not what was written; a folder from elsewhere passes.

    folder: what is to be evaluated.
    weights: look at their hash, too, which takes a second a gigabyte.
    Raises UserError.
    """
    unread = (OPTIMIZER, ROLLOUTS) if weights else (OPTIMIZER, ROLLOUTS, WEIGHTS)
    problem = defect(folder, unread) if (folder / CHECKPOINT).is_file() else None
    if problem is not None:
        raise UserError(printable(f"checkpoint={folder}: {problem}; evaluate another one, or run again what wrote it"))


def _file_defect(path: Path, expected: dict[str, Any], unread: bool) -> str | None:
    if not path.is_file():
        return f"{path.name} is missing"
    if path.stat().st_size != expected["bytes"]:
        return f"{path.name} has {path.stat().st_size} bytes instead of {expected['bytes']}"
    if not unread and file_sha256(path) != expected["sha256"]:
        return f"{path.name} does not have the hash it was written with"
    return None


def _manifest(update: int, config_sha256: str, counters: dict[str, Any], files: dict[str, dict[str, Any]]) -> bytes:
    manifest = {"update": update, "config_sha256": config_sha256, "counters": counters, "files": files}
    return json.dumps(signed(manifest), indent=2).encode() + b"\n"


def _folders(root: Path) -> list[Path]:
    return sorted(p for p in root.iterdir() if p.is_dir() and p.name.isdecimal()) if root.is_dir() else []
