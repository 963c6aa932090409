"""The programme itself: what it grades, and what it says of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from harness.command.plan import plan
from harness.progress import Progress
from harness.records.folder import RunFolder
from harness.tasks.carry import Carry
from harness.training import Training
from harness.types import Batch, Chunk, Grade, Problem
from tests.conftest import SMALL, read_rows

FREE = ("driver=overlapped", "lag=bounded", "staleness=11", "lag.on_excess=mask", "rollout.chunks=4")


@pytest.fixture
def training(tmp_path: Path) -> Iterator[Training]:
    (config,) = plan([*SMALL, *FREE, f"runs_dir={tmp_path}"]).cells
    folder = RunFolder(tmp_path / "run", config)
    made = Training(config, folder, Progress("test"))
    yield made
    made.close()
    folder.close()


@pytest.fixture
def chunks(training: Training) -> list[Chunk]:
    """The four chunks of a batch sampled by the base model."""
    training.publish()
    training.queue.refill(0)
    return training.queue.pop(0, training.wait_for_rollouts).chunks


def test_every_response_is_graded_once(
    training: Training, chunks: list[Chunk], monkeypatch: pytest.MonkeyPatch
) -> None:
    graded: list[str] = []
    grade = Carry.grade

    def counting(self: Carry, problems: Sequence[Problem], responses: Sequence[str]) -> list[Grade]:
        graded.extend(problem.id for problem in problems)
        return grade(self, problems, responses)

    monkeypatch.setattr(Carry, "grade", counting)
    fresh, stale, also_fresh, dropped = chunks
    result, metrics = training.grade(Batch([fresh, replace(stale, trained=False), also_fresh], [dropped]))
    expected = [p.id for chunk in chunks for p in training.requests.problems(chunk.index) for _ in range(4)]
    assert sorted(graded) == sorted(expected)
    assert result.trained.tolist() == [True] * 8 + [False] * 8 + [True] * 8
    assert metrics["dropped_samples"] == 16
    lengths = [length for chunk in (stale, dropped) for length in chunk.rollouts.response_lengths.tolist()]
    assert metrics["dropped_length"] == pytest.approx(sum(lengths) / 16)
    (lost,) = (training.grade_chunks([dropped])[0].rewards,)
    assert metrics["dropped_reward"] == pytest.approx((result.rewards[8:16].sum() + lost.sum()).item() / 16)


def test_the_rows_of_a_batch_share_what_is_known_of_it(training: Training, tmp_path: Path) -> None:
    training.publish()
    training.queue.refill(0)
    training.train_on(0)
    training.recorder.flush()
    rows = read_rows(tmp_path / "run" / "metrics.jsonl")
    assert [row["update"] for row in rows] == [1, 2, 3, 4]
    of_the_batch = ("truncated_fraction", "grader_failures", "dropped_samples", "time/queue_s", "time/publish_lag",
                    "time/wait_s", "time/generator_idle_s", "time/generation_s", "time/scoring_s",
                    "time/publication_s")  # fmt: skip
    for name in of_the_batch:
        assert {row[name] for row in rows} == {rows[0][name]}, name
    assert min(rows[0]["time/generation_s"], rows[0]["time/scoring_s"], rows[0]["time/publication_s"]) > 0
    elapsed = [row["time/elapsed_s"] for row in rows]
    assert elapsed == sorted(elapsed) and elapsed[0] > 0
