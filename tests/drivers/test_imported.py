"""Schedules of other systems' runs: logs written by their own code (parity/schedules.py), imported and replayed."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from short_runs import configured

from analysis import runs
from harness.command.cell import run_cell
from harness.errors import UserError
from harness.lag import imported
from tests.conftest import manifest, read_rows

LOGS = Path(__file__).parent / "logs"
AGES = {  # in steps, of the trajectories of each step
    ("verl", "last"): [[0, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]],
    ("verl", "first"): [[0, 0, 0, 0], [1, 1, 0, 0], [2, 2, 0, 0], [2, 2, 2, 2]],
    ("areal", "last"): [[0, 0], [0, 0], [1, 0], [1, 0]],
}


def test_every_update_gets_its_part_of_the_ages() -> None:
    for line in imported.schedule([np.arange(16)] * 20, chunks=8, unit=4):
        parts = np.reshape([line["batch"] - version // 4 for version in line["versions"]], (4, 2))
        if line["batch"] == 19:  # by then nothing is older than the run
            assert sorted(parts.ravel()) == list(range(1, 16, 2)) and (np.sort(parts) // 8 == [0, 1]).all()


@pytest.mark.parametrize(("system", "end"), AGES)
def test_the_ages_of_a_log(system: str, end: str) -> None:
    read = imported.verl(LOGS / "verl", end) if system == "verl" else imported.areal(LOGS / "areal", end, tasks=2)
    assert [ages.tolist() for ages in read] == AGES[system, end]


def test_weights_published_every_other_step_are_older(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        row = {"step": step, "max_global_steps": (step - 1) // 2}
        (tmp_path / f"{step}.jsonl").write_text(json.dumps(row) + "\n")
    assert [ages.tolist() for ages in imported.verl(tmp_path, steps_per_version=2)] == [[0], [1], [0], [1]]


def test_a_response_may_hold_any_character(tmp_path: Path) -> None:
    """Both systems write text as it is: of what `splitlines` takes for a new line, JSON escapes only a part."""
    rows = [{"step": 1, "output": "a\u2028b\u2029c\x85d\x1ce", "max_global_steps": 0, "tail_version": 0}] * 2
    (tmp_path / "0").mkdir()
    for file in (tmp_path / "1.jsonl", tmp_path / "0" / "7.jsonl"):
        file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    assert [ages.tolist() for ages in imported.verl(tmp_path)] == [[0, 0]]
    assert [ages.tolist() for ages in imported.areal(tmp_path, "last", tasks=1)] == [[0]]


def test_an_areal_dump_is_read_by_its_own_names_alone(tmp_path: Path) -> None:
    for name in ("0", "2²", "2x"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jsonl").write_text('{"tail_version": 0}\n')
    assert [ages.tolist() for ages in imported.areal(tmp_path, "last", tasks=1)] == [[0]]
    (tmp_path / "0" / "1.jsonl").write_text("")
    with pytest.raises(UserError, match=r"1\.jsonl: is empty"):
        imported.areal(tmp_path, "last", tasks=1)


@pytest.mark.parametrize("more", [("verl", "--version", "first"), ("areal", "--tasks", "2")])
def test_an_imported_schedule_is_replayed(
    more: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    system, *options = more
    assert imported.main([system, str(LOGS / system), "--chunks", "2", *options]) == 0
    said = capsys.readouterr()
    assert said.err.startswith("4 steps; ages in steps: mean ")
    file = tmp_path / "schedule.jsonl"
    file.write_text(said.out)
    replay = ("lag=replay", f"lag.schedule={file}", "rollout.chunks=2")
    config = configured(tmp_path, *replay)
    assert run_cell(config) == "finished"
    expected = AGES[system, "first" if "first" in more else "last"]
    assert f"data {file}" in manifest(config.folder)["depends_on"]
    mean = 4 * sum(sum(sorted(ages)[len(ages) // 4 :: len(ages) // 2]) for ages in expected) / 8
    assert manifest(config.folder)["age"] == mean and runs.load([config.folder]).used["staleness"].item() == round(mean)
    rows = read_rows(config.folder / "metrics.jsonl")
    for step, theirs in enumerate(expected):
        own = {int(s) - row["version"] % 4 for row in rows[4 * step : 4 * step + 4] for s in row["staleness_hist"]}
        assert own == {4 * age for age in sorted(theirs)[len(theirs) // 4 :: len(theirs) // 2]}  # of two chunks
    for words, why in (("rollout.chunks=4", "rollout.chunks=2 there, 4 here"), ("updates=20", "has 4 batches")):
        with pytest.raises(UserError, match=why):
            configured(tmp_path, *replay, words)


def without_versions(folder: Path) -> None:
    (folder / "2.jsonl").write_text('{"step": 2, "output": "2"}\n')


def without_a_step(folder: Path) -> None:
    (folder / "2.jsonl").unlink()


def from_the_future(folder: Path) -> None:
    (folder / "2.jsonl").write_text(json.dumps({"step": 2, "min_global_steps": "3", "max_global_steps": "3"}) + "\n")


def cut_off(folder: Path) -> None:
    (folder / "2.jsonl").write_text('{"step": 2, ')


def with_version(value: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / "2.jsonl").write_text(f'{{"step": 2, "max_global_steps": {value}}}\n')

    return damage


def with_a_copy(folder: Path) -> None:
    shutil.copy(folder / "2.jsonl", folder / "2 copy.jsonl")


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        *(
            (with_version(value), f"max_global_steps is {value.title()}; expected a whole number from 0")
            for value in ("-1", "0.5", "true")
        ),
        (with_version("Infinity"), "max_global_steps is inf; expected a whole number from 0"),
        (with_version("1e400"), "max_global_steps is inf; expected a whole number from 0"),
        (with_a_copy, "holds step 2; expected one STEP.jsonl"),
        (lambda folder: (folder / "2.jsonl").write_text('[["step", 2]]\n'), "expected a JSON object a line"),
        (without_versions, "a line without the number max_global_steps; docs/lags.md says how"),
        (without_a_step, "2.jsonl is missing or empty"),
        (from_the_future, "step 2 trains on what was sampled by later weights"),
        (cut_off, "expected a JSON object a line"),
        (shutil.rmtree, "got 0 steps"),
    ],
)
def test_a_log_that_is_none_is_refused(
    damage: Callable[[Path], None], why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(LOGS / "verl", tmp_path / "verl")
    damage(tmp_path / "verl")
    assert imported.main(["verl", str(tmp_path / "verl"), "--chunks", "2"]) == 2
    said = capsys.readouterr()
    assert why in said.err and said.err.count("\n") == 1 and said.out == ""


@pytest.mark.parametrize(
    ("options", "why"),
    [((), "needs --tasks"), (("--tasks", "2", "--version", "first"), "--version last"), (("--tasks", "9"), "holds 8")],
)
def test_what_areal_does_not_say_is_asked_for(
    options: tuple[str, ...], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert imported.main(["areal", str(LOGS / "areal"), "--chunks", "2", *options]) == 2
    assert why in capsys.readouterr().err


@pytest.mark.parametrize("count", ["0", "1000000000"])
def test_a_number_of_chunks_that_no_run_has_is_refused(count: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        imported.main(["verl", str(LOGS / "verl"), "--chunks", count])
    assert "expected 1 to 100000" in capsys.readouterr().err


def test_a_reader_that_leaves_is_no_error() -> None:
    command = [sys.executable, "-m", "harness.lag.imported", "verl", str(LOGS / "verl"), "--chunks", "10000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as importing:
        assert importing.stdout is not None and importing.stderr is not None
        importing.stdout.read(1)
        importing.stdout.close()
        assert importing.stderr.read() == ""
