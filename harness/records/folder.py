"""A run folder: the record of truth and the unit of resume. What is written into it, `Recorder` decides."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from harness.config import Config
from harness.errors import RunFailed, UserError
from harness.records.files import read_json, sync_all, write_json
from harness.records.layout import CHECKPOINTS, CONFIG, HEARTBEAT, MANIFEST, REFUSED, STREAMS, TOKEN_PARTS, TOKENS
from harness.records.secrets import recorded


def check_folder(config: Config) -> None:
    """Refuses a place that holds another configuration or cannot be written. Raises UserError; writes nothing."""
    folder = config.folder
    found = folder / MANIFEST
    if found.is_file():
        try:
            sha = read_json(found)["config_sha256"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{found}: not a run's manifest ({error}); move it away or choose another runs_dir"
            ) from error
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
        self._config = config
        self._files = {name: (path / name).open("ab") for name in STREAMS}
        self._hashes = {name: hashlib.sha256() for name in STREAMS}

    def write_config(self) -> None:
        """Writes config.yaml."""
        text = yaml.safe_dump(recorded(self._config), sort_keys=False, allow_unicode=True)
        (self.path / CONFIG).write_text(text, encoding="utf-8")

    def update_manifest(self, **changes: Any) -> None:
        """Sets keys of manifest.json and leaves the others as they are."""
        path = self.path / MANIFEST
        write_json(path, (read_json(path) if path.is_file() else {}) | changes)

    def append(self, name: str, row: dict[str, Any]) -> None:
        """One JSON row at the end of a stream; undefined (NaN or infinite) numbers become null."""
        line = json.dumps({k: _finite(v) for k, v in row.items()}).encode() + b"\n"
        self._hashes[name].update(line)
        self._files[name].write(line)

    def append_tokens(self, update: int, columns: dict[str, Tensor], text: list[str]) -> None:
        """One update's rows, a part file each: written again by a resumed run, joined at the end.

        columns: [N] each, a value a token. text: of each token.
        """
        (self.path / TOKEN_PARTS).mkdir(exist_ok=True)
        table = pa.table({**{k: v.numpy() for k, v in columns.items()}, "text": text})
        pq.write_table(table, self.path / TOKEN_PARTS / f"{update:06d}.parquet")

    def join_tokens(self) -> None:
        """Makes `tokens.parquet` of the parts."""
        parts = sorted((self.path / TOKEN_PARTS).glob("*.parquet"))
        if parts:
            with pq.ParquetWriter(self.path / TOKENS, pq.read_schema(parts[0])) as writer:
                for part in parts:
                    writer.write_table(pq.read_table(part))
            shutil.rmtree(self.path / TOKEN_PARTS)

    def dump(self, update: int, reason: str, tensors: dict[str, Tensor]) -> Path:
        """Keeps the evidence of a refused update: its tensors, and a JSON file about them, whose path is returned."""
        folder = self.path / REFUSED
        folder.mkdir(exist_ok=True)
        save_file(tensors, folder / f"{update:06d}.safetensors")
        statistics = {name: _statistics(tensor) for name, tensor in tensors.items() if tensor.numel()}
        write_json(folder / f"{update:06d}.json", {"update": update, "reason": reason, "tensors": statistics})
        return folder / f"{update:06d}.json"

    def marks(self) -> dict[str, dict[str, Any]]:
        """Size and hash of every stream, all of it on the disk: what a checkpoint remembers. Raises RunFailed."""
        try:
            for file in self._files.values():
                file.flush()
            sync_all([self.path / name for name in STREAMS])
        except OSError as error:
            raise RunFailed(f"{self.path}: records could not be written ({error}); free space, run again") from error
        return {
            name: {"bytes": (self.path / name).stat().st_size, "sha256": self._hashes[name].hexdigest()}
            for name in STREAMS
        }

    def damage(self, marks: dict[str, dict[str, Any]]) -> str | None:
        """Why the streams are no longer those that a checkpoint's marks are of; None if they are."""
        for name, mark in marks.items():
            with (self.path / name).open("rb") as file:
                kept = file.read(mark["bytes"])
            if len(kept) < mark["bytes"]:
                return f"{name} has lost rows ({len(kept)} of {mark['bytes']} bytes are left)"
            if hashlib.sha256(kept).hexdigest() != mark["sha256"]:
                return f"{name} has been changed since"
        return None

    def rewind(self, marks: dict[str, dict[str, Any]]) -> None:
        """Forgets every row after a checkpoint's marks (none: all rows), so that each update appears once."""
        for name in STREAMS:
            length = marks[name]["bytes"] if name in marks else 0
            os.truncate(self.path / name, length)
            self._hashes[name] = hashlib.sha256((self.path / name).read_bytes())

    def flush(self) -> None:
        """Brings the rows to the file system and renews the heartbeat."""
        for file in self._files.values():
            file.flush()
        (self.path / HEARTBEAT).write_text(f"{time.time():.0f}\n")

    def close(self) -> None:
        """Closes the streams; one without a row is removed."""
        for name, file in self._files.items():
            with suppress(OSError):  # rows that a full disk refuses: the run has failed with that already
                file.close()
            if (self.path / name).is_file() and (self.path / name).stat().st_size == 0:
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
