"""The Recorder: one row an update, evidence of refusals, the best evaluation, and what a checkpoint remembers."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from harness.config import Config
from harness.errors import RunFailed
from harness.progress import Progress
from harness.records.folder import RunFolder
from harness.records.recorder import Best, Recorder
from harness.types import Refusal, Update
from tests.conftest import read_rows


def recorder(path: Path) -> Recorder:
    return Recorder(RunFolder(path, Config()), Progress("test"), lambda ids: [f"<{i}>" for i in ids], 3)


def update(number: int, refusal: Refusal | None = None) -> Update:
    return Update({"update": number, "reward": number / 8, "m2_before": math.nan}, refusal, None)


def evaluation(number: int, accuracy: float, split: str = "validation") -> dict[str, object]:
    return {"update": number, "split": split, "sampled_accuracy": accuracy}


def test_learner_batch_and_clock_enter_one_row(tmp_path: Path) -> None:
    made = recorder(tmp_path)
    made.update(update(1), {"truncated_fraction": 0.5, "time/wait_s": 0.25})
    made.flush()
    (row,) = read_rows(tmp_path / "metrics.jsonl")
    assert row.pop("time/elapsed_s") >= 0
    expected = {"update": 1, "reward": 0.125, "m2_before": None, "truncated_fraction": 0.5, "time/wait_s": 0.25}
    assert row == expected


def test_refusals_are_kept_and_counted_in_a_row(tmp_path: Path) -> None:
    made, refusal = recorder(tmp_path), Refusal("loss is nan", {"rewards": torch.tensor([math.nan, 1.0])})
    for number, how in enumerate((refusal, refusal, None, refusal, refusal), 1):
        made.update(update(number, how), {})
    with pytest.raises(RunFailed, match="3 updates refused in a row, the last because loss is nan"):
        made.update(update(6, refusal), {})
    evidence = json.loads((tmp_path / "refused" / "000006.json").read_text())
    assert evidence["tensors"]["rewards"]["non_finite"] == 1
    assert len(list((tmp_path / "refused").glob("*.json"))) == 5


def test_the_best_is_chosen_on_validation_and_never_the_base_model(tmp_path: Path) -> None:
    made = recorder(tmp_path)
    for row in (evaluation(0, 0.9), evaluation(4, 0.5), evaluation(8, 0.5), evaluation(8, 0.8, "test")):
        made.evaluation(row, [{"response": "1"}])
    assert made.best == Best(4, 0.5)
    made.flush()
    assert len(read_rows(tmp_path / "eval.jsonl")) == len(read_rows(tmp_path / "samples.jsonl")) == 4


def test_a_checkpoint_remembers_records_and_counts(tmp_path: Path) -> None:
    made, refusal = recorder(tmp_path), Refusal("x", {})
    made.update(update(1), {})
    made.update(update(2, refusal), {})
    made.evaluation(evaluation(2, 0.5), [])
    state = json.loads(json.dumps(made.state()))
    made.update(update(3), {})
    made.flush()

    resumed = recorder(tmp_path)
    assert resumed.damage({"records": state}) is None
    resumed.restore(state)
    assert resumed.best == Best(2, 0.5)
    assert [row["update"] for row in read_rows(tmp_path / "metrics.jsonl")] == [1, 2]
    resumed.update(update(3, refusal), {})
    with pytest.raises(RunFailed, match="3 updates refused in a row"):
        resumed.update(update(4, refusal), {})
    (tmp_path / "eval.jsonl").write_text("")
    assert "eval.jsonl has lost rows" in str(resumed.damage({"records": state}))
    resumed.restart()
    assert not read_rows(tmp_path / "metrics.jsonl")
