"""The schedule of a bounded run: which chunks each batch was made of, and which version sampled them.

    {"identity": {…}}                                                          first line: what the run was
    {"batch": 0, "chunks": [0, 1], "versions": [0, 0], "trained": [true, true], "time": 1.25}
    …                                                                          one line a batch, in order

A chunk's tokens follow from its index and its version, so this is all that lag=replay needs to make the same
run again, on any driver. time: seconds since the run started; for the reader alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.config import Config
from harness.errors import UserError

# What may differ between a run and its replay: who generates, and what is recorded.
FREE = (
    "driver",
    "lag",
    "staleness",
    "repeat",
    "ray",
    "eval",
    "record",
    "checkpoint_every",
    "updates",
    "choices",
)


@dataclass(frozen=True)
class ScheduledChunk:
    index: int
    version: int
    trained: bool


def identity(config: Config) -> dict[str, Any]:
    """What a replay must have in common with the run it repeats, as flat JSON."""
    return {key: value for key, value in _flat(config.identity()).items() if key.split(".")[0] not in FREE}


def row(batch: int, chunks: Sequence[ScheduledChunk], seconds: float) -> dict[str, Any]:
    return {
        "batch": batch,
        "chunks": [one.index for one in chunks],
        "versions": [one.version for one in chunks],
        "trained": [one.trained for one in chunks],
        "time": seconds,
    }


def read(config: Config) -> list[list[ScheduledChunk]]:
    """The schedule `config` asks for, one list of chunks a batch. Raises UserError for one it cannot follow."""
    path = str(config.schedule)
    try:
        header, *rows = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
        before = header["identity"]
        batches = [_batch(one) for one in rows]
    except OSError as error:
        raise UserError(
            f"lag.schedule={path}: cannot be read ({error.strerror}); expected a run's schedule.jsonl"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"lag.schedule={path}: not the schedule.jsonl of a bounded run ({error})") from error
    now = identity(config)
    different = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    if different:
        told = "; ".join(f"{key}={before.get(key)} there, {now.get(key)} here" for key in different[:3])
        raise UserError(f"lag.schedule={path}: of another configuration ({told}); replay it with the same")
    problem = _problem(batches, config)
    if problem:
        raise UserError(f"lag.schedule={path}: {problem}")
    return batches


def _batch(line: dict[str, Any]) -> list[ScheduledChunk]:
    columns = zip(line["chunks"], line["versions"], line["trained"], strict=True)
    return [ScheduledChunk(int(index), int(version), bool(trained)) for index, version, trained in columns]


def _problem(batches: Sequence[Sequence[ScheduledChunk]], config: Config) -> str | None:
    per_step = config.updates_per_step
    if len(batches) < config.batches:
        return f"has {len(batches)} batches, updates={config.updates} needs {config.batches}"
    seen: set[int] = set()
    for place, batch in enumerate(batches[: config.batches]):
        if len(batch) != config.rollout.chunks:
            return f"batch {place} has {len(batch)} chunks instead of rollout.chunks={config.rollout.chunks}"
        for one in batch:
            if one.index < 0 or one.index in seen:
                return f"batch {place} trains on chunk {one.index}, which has been trained on"
            if one.version % per_step or not 0 <= one.version <= place * per_step:
                return f"batch {place} needs version {one.version}, which does not exist before it"
            seen.add(one.index)
    return None


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found
