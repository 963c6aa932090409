"""How long a cell still takes, from the rows that it has written so far.

A run is a base evaluation, its first step (with an exact lag and one process also the whole queue), then updates
at a steady pace with an evaluation now and then. What the first part took is divided by the answers that each piece of
it sampled; the pace is that of the updates since.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any

from harness import build
from harness.config import Config
from harness.records.layout import EVAL, METRICS
from harness.records.tail import last_row, rows

Point = tuple[int, float]  # an update, and the seconds at which it was done


@dataclass
class Pace:
    """What is known of the speed of one cell.

    config: the cell.
    row: its last row of metrics.jsonl, {} before the first.
    begun: updates done before this attempt; a run that carries on, or a fork, does not begin at 0.
    start: where the pace is counted from: the first step of a run, or the first update after it was carried on.
    evaluation_s, batch_s: seconds of an evaluation, and of generating a rollout batch.
    seen: when the last row was first seen, by the monotonic clock.
    """

    config: Config
    row: dict[str, Any] = field(default_factory=dict)
    begun: int = 0
    start: Point | None = None
    evaluation_s: float = 0.0
    batch_s: float = 0.0
    seen: float = 0.0

    def look(self) -> None:
        """Reads what the run folder says by now."""
        row = last_row(self.config.folder / METRICS) or {}
        if row.get("update") != self.row.get("update"):
            if row and self.row and _elapsed(row) < _elapsed(self.row):
                self.start = None  # carried on since: the clock of its rows began anew
            self.row, self.seen = row, time.monotonic()
        if self.start is None and row:
            self._begin()

    @property
    def update(self) -> int:
        """Updates done."""
        return self.row.get("update", 0)

    def left_s(self) -> float | None:
        """Seconds to the end of the cell, while it runs; None as long as nothing is known of its pace."""
        seconds = self._left_when_seen_s()
        return None if seconds is None else max(0.0, seconds - (time.monotonic() - self.seen))

    def update_s(self) -> float | None:
        """Seconds of an update, generation and evaluations included, on average over this attempt and what is left."""
        left = self._left_when_seen_s()
        return None if left is None else (_elapsed(self.row) + left) / (self.config.updates - self.begun)

    def _left_when_seen_s(self) -> float | None:
        """Seconds to the end of the cell from its last row."""
        if self.start is None or not (self.batch_s or self.update > self.start[0]):
            return None
        train_s, batch_s = self._seconds(self.start)
        work = (self.config.updates - self.update) * train_s
        generation = (self.config.batches - self._generated(self.update)) * batch_s
        evaluations = evaluations_from(self.config, self.update) * self.evaluation_s
        return work + generation + evaluations

    def _begin(self) -> None:
        """Where the pace is counted from, and what an evaluation and a batch take."""
        step = self.config.updates_per_step
        points = [(row["update"], _elapsed(row)) for row, _ in rows(self.config.folder / METRICS)]
        carried_on = [i for i in range(1, len(points)) if points[i][1] < points[i - 1][1]]
        attempt = points[carried_on[-1] if carried_on else 0 :]
        self.begun, self.evaluation_s, self.batch_s = attempt[0][0] - 1, 0.0, 0.0
        if carried_on:
            self.start = attempt[0]
        elif len(attempt) >= step:
            self._begin_with(attempt[step - 1])

    def _begin_with(self, start: Point) -> None:
        """Of a run that nobody stopped. start: the end of its first step."""
        self.start, step = start, self.config.updates_per_step
        rollout, evaluated = self.config.rollout, _evaluated(self.config)
        batch = rollout.prompts_per_step * rollout.group_size
        before = self.start[0] // step - 1  # of a fork: batches that its parent trained on
        answers = evaluated + (self._generated(self.start[0]) - before + 1) * batch  # training counts as one batch more
        self.evaluation_s, self.batch_s = (self.start[1] * part / answers for part in (evaluated, batch))

    def _generated(self, update: int) -> int:
        """Rollout batches that are there after an update: the last steps of a stale run have none left to generate."""
        ahead = build.staleness_policy(self.config).lag_steps if self.config.driver == "serial" else 0
        return min(self.config.batches, update // self.config.updates_per_step + ahead)

    def _seconds(self, start: Point) -> tuple[float, float]:
        """Of an update without generation, and of a rollout batch."""
        done = self.update - start[0]
        if not done:  # training again counts as one batch
            return self.batch_s / self.config.updates_per_step, self.batch_s
        evaluations = evaluations_from(self.config, start[0]) - evaluations_from(self.config, self.update)
        spent = max(0.0, _elapsed(self.row) - start[1] - evaluations * self.evaluation_s)
        batches = self._generated(self.update) - self._generated(start[0])
        batch_s = min(self.batch_s, spent / batches) if batches else self.batch_s
        return max(0.0, spent - batches * batch_s) / done, batch_s


def evaluations_from(config: Config, update: int) -> int:
    """How many evaluations a run makes from just after an update to its end."""
    every, last = config.eval.every, config.updates
    return last // every - (update - 1) // every + (last % every > 0)


def _elapsed(row: dict[str, Any]) -> float:
    """Seconds from the start of the attempt that wrote a row of metrics.jsonl."""
    return float(row["time/elapsed_s"])


def _evaluated(config: Config) -> int:
    """Answers of the first evaluation, as eval.jsonl counts them."""
    ways = 1 + len(config.eval.top_p)
    found = [row for row, _ in rows(config.folder / EVAL)]
    first = [row for row in found if row["update"] == found[0]["update"]]
    return sum(row["n"] * (row["k"] * ways + config.eval.greedy) for row in first)


def together_s(running: list[Pace], finished: list[Pace], waiting: list[Pace], at_once: int) -> float | None:
    """Seconds to the end of a command; None as long as nothing is known.

    running, finished: its cells that run, and that have ended. waiting: those that have not begun, or are to be carried
    on (those paused at a rung, too); they take as long as all that have begun, update for update.
    at_once: how many run at a time.
    """
    known = [seconds for pace in (*running, *finished, *waiting) if (seconds := pace.update_s()) is not None]
    if not known:
        return None
    an_update = sum(known) / len(known)
    ahead = [(pace.config.updates - pace.update) * an_update for pace in (*running, *waiting)]
    left = [pace.left_s() for pace in running]
    runs = [ahead[i] if seconds is None else seconds for i, seconds in enumerate(left)]
    return max([(sum(runs) + sum(ahead[len(running) :])) / max(1, at_once), *runs])


def clock(seconds: float) -> str:
    """1:02:03, or 2:03 within an hour."""
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
