"""A run folder: the record of truth and the unit of resume. What is written into it, `Recorder` decides."""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from harness.config import Config
from harness.errors import RunFailed, UserError, printable
from harness.records.files import naming, read_signed, remove_partials, signed, sync_all, write_json, write_whole
from harness.records.layout import CHECKPOINTS, CONFIG, DIFFS, FILES, FOLDERS, HEARTBEAT, MANIFEST, REFUSED, STREAMS
from harness.records.secrets import recorded
from harness.records.tensors import pieces
from harness.records.token_parts import Marks, TokenParts, part_damage

LONGEST_DIFF = 2000  # characters of it in the manifest


def check_folder(config: Config) -> None:
    """Refuses a place that holds another configuration or cannot be written. Raises UserError; writes nothing."""
    folder = config.folder
    for is_kind, names, what in ((os.path.isfile, FILES, "plain file"), (os.path.isdir, FOLDERS, "folder")):
        for path in (folder / name for name in names):
            if os.path.lexists(path) and not is_kind(path):
                raise UserError(printable(f"{path}: not a {what}; move it away or choose another runs_dir"))
    found = folder / MANIFEST
    if found.is_file():
        try:
            sha = str(read_signed(found)["config_sha256"])
        except (OSError, ValueError, KeyError) as error:
            reason = f"{found}: not a run's manifest ({error!r}); move it away or choose another runs_dir"
            raise UserError(printable(reason)) from error
        if sha != config.sha256():
            raise UserError(
                f"{folder} holds another configuration ({sha[:10]}); choose another runs_dir or move it away"
            )
    existing = next(p for p in (folder, *folder.resolve().parents) if p.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise UserError(
            f"runs_dir={config.runs_dir}: cannot write in {existing} ({error.strerror}); choose another runs_dir"
        ) from error


class RunFolder:
    """Writes one run's records. Rows are appended; a checkpoint remembers how far they went.

    path: the folder, made if it is not there.
    config: of the run.
    """

    def __init__(self, path: Path, config: Config) -> None:
        self.path = path
        self.checkpoints = path / CHECKPOINTS
        path.mkdir(parents=True, exist_ok=True)
        for folder in (path, path / DIFFS, path / REFUSED):
            remove_partials(folder)
        self._config = config
        self.tokens = TokenParts(path)
        self._files = {name: (path / name).open("ab") for name in STREAMS}
        self._hashes = {name: hashlib.sha256() for name in STREAMS}

    def write_config(self) -> None:
        """Writes config.yaml, where it is not there as it should be."""
        path = self.path / CONFIG
        text = yaml.safe_dump(recorded(self._config), sort_keys=False, allow_unicode=True).encode()
        if not (path.is_file() and path.stat().st_size == len(text) and path.read_bytes() == text):
            write_whole(path, [text])

    def update_manifest(self, **changes: Any) -> None:
        """Sets keys of manifest.json and leaves the others as they are."""
        path = self.path / MANIFEST
        write_json(path, signed((read_signed(path) if path.is_file() else {}) | changes))

    def keep_diff(self, git: dict[str, str]) -> dict[str, str]:
        """The state of the code as the manifest holds it: a long diff goes into a file, once, and leaves its hash.

        git: sha and diff, of `manifest.code_state`.
        """
        if len(git["diff"]) <= LONGEST_DIFF:
            return git
        diff = git["diff"].encode()
        sha256 = hashlib.sha256(diff).hexdigest()
        path = self.path / DIFFS / f"{sha256[:16]}.diff"
        path.parent.mkdir(exist_ok=True)
        if not path.is_file():
            write_whole(path, [diff])
        return {"sha": git["sha"], "diff": "", "diff_sha256": sha256}

    def append(self, name: str, row: dict[str, Any]) -> None:
        """One JSON row at the end of a stream; undefined (NaN or infinite) numbers become null."""
        line = json.dumps({k: _finite(v) for k, v in row.items()}).encode() + b"\n"
        self._hashes[name].update(line)
        with naming(self.path / name):
            self._files[name].write(line)

    def dump(self, update: int, reason: str, tensors: dict[str, Tensor]) -> Path:
        """Keeps the evidence of a refused update: its tensors, and a JSON file about them, whose path is returned."""
        folder = self.path / REFUSED
        folder.mkdir(exist_ok=True)
        write_whole(folder / f"{update:06d}.safetensors", pieces(tensors))
        statistics = {name: _statistics(tensor) for name, tensor in tensors.items() if tensor.numel()}
        write_json(folder / f"{update:06d}.json", {"update": update, "reason": reason, "tensors": statistics})
        return folder / f"{update:06d}.json"

    def marks(self) -> Marks:
        """Size and hash of every stream and token part, all on the disk: what a checkpoint remembers.

        Raises RunFailed.
        """
        try:
            self._flush()
            sync_all([*(self.path / name for name in STREAMS), self.path])
        except OSError as error:
            raise RunFailed(
                f"{self.path}: records could not be written ({error}); free space (df -h, df -i) or mend the disk, "
                "run again with retry_failed=true"
            ) from error
        streams = {
            name: {"bytes": (self.path / name).stat().st_size, "sha256": self._hashes[name].hexdigest()}
            for name in STREAMS
        }
        return streams | self.tokens.marks()

    def damage(self, marks: Marks) -> str | None:
        """Why streams and token parts are no longer those that a checkpoint's marks are of; None if they are."""
        problems = (
            self._stream_damage(name, mark) if name in STREAMS else part_damage(self.path, name, mark)
            for name, mark in marks.items()
        )
        return next((problem for problem in problems if problem), None)

    def _stream_damage(self, name: str, mark: dict[str, Any]) -> str | None:
        with naming(self.path / name), (self.path / name).open("rb") as file:
            kept = file.read(mark["bytes"])
        if len(kept) < mark["bytes"]:
            return f"{name} has lost rows ({len(kept)} of {mark['bytes']} bytes are left)"
        if hashlib.sha256(kept).hexdigest() != mark["sha256"]:
            return f"{name} has been changed since"
        return None

    def rewind(self, marks: Marks) -> None:
        """Forgets every row after a checkpoint's marks (none: all rows), so that each update appears once."""
        for name in STREAMS:
            length = marks[name]["bytes"] if name in marks else 0
            os.truncate(self.path / name, length)
            self._hashes[name] = hashlib.sha256((self.path / name).read_bytes())
        self.tokens.rewind(marks)

    def _flush(self) -> None:
        for name, file in self._files.items():
            with naming(self.path / name):
                file.flush()

    def flush(self) -> None:
        """Brings the rows to the file system and renews the heartbeat."""
        self._flush()
        (self.path / HEARTBEAT).write_text(f"{time.time():.0f}\n")

    def close(self) -> None:
        """Closes the streams; one without a row is removed."""
        for name, file in self._files.items():
            with suppress(OSError):  # rows that the disk refuses: the run has failed with that already
                file.close()
            with suppress(OSError):  # an empty file more is no harm
                if (self.path / name).stat().st_size == 0:
                    (self.path / name).unlink()


def _statistics(tensor: Tensor) -> dict[str, Any]:
    return {
        "shape": list(tensor.shape),
        "min": _finite(tensor.double().min().item()),
        "max": _finite(tensor.double().max().item()),
        "non_finite": int((~torch.isfinite(tensor)).sum()),
    }


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
