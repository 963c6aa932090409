"""One line a run, rewritten in place on a terminal; silent elsewhere."""

from __future__ import annotations

import math
import os
import shutil
import sys
import time
from typing import Any, TextIO

QUIET = "LAGRANGE_QUIET"  # set where another display shows the run


class Progress:
    """Shows update, reward, accuracy, masked share, M2, updates a second and the time left.

    label: what the line begins with.
    total: updates of the run.
    first: update that the run carries on from.
    stream: where the line goes; None: the standard error stream.
    """

    def __init__(self, label: str, total: int, first: int = 0, stream: TextIO | None = None) -> None:
        self._label, self._total, self.first = label, total, first
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty() and QUIET not in os.environ
        self._started = time.monotonic()
        self._shown = 0.0
        self._accuracy: float | None = None

    def note(self, text: str) -> None:
        """Something a user waits for, before the first update."""
        self._show(f"{self._label}  {text}")

    def say(self, text: str) -> None:
        """A line that stays, also in a log; not where another display shows the run."""
        if QUIET not in os.environ:
            self.warn(text)

    def warn(self, text: str) -> None:
        """A line that is said even where nobody watches."""
        self._stream.write(("\r\x1b[K" if self._live else "") + f"{self._label}: {text}\n")

    def evaluated(self, row: dict[str, Any]) -> None:
        """Remembers the accuracy on validation, from a row of eval.jsonl."""
        if row["split"] == "validation":
            self._accuracy = row["sampled_accuracy"]

    def updated(self, row: dict[str, Any]) -> None:
        """Shows how far the run is, from a row of metrics.jsonl, a few times a second."""
        now = time.monotonic()
        if not self._live or (now - self._shown < 0.2 and row["update"] < self._total):
            return
        self._shown = now
        rate = (row["update"] - self.first) / (now - self._started)
        left = (self._total - row["update"]) / rate
        accuracy = "" if self._accuracy is None else f" acc {self._accuracy:.3f}"
        self._show(
            f"{self._label} {row['update']:>{len(str(self._total))}}/{self._total} "
            f"reward {row['reward']:.3f}{accuracy} "
            f"masked {100 * row.get('masked_fraction', 0):.2f}% M2 {_number(row.get('m2_before'))} "
            f"{rate:.1f}/s {_clock(left)} left"
        )

    def close(self, text: str) -> None:
        """The line that stays."""
        if self._live:
            self._show(f"{self._label}  {text}")
            self._stream.write("\n")
            self._stream.flush()

    def _show(self, text: str) -> None:
        if self._live:
            width = shutil.get_terminal_size().columns - 1
            self._stream.write("\r" + text[:width].ljust(width))
            self._stream.flush()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _number(value: float | None) -> str:
    """A metric in four decimals; a dash where it is undefined (on-policy there is no trust-region token)."""
    return "–" if value is None or math.isnan(value) else f"{value:.4f}"
