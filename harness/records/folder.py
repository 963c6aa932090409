"""A run folder: the record of truth and the unit of resume."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from harness.config import Config
from harness.errors import RunFailed, UserError
from harness.records.files import read_json, write_json
from harness.records.layout import MANIFEST

TOKEN_PARTS = "tokens"
STREAMS = ("metrics.jsonl", "eval.jsonl", "schedule.jsonl", "samples.jsonl")


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
    """Writes one run's records. Rows are appended; a checkpoint remembers how far they went."""

    def __init__(self, path: Path, config: Config) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        path.mkdir(parents=True, exist_ok=True)
        self._config = config
        self._files = {name: (path / name).open("ab") for name in STREAMS}
        self._hashes = {name: hashlib.sha256() for name in STREAMS}

    def write_config(self) -> None:
        text = yaml.safe_dump(self._config.as_dict(), sort_keys=False, allow_unicode=True)
        (self.path / "config.yaml").write_text(text, encoding="utf-8")

    def update_manifest(self, **changes: Any) -> None:
        path = self.path / MANIFEST
        write_json(path, (read_json(path) if path.is_file() else {}) | changes)

    def append(self, name: str, row: dict[str, Any]) -> None:
        """One JSON row; undefined (NaN or infinite) numbers become null."""
        line = json.dumps({k: _finite(v) for k, v in row.items()}).encode() + b"\n"
        self._hashes[name].update(line)
        self._files[name].write(line)

    def append_tokens(self, update: int, columns: dict[str, Tensor], text: list[str]) -> None:
        """One update's rows, a part file each: written again by a resumed run, joined at the end."""
        (self.path / TOKEN_PARTS).mkdir(exist_ok=True)
        table = pa.table({**{k: v.numpy() for k, v in columns.items()}, "text": text})
        pq.write_table(table, self.path / TOKEN_PARTS / f"{update:06d}.parquet")

    def join_tokens(self) -> None:
        """The parts as `tokens.parquet`."""
        parts = sorted((self.path / TOKEN_PARTS).glob("*.parquet"))
        if parts:
            with pq.ParquetWriter(self.path / "tokens.parquet", pq.read_schema(parts[0])) as writer:
                for part in parts:
                    writer.write_table(pq.read_table(part))
            shutil.rmtree(self.path / TOKEN_PARTS)

    def dump(self, update: int, reason: str, tensors: dict[str, Tensor]) -> Path:
        """The evidence of a refused update."""
        folder = self.path / "refused"
        folder.mkdir(exist_ok=True)
        save_file(tensors, folder / f"{update:06d}.safetensors")
        statistics = {
            name: {
                "shape": list(t.shape),
                "min": _finite(t.double().min().item()),
                "max": _finite(t.double().max().item()),
                "non_finite": int((~torch.isfinite(t)).sum()),
            }
            for name, t in tensors.items()
            if t.numel()
        }
        write_json(folder / f"{update:06d}.json", {"update": update, "reason": reason, "tensors": statistics})
        return folder / f"{update:06d}.json"

    def marks(self) -> dict[str, dict[str, Any]]:
        """Size and hash of every stream, all of it on the disk: what a checkpoint remembers."""
        try:
            with ThreadPoolExecutor(len(self._files)) as pool:  # the syncs wait together, not one after the other
                for _ in pool.map(_sync, self._files.values()):
                    pass
        except OSError as error:
            raise RunFailed(f"{self.path}: records could not be written ({error}); free space, run again") from error
        return {
            name: {"bytes": (self.path / name).stat().st_size, "sha256": self._hashes[name].hexdigest()}
            for name in STREAMS
        }

    def damage(self, counters: dict[str, Any]) -> str | None:
        """Why a checkpoint's records are no longer those it remembers; None if they are."""
        for name, mark in counters["records"].items():
            with (self.path / name).open("rb") as file:
                kept = file.read(mark["bytes"])
            if len(kept) < mark["bytes"]:
                return f"{name} has lost rows ({len(kept)} of {mark['bytes']} bytes are left)"
            if hashlib.sha256(kept).hexdigest() != mark["sha256"]:
                return f"{name} has been changed since"
        return None

    def rewind(self, marks: dict[str, dict[str, Any]]) -> None:
        """Forgets every row after a checkpoint, so that each update appears once."""
        for name in STREAMS:
            length = marks[name]["bytes"] if name in marks else 0
            os.truncate(self.path / name, length)
            self._hashes[name] = hashlib.sha256((self.path / name).read_bytes())

    def flush(self) -> None:
        for file in self._files.values():
            file.flush()
        (self.path / "heartbeat").write_text(f"{time.time():.0f}\n")

    def close(self) -> None:
        for name, file in self._files.items():
            with suppress(OSError):  # rows that a full disk refuses: the run has failed with that already
                file.close()
            if (self.path / name).is_file() and (self.path / name).stat().st_size == 0:
                (self.path / name).unlink()


def _sync(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
