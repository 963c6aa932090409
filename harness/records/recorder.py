"""What a run leaves behind, through one door: rows, samples, tokens, refused updates, and what is said of it.

metrics.jsonl    a row an update: what the learner says of it, what is known of its rollout batch, the clock
eval.jsonl       a row an evaluation and split, with sample responses in samples.jsonl
schedule.jsonl   a row a rollout batch of a free-running run
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from harness.errors import RunFailed
from harness.progress import Progress
from harness.records.folder import RunFolder
from harness.records.layout import EVAL, METRICS, SAMPLES, SCHEDULE
from harness.types import Refusal, Update


@dataclass
class Best:
    """The best evaluation on validation, by sampled accuracy; update −1: there was none."""

    update: int = -1
    accuracy: float = -1.0


class Recorder:
    """Writes everything that one run records; where the rows go is `folder`'s.

    folder: the run's.
    progress: what is said of the run.
    token_text: ids of tokens → their text.
    max_refused_in_a_row: refused updates after which the run fails.
    """

    def __init__(
        self,
        folder: RunFolder,
        progress: Progress,
        token_text: Callable[[list[int]], list[str]],
        max_refused_in_a_row: int,
    ) -> None:
        self._folder = folder
        self._progress = progress
        self._token_text = token_text
        self._max_refused_in_a_row = max_refused_in_a_row
        self._refused_in_a_row = 0
        self.acted_updates = 0
        self._started = time.perf_counter()
        self.best = Best()

    def elapsed_s(self) -> float:
        """Seconds since the run was started, or carried on."""
        return time.perf_counter() - self._started

    def note(self, text: str) -> None:
        """What the run is at, where somebody watches; "": it trains."""
        self._progress.note(text)

    def warn(self, text: str) -> None:
        """A line that is said even where nobody watches."""
        self._progress.warn(text)

    def data(self, provenance: dict[str, Any], notes: list[str]) -> None:
        """Where the data come from, into the manifest; what had to be left out of them, a line each."""
        if provenance:
            self._folder.update_manifest(data=provenance, dropped=notes)
        for note in notes:
            self.warn(note)

    def update(self, update: Update, batch: dict[str, Any]) -> None:
        """The row of one update, its tokens, and the evidence where it was refused.

        batch: metrics of the rollout batch that the update belongs to.
        Raises RunFailed when too many were refused in a row.
        """
        row = {**update.metrics, **batch, "time/elapsed_s": self.elapsed_s()}
        self._folder.append(METRICS, row)
        number = int(row["update"])
        self.acted_updates += int(row.get("acted", 0) > 0)
        if update.tokens is not None:
            self._folder.tokens.append(number, update.tokens, self._token_text(update.tokens["token_id"].tolist()))
        if update.refusal is None:
            self._refused_in_a_row = 0
        else:
            self._refused(number, update.refusal)

    def _refused(self, number: int, refusal: Refusal) -> None:
        evidence = self._folder.dump(number, refusal.reason, refusal.tensors)
        self._refused_in_a_row += 1
        if self._refused_in_a_row >= self._max_refused_in_a_row:
            raise RunFailed(
                f"non-finite: {self._refused_in_a_row} updates refused in a row, the last because "
                f"{refusal.reason}; see {evidence}"
            )

    def evaluation(self, row: dict[str, Any], samples: list[dict[str, Any]]) -> None:
        """One split's accuracy and some of its responses. The base model's, at update 0, is never the best."""
        self._folder.append(EVAL, row)
        for sample in samples:
            self._folder.append(SAMPLES, sample)
        if row["split"] == "validation" and row["sampled_accuracy"] > self.best.accuracy and row["update"] > 0:
            self.best = Best(row["update"], row["sampled_accuracy"])

    def schedule(self, row: dict[str, Any]) -> None:
        """How a rollout batch of a free-running run was made up."""
        self._folder.append(SCHEDULE, row)

    def flush(self) -> None:
        """Brings the rows to the file system and renews the heartbeat."""
        self._folder.flush()

    # Checkpoints -------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """What a checkpoint remembers of the records, all of them on the disk. JSON. Raises RunFailed."""
        return {
            "best": asdict(self.best),
            "refused_in_a_row": self._refused_in_a_row,
            "acted_updates": self.acted_updates,
            "streams": self._folder.marks(),
        }

    def damage(self, counters: dict[str, Any]) -> str | None:
        """Why the records are no longer those that a checkpoint's counters remember; None if they are."""
        return self._folder.damage(counters["records"]["streams"])

    def restore(self, state: dict[str, Any]) -> None:
        """Carries on from a checkpoint's `state`: later rows are forgotten."""
        self._folder.rewind(state["streams"])
        self._refused_in_a_row = state["refused_in_a_row"]
        self.acted_updates = state["acted_updates"]
        self.best = Best(**state["best"])

    def restart(self) -> None:
        """Begins anew: all rows are forgotten."""
        self._folder.rewind({})
