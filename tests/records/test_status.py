"""`python -m harness.status`: every cell as it stands, whatever state its folder is in."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from harness.command import status
from harness.records.files import exclusive
from tests.records.folders import make_run, make_sweep


def test_every_state_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cells = [
        make_run(tmp_path, "a"),
        make_run(tmp_path, "b", status="failed", error="non-finite:\x1b[2J [red]loss"),
        make_run(tmp_path, "c", status="running"),
        make_run(tmp_path, "d", status="running"),
        make_run(tmp_path, "e"),
    ]
    (cells[4] / "manifest.json").write_text("{")
    make_sweep(tmp_path, "lags", [*cells, tmp_path / "carry" / "f"])
    with exclusive(cells[2] / "lock"):
        found = {cell.folder.name: cell for cell in map(status.look, status.folders([tmp_path]))}
        assert {name: cell.status for name, cell in found.items()} == {
            "a": "finished",
            "b": "failed",
            "c": "running",
            "d": "interrupted",
            "e": "damaged",
            "f": "waiting",
        }
        assert status.main([str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "\x1b[2J" not in shown and "[red]loss" in shown
    assert "25/25" in shown and "process" in shown
    assert "6 cells: 1 damaged, 1 failed, 1 finished, 1 interrupted, 1 running, 1 waiting" in shown


@pytest.mark.parametrize("number", ["Infinity", "1e999", '"\x1b[31m"', '{"a": 1}', "null", "-1", "2.5"])
def test_a_row_that_counts_nothing_is_no_row(tmp_path: Path, number: str) -> None:
    folder = make_run(tmp_path, "a")
    (folder / "metrics.jsonl").write_text(f'{{"update": 4}}\n{{"update": {number}}}\n')
    rows = f'{{"update": {number}, "split": "validation", "sampled_accuracy": 1}}\n'
    rows += '{"update": 4, "split": "validation", "sampled_accuracy": NaN}\n'
    (folder / "eval.jsonl").write_text(rows)
    cell = status.look(folder)
    assert (cell.update, cell.accuracy, cell.status) == (4, "", "finished")


def test_task_setting_and_accuracy_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, lr in (("a", 1e-5), ("b", 3e-5)):
        folder = make_run(tmp_path, name, roles={"learner.lr": "science", "long": "place"})
        config = yaml.safe_load((folder / "config.yaml").read_text()) | {"learner": {"lr": lr}}
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
    with (folder / "eval.jsonl").open("a") as file:
        file.write(json.dumps({"update": 20, "split": "validation", "sampled_accuracy": 0.75}) + "\n")
    one, two = (status.look(tmp_path / "carry" / name) for name in "ab")
    assert (one.task, one.setting, one.accuracy) == ("carry", "m2po s=4 seed=1", "0.500, best 0.500 at 0")
    assert two.accuracy == "0.500, best 0.750 at 20"
    assert status.different([one, two]) == ["learner.lr"]
    status.main([str(tmp_path)])
    shown = "".join(capsys.readouterr().out.split())
    assert "learner.lr=1e-05" in shown and "learner.lr=3e-05" in shown and "carry" in shown


def test_a_tree_that_may_not_be_written_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_run(tmp_path, "a", status="running")
    (folder / "lock").write_text("process 1 on elsewhere")
    opened = Path.open

    def refusing(path: Path, mode: str = "r", **more: object) -> object:  # root may write everywhere
        if set(mode) & set("wa+"):
            raise OSError(30, "Read-only file system", str(path))
        return opened(path, mode, **more)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", refusing)
    assert status.look(folder).status == "interrupted"


def test_no_file_of_a_run_ends_or_stops_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damages: dict[str, Callable[[Path], object]] = {
        "pipe": os.mkfifo,
        "device": lambda path: path.symlink_to("/dev/zero"),
        "deep": lambda path: path.write_text("- " * 30_000),  # libyaml ends the process over it
        "deep JSON": lambda path: path.write_text("[" * 300_000),
        "huge": lambda path: (path.touch(), os.truncate(path, 2**36)),
    }
    for how, damage in damages.items():
        for name in ("manifest.json", "config.yaml", "metrics.jsonl", "eval.jsonl", "lock", "heartbeat"):
            file = make_run(tmp_path, f"{how} {name}", status="running", roles={"long": "science"}) / name
            file.unlink(missing_ok=True)
            damage(file)
    assert status.main([str(tmp_path)]) == 0
    assert "30 cells: " in capsys.readouterr().out


def test_the_last_whole_row_counts(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "a", updates=3)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"update": 4})[:-3])
    assert status.last_update(folder) == 3


def test_nothing_found_says_where_it_looked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status.main([str(tmp_path)]) == 1
    assert str(tmp_path) in capsys.readouterr().err
