"""What watching and recording a run costs, as a share of an update of the default.

    python -m benchmarks.guards [--rounds 30]

Two measurements, CPU time of this process: the run's own loop against the same generation and learning with neither
driver nor guards nor records, in turns; and each part's own time inside that loop. The method's diagnostics are in
both. The MLflow mirror works beside the run, in a process of its own; it counts all the same.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch

from benchmarks import targets
from benchmarks.drivers import bare_step, step, training
from benchmarks.workbench import interleaved, ratios
from harness.learner import learner
from harness.records.files import exclusive
from harness.records.folder import RunFolder
from harness.records.layout import LOCK
from harness.records.manifest import code_state, new_manifest
from harness.records.recorder import Recorder
from harness.tracking.mirror import Mirror
from harness.tracking.store import default_uri
from harness.tracking.sync import POLL_S
from harness.training import Training

EVERY = 10  # tracking.every of the default
PARTS: tuple[tuple[str, Any, str], ...] = (
    ("rewards and advantages finite", learner, "_first_non_finite"),
    ("loss and gradient finite, loss not too large", learner.Learner, "_inspect"),
    ("staleness histogram", learner, "_histogram"),
    ("how the batch came about", Training, "timing"),
    ("row of metrics.jsonl", Recorder, "update"),
    ("rows and heartbeat to the file system", RunFolder, "flush"),
    ("stop asked for?", Training, "stop_if_asked"),
)


def guarded(run: Training) -> None:
    """One turn of the loop of harness/training.py, between evaluations and checkpoints."""
    run.stop_if_asked()
    step(run)
    run.keep_records()


def unguarded(run: Training) -> None:
    with (
        patch.object(learner, "_first_non_finite", lambda **_: None),
        patch.object(learner.Learner, "_inspect", lambda *_: None),
    ):
        bare_step(run)


@contextmanager
def clocked(seconds: dict[str, float]) -> Iterator[None]:
    """Adds up what each of the parts takes while the block runs."""
    with ExitStack() as stack:
        for what, owner, name in PARTS:
            stack.enter_context(patch.object(owner, name, _timed(getattr(owner, name), what, seconds)))
        yield


def _timed(call: Callable[..., Any], what: str, seconds: dict[str, float]) -> Callable[..., Any]:
    def timed(*arguments: Any, **more: Any) -> Any:
        started = time.process_time()
        try:
            return call(*arguments, **more)
        finally:
            seconds[what] = seconds.get(what, 0.0) + time.process_time() - started

    return timed


def mirror(run: Training, update_s: float, repeats: int = 10) -> float:
    """Seconds an update that the mirror needs to follow a run that makes one every `update_s`."""
    folder = run.folder
    folder.write_config()
    folder.update_manifest(**new_manifest(run.config, code_state()))
    row = json.loads((folder.path / "metrics.jsonl").read_text().splitlines()[-1])
    updates = max(1, round(POLL_S / update_s))
    times = []
    with exclusive(folder.path / LOCK):
        mirror = Mirror(default_uri(folder.path.parent), "guards", EVERY)
        for _ in range(repeats + 1):
            for _ in range(updates):
                row["update"] += 1
                folder.append("metrics.jsonl", row)
            folder.flush()
            started = time.process_time()
            assert mirror.cell(folder.path) == "running"
            times.append(time.process_time() - started)
    return statistics.median(times[1:]) / updates  # the first one makes the run


def report(rounds: int) -> str:
    setting = ("driver=serial", "staleness=0")
    parts: dict[str, float] = {}
    with training(*setting) as watched, training(*setting) as bare:
        turns = interleaved({"watched": lambda: guarded(watched), "bare": lambda: unguarded(bare)}, rounds)
        with clocked(parts):
            started, first = time.process_time(), watched.learner.version
            for _ in range(rounds):
                guarded(watched)
            updates = watched.learner.version - first
            whole = (time.process_time() - started) / updates
        parts = {what: parts[what] / updates for what, *_ in PARTS}
        parts[f"MLflow mirror, in its own process, tracking.every={EVERY}"] = mirror(watched, whole)
    rows = "\n".join(f"| {what} | {1e6 * took:.0f} | {took / whole:.2%} |" for what, took in parts.items())
    total = sum(parts.values())
    return f"""| guard or record | µs an update | share of an update ({1e3 * whole:.1f} ms) |
|---|---:|---:|
{rows}
| **sum** | {1e6 * total:.0f} | {total / whole:.2%} |

In turns, {rounds} each: the loop takes {targets.middle(ratios(turns, "watched", "bare"))} × the time of generation and
learning alone, the driver counted in, the mirror not.
{targets.table([targets.row("guards and records, share of an update", [100 * total / whole], "≤ 2", "%")])}"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(report(options.rounds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
