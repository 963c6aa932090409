"""What a parallel sweep shows on a terminal: a line for each running cell, read from the run folders."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from harness.command.plan import Plan
from harness.config import Config
from harness.records.layout import METRICS
from harness.records.state import status_of
from harness.records.tail import last_row

SECONDS_BETWEEN_LOOKS = 1.0


@contextmanager
def watching(plan: Plan) -> Iterator[None]:
    """Shows the plan's cells while the block runs, if they run in other processes and somebody is watching."""
    if not (plan.parallel and sys.stderr.isatty()):
        yield
        return
    stop = threading.Event()
    started = time.monotonic()
    with Live(console=Console(stderr=True), transient=True, auto_refresh=False) as live:

        def look() -> None:
            while not stop.wait(SECONDS_BETWEEN_LOOKS):
                live.update(_display(plan, time.monotonic() - started), refresh=True)

        thread = threading.Thread(target=look, name="watch", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def _display(plan: Plan, elapsed: float) -> Group:
    statuses = [status_of(cell.folder) for cell in plan.cells]
    counts = Counter(statuses)
    done = sum(
        cell.updates if status == "finished" else int((last_row(cell.folder / METRICS) or {}).get("update", 0))
        for cell, status in zip(plan.cells, statuses, strict=True)
    )
    share = done / sum(cell.updates for cell in plan.cells)
    summary = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    headline = Text(f"{len(plan.cells)} cells: {summary} · {100 * share:.0f} % of updates · {elapsed:.0f} s")
    running = [cell for cell, status in zip(plan.cells, statuses, strict=True) if status == "running"]
    return Group(headline, *(Text("  " + _line(cell)) for cell in running))


def _line(cell: Config) -> str:
    label = f"{cell.choices['algo']} s={cell.staleness} seed={cell.seed}"
    row = last_row(cell.folder / METRICS)
    if row is None:
        return f"{label:<34} starting"
    return (
        f"{label:<34} {row['update']:>5}/{cell.updates} reward {row['reward']:.3f} "
        f"masked {100 * (row.get('masked_fraction') or 0):.2f}% {row['update'] / row['time/elapsed_s']:.1f}/s"
    )
