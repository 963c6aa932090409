"""The plan of a run against what was recorded and measured."""

from __future__ import annotations

import random
from collections.abc import Iterator
from statistics import mean
from typing import Any

import pandas as pd
import pytest

from harness.command.capacity.virtual_time import Pauses, Workers, simulate
from harness.lag.policy import BoundedLag
from tests.conftest import ROOT

STARTING_S = 3.0  # until a recorded run's first evaluation


def bounded_runs() -> Iterator[tuple[str, Any, pd.DataFrame]]:
    """The bounded runs of the records: name, what they were, and every eighth update."""
    records = pd.read_parquet(ROOT / "docs" / "records" / "protocols.parquet")
    for _, run in records[(records.kind == "run") & (records.lag == "bounded")].iterrows():
        yield run.run, run, records[(records.kind == "update") & (records.run == run.run)]


RUNS = {name: (run, updates) for name, run, updates in bounded_runs()}


def test_all_bounded_runs_are_there() -> None:
    assert len(RUNS) == 14


@pytest.mark.parametrize("name", RUNS)
def test_the_realised_staleness_is_predicted_from_seconds(name: str) -> None:
    """Nothing but the seconds of the record goes in: of an update, of the workers' idleness, of the whole run.

    Every new best is saved; that each evaluation finds one is what a plan has to assume.
    """
    run, updates = RUNS[name]
    per_step, every, chunk_spread = 4, 100, 0.3
    update_s = updates["time/update_s"].mean()
    chunk_s = per_step * (update_s + (updates["time/wait_s"] - updates["time/generator_idle_s"]).mean())
    whole_s = float(run.finished) - float(run.started) - STARTING_S
    steps_s = run.updates * (update_s + updates["time/wait_s"].mean())
    evaluation_s = (whole_s - steps_s) / (1 + run.updates / every)
    rng = random.Random(1)
    steps = simulate(
        BoundedLag(int(run.staleness), per_step),
        Workers(1, lambda: rng.gammavariate(chunk_spread**-2, chunk_s * chunk_spread**2)),
        lambda: rng.gammavariate(chunk_spread**-2, update_s * chunk_spread**2),
        batches=int(run.updates) // per_step,
        chunks=1,
        pauses=Pauses(every=every, sampling_s=evaluation_s / 2, grading_s=evaluation_s / 2, checkpoint_every=400),
    )
    predicted = mean(step.version - chunk.version for step in steps for chunk in step.batch.chunks)
    recorded = updates.staleness_mean.mean()  # of the first update of a step
    assert abs(predicted - recorded) <= max(2.0, 0.1 * recorded), (predicted, recorded)
