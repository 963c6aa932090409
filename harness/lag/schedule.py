"""The schedule of a free-running run: which chunks each batch was made of, and which version sampled them.

    {"identity": {…}}                                                          first line: what the run was
    {"batch": 0, "chunks": [0, 1], "versions": [0, 0], "trained": [true, true], "time": 1.25}
    …                                                                          one line a batch, in order

A chunk's tokens follow from its index and its version, so this is all that lag=replay needs to make the same
run again, on any driver. time: seconds since the run started; for the reader alone. In a schedule of another system's
run (harness/lag/imported.py) the first line has `imported`, too, and its identity only what the schedule was made for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.config import Config
from harness.errors import UserError, first_line
from harness.records.limits import LARGEST_SCHEDULE, read_json_lines
from harness.types import Chunk

# What may differ between a run and its replay: who generates, and what is recorded.
FREE = ["driver", "lag", "staleness", "repeat", "ray", "eval", "record", "checkpoint_every", "updates", "choices"]

SHOWN = 200  # characters of what stands in a file


@dataclass(frozen=True)
class ScheduledChunk:
    """index: of the chunk, in the order of submission · trained: False where it was masked for its staleness."""

    index: int
    version: int
    trained: bool


@dataclass(frozen=True)
class Schedule:
    """identity: of the run that recorded it, flat · batches: the chunks of each batch, in order.

    imported: from another system, so that `identity` holds only the keys that must agree.
    """

    identity: dict[str, Any]
    batches: list[list[ScheduledChunk]]
    imported: bool = False


def identity(config: Config) -> dict[str, Any]:
    """What a replay must have in common with the run it repeats, as flat JSON."""
    return {key: value for key, value in config.identity().items() if key.split(".")[0] not in FREE}


def row(batch: int, chunks: Sequence[Chunk], seconds: float) -> dict[str, Any]:
    """The line of one batch.

    batch: its number.
    chunks: what it was made of.
    seconds: since the run started.
    """
    return {
        "batch": batch,
        "chunks": [chunk.index for chunk in chunks],
        "versions": [chunk.version for chunk in chunks],
        "trained": [chunk.trained for chunk in chunks],
        "time": seconds,
    }


def read_schedule(path: str) -> Schedule:
    """The schedule in a file. Raises UserError where there is none."""
    try:
        rows = read_json_lines(Path(path), LARGEST_SCHEDULE)
        header: dict[str, Any] = next(rows, {})
        return Schedule(
            dict(header["identity"]), [_batch(number, row) for number, row in enumerate(rows)], "imported" in header
        )
    except OSError as error:
        raise UserError(
            f"lag.schedule={path}: cannot be read ({error.strerror}); expected a run's schedule.jsonl"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"lag.schedule={path}: not the schedule.jsonl of a bounded run ({first_line(error)})"
        ) from error


def check_schedule(path: str, config: Config) -> None:
    """Raises UserError for a schedule that the run of `config` cannot follow."""
    schedule, now = read_schedule(path), identity(config)
    before = schedule.identity
    compared = before.keys() if schedule.imported else before.keys() | now.keys()
    different = sorted(key for key in compared if before.get(key) != now.get(key))
    if different:
        pairs = "; ".join(f"{key}={_short(before.get(key))} there, {now.get(key)} here" for key in different[:3])
        raise UserError(f"lag.schedule={path}: of another configuration ({pairs}); replay it with the same")
    problem = _problem(schedule.batches, config)
    if problem:
        raise UserError(f"lag.schedule={path}: {problem}")


def _batch(number: int, line: dict[str, Any]) -> list[ScheduledChunk]:
    if line["batch"] != number:
        raise ValueError(
            f"batch {_short(line['batch'])} where batch {number} is due; expected a line for each, in order"
        )
    chunks = [ScheduledChunk(*values) for values in zip(line["chunks"], line["versions"], line["trained"], strict=True)]
    for chunk in chunks:
        if [type(value) for value in (chunk.index, chunk.version, chunk.trained)] != [int, int, bool]:
            raise TypeError(f"a batch of {_short(chunk)}; expected numbers of chunks and versions, and true or false")
    return chunks


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def _problem(batches: Sequence[Sequence[ScheduledChunk]], config: Config) -> str | None:
    per_step = config.updates_per_step
    if len(batches) < config.batches:
        return f"has {len(batches)} batches, updates={config.updates} needs {config.batches}"
    seen: set[int] = set()
    for number, batch in enumerate(batches[: config.batches]):
        if len(batch) != config.rollout.chunks:
            return f"batch {number} has {len(batch)} chunks instead of rollout.chunks={config.rollout.chunks}"
        for chunk in batch:
            if chunk.index < 0 or chunk.index in seen:
                return f"batch {number} trains on chunk {chunk.index}, which has been trained on"
            if chunk.version % per_step or not 0 <= chunk.version <= number * per_step:
                return f"batch {number} needs version {chunk.version}, which does not exist before it"
            seen.add(chunk.index)
    return None
