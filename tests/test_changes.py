"""What a run depends on is recorded, compared when it is skipped or carried on, and named when it has changed."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.command.cell import run_cell
from harness.command.dependencies import described
from harness.command.launch import summary
from harness.command.plan import plan
from harness.errors import UserError
from harness.records.files import read_json, signed, write_json
from harness.records.sources import needed, source_of, source_sha256
from tests.conftest import ROOT, SMALL, manifest
from tests.tiny import gsm8k_rows, write_jsonl

LOSS = """
from dataclasses import dataclass
from algorithms import Algorithm, TokenStats, TokenWeights, weigh
from my_losses.scale import SCALE

@dataclass(frozen=True)
class Mine(Algorithm):
    def weights(self, stats: TokenStats) -> TokenWeights:
        return weigh(stats, SCALE * stats.ratio)
"""
WORDS = ("model=gsm8k_small", "task=gsm8k", "rollout.max_new_tokens=8", "eval.samples=1", "eval.greedy=false",
         "task.path=train.jsonl", "algo=mine", "hydra.searchpath=[file://conf]", "allow_code=[my_losses]",
         "updates=8", "checkpoint_every=4")  # fmt: skip


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a loss in a package of two files, and a data file."""
    package = tmp_path / "my_losses"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "mine.py").write_text(LOSS)
    (package / "scale.py").write_text("SCALE = 1.0\n")
    (package / "another.py").write_text("SCALE = 1.0\n")
    (tmp_path / "conf" / "algo").mkdir(parents=True)
    (tmp_path / "conf" / "algo" / "mine.yaml").write_text("_target_: my_losses.mine.Mine\n")
    write_jsonl(tmp_path / "train.jsonl", gsm8k_rows(40))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0] == "my_losses"]:
        del sys.modules[name]


def run(*words: str) -> str:
    """One run in this process, with the summary's exit code."""
    planned = plan([*SMALL, *WORDS, *words])
    outcome = run_cell(planned.cells[0])
    summary(planned)
    return outcome


def only(folder: Path) -> Path:
    (found,) = folder.glob("runs/**/manifest.json")
    return found.parent


def test_a_skip_never_looks_like_a_run_and_says_what_has_changed(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run() == "finished"
    assert capsys.readouterr().out.startswith("finished: ")
    depends = manifest(only(place))["depends_on"]
    names = {"harness", "package my_losses", "reward harness.tasks.corpus", "data train.jsonl", "cpu", "torch", "numpy"}
    assert names | {"model harness/assets/gsm8k_small"} <= depends.keys()

    assert run() == "skipped"
    said = capsys.readouterr().out
    finished = time.strftime("%H:%M", time.localtime(manifest(only(place))["finished"]))
    assert said.startswith(f"already finished {finished}, skipped · ") and "since" not in said

    (place / "my_losses" / "another.py").write_text("SCALE = 3.0\n")  # nothing that the loss imports
    (place / "my_losses" / "scale.py").write_text("SCALE = 2.0\n")
    write_jsonl(place / "train.jsonl", gsm8k_rows(41))
    assert run() == "skipped"
    said = capsys.readouterr().out
    assert "the code of my_losses and data train.jsonl have changed since" in said
    assert "repeat=1 or another runs_dir" in said and said.startswith("already finished ")

    write_jsonl(place / "train.jsonl", gsm8k_rows(40))
    (place / "my_losses" / "scale.py").write_text("SCALE = 1.0\n")
    assert run() == "skipped"
    assert "since" not in capsys.readouterr().out


def test_a_run_carries_on_with_the_same_or_not_unasked(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("stop_at=4") == "paused"
    folder = only(place)
    before = (folder / "manifest.json").read_bytes()
    (place / "my_losses" / "scale.py").write_text("SCALE = 2.0\n")
    with pytest.raises(
        UserError, match=r"the code of my_losses has changed since .*repeat=1 .*on_change=record"
    ) as refusal:
        run()
    assert "\n" not in str(refusal.value)
    assert (folder / "manifest.json").read_bytes() == before

    (place / "my_losses" / "scale.py").write_text("SCALE = 1.0\n")
    write_jsonl(place / "train.jsonl", gsm8k_rows(20))
    with pytest.raises(UserError, match=r"data train.jsonl has changed since"):
        run()
    capsys.readouterr()
    assert run("on_change=record") == "finished"
    assert "data train.jsonl has changed since this run last started; both are recorded" in capsys.readouterr().err
    record = manifest(folder)
    first, second = record["depends_on"], record["resumed"][-1]["depends_on"]
    assert {name for name in first if first[name] != second[name]} == {"data train.jsonl"}


def test_another_harness_is_recorded_with_one_line(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("stop_at=4") == "paused"
    path = only(place) / "manifest.json"
    record = read_json(path)
    record["depends_on"] |= {"harness": "0" * 64, "torch": "2.0", "cpu": "a Z80"}
    write_json(path, signed(record))
    capsys.readouterr()
    assert run() == "finished"
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "changed" in line]
    assert "the code of algorithms and harness, cpu a Z80 → " in line and "torch 2.0 → " in line


def test_a_checkpoint_of_another_seed_is_not_carried_on(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("stop_at=4") == "paused"
    first = only(place)
    written = read_json(first / "checkpoints" / "000004" / "checkpoint.json")
    assert written["config_sha256"] == manifest(first)["config_sha256"]
    other = plan([*SMALL, *WORDS, "seed=2", "stop_at=4"]).cells[0]
    shutil.copytree(first, other.folder)
    (other.folder / "manifest.json").unlink()
    capsys.readouterr()
    assert run_cell(other) == "paused"
    assert "belongs to another configuration" in capsys.readouterr().err
    rows = (other.folder / "metrics.jsonl").read_text()
    assert rows != (first / "metrics.jsonl").read_text() and rows.count("\n") == 4


def test_the_sources_that_count_are_those_imported(place: Path) -> None:
    found = needed(["my_losses.mine"], ("my_losses",))
    assert set(found) == {"my_losses.mine", "my_losses.scale"}
    ours = needed(["algorithms.tis"], ("algorithms",))
    assert {"algorithms.tis", "algorithms.importance", "algorithms.interface"} <= set(ours)
    assert not {"algorithms.m2po", "algorithms.bapo"} & set(ours)
    assert source_of("algorithms") == ROOT / "algorithms" / "__init__.py"
    assert source_of("algorithms.nothing") is None and source_of("no_such_package") is None
    assert source_sha256(["json"], ["algorithms"]) is None


def test_relative_imports_are_followed(place: Path) -> None:
    inner = place / "my_losses" / "inner"
    inner.mkdir()
    (inner / "__init__.py").write_text("from . import deep\nfrom ..scale import SCALE\n")
    (inner / "deep.py").write_text("def f():\n    from .. import another\n")
    found = set(needed(["my_losses.inner"], ("my_losses",)))
    assert {"my_losses.inner", "my_losses.inner.deep", "my_losses.scale", "my_losses.another"} <= found


def test_changes_in_words() -> None:
    before = {"method algorithms.tis": "a", "harness": "a", "cpu": "x", "torch": "2.0", "gone": "a"}
    assert described(before, before | {"new": "b"}) == []
    assert described(before, before | {"harness": "b", "method algorithms.tis": "b"}) == ["the code of algorithms.tis"]
    assert described(before, before | {"harness": "b"}) == ["the code of algorithms and harness"]
    assert described(before, before | {"cpu": "y", "torch": "2.1"}) == ["cpu x → y", "torch 2.0 → 2.1"]
