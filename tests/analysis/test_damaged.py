"""One damaged or hostile run ends nothing for the others, and what it says comes out as text."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

import pandas as pd
import pytest
import synthetic
import yaml

from analysis import figures, report, runs, tables
from analysis.__main__ import main
from analysis.figures.common import Drawing
from analysis.plain import csv_cells, markdown_cell, printable
from harness.records import limits

SHORT = {"updates": 8, "eval_every": 4}
ALIASES = "\n".join(["a0: &a0 [x, x]", *(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 40))])
HOSTILE = "\x1b[31m=cmd|'/c calc'!A1 [x](javascript:alert(1)) <script>alert(1)</script>\n\ud800"


def last_row(**changes) -> bytes:
    return json.dumps({"update": 9, **changes}).encode() + b"\n"


DAMAGE = {  # file, what is appended or put in its place, words of the note or reason
    "a key that is no text": ("metrics.jsonl", b'{"update": 9, "\xff\xfe": 1}\n', "line 9 is not a JSON object"),
    "an update without end": ("metrics.jsonl", b'{"update": Infinity}\n', "1 repeated or unnumbered"),
    "half an update": ("metrics.jsonl", last_row(update=8.5), "1 repeated or unnumbered"),
    "an update before the start": ("metrics.jsonl", last_row(update=-1), "1 repeated or unnumbered"),
    "an integer of 400 digits": ("metrics.jsonl", b'{"update": ' + b"9" * 400 + b"}\n", "unnumbered"),
    "a row too deep for any parser": ("metrics.jsonl", b'{"a": ' + b"[" * 300_000 + b"\n", "line 9 is not"),
    "a split with escape codes": ("eval.jsonl", last_row(split="\x1b[31m"), "1 repeated or unnumbered"),
    "a manifest too deep": ("manifest.json", b"[" * 300_000, "nested deeper"),
    "a manifest that is a list": ("manifest.json", b"[1]", "not a run's"),
    "a configuration too deep": ("config.yaml", b"- " * 30_000 + b"x", "nested deeper"),
    "a configuration of aliases": ("config.yaml", ALIASES.encode(), "has aliases"),
    "a configuration of other bytes": ("config.yaml", b"a: \xff\n", "cannot be read"),
    "token records cut off": ("tokens.parquet", b"PAR1 and no more", "tokens.parquet cannot be read"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_costs_at_most_its_own_run(tmp_path, name):
    file, content, words = DAMAGE[name]
    for seed in (1, 2):
        synthetic.write_run(tmp_path / f"run{seed}", seed=seed, **SHORT)
    path = tmp_path / "run2" / file
    path.write_bytes((path.read_bytes() if file.endswith("jsonl") else b"") + content)
    study = runs.load([tmp_path])
    assert "run1" in set(study.used["run"])
    said = " ".join([*study.notes, *study.unused["why_not"]])
    assert words in said and "\n" not in said
    assert study.updates.groupby("run", observed=True)["update"].max().to_dict().get("run2", 8) == 8


def test_a_stream_of_which_no_row_counts_has_none(tmp_path):
    for seed in (1, 2):
        synthetic.write_run(tmp_path / f"run{seed}", seed=seed, **SHORT)
    (tmp_path / "run2/metrics.jsonl").write_text('{"update": Infinity, "loss": 1}\n')
    study = runs.load([tmp_path])
    assert set(study.used["run"]) == {"run1", "run2"} and set(study.updates["run"]) == {"run1"}
    assert "1 repeated or unnumbered" in " ".join(study.notes)


def test_a_file_beyond_its_limit_is_not_read(tmp_path, monkeypatch):
    for seed in (1, 2):
        synthetic.write_run(tmp_path / f"run{seed}", seed=seed, **SHORT)
    (tmp_path / "run2/config.yaml").write_text("a: 1\n" + "#" * 20_000)
    monkeypatch.setattr(limits, "LARGEST_TEXT", 20_000)
    (row,) = runs.load([tmp_path]).unused.itertuples()
    assert row.run == "run2" and "at most 20000 are read" in row.why_not


def test_what_is_no_plain_file_is_not_waited_for(tmp_path):
    for name in ("good", *(files := ("manifest.json", "config.yaml", "metrics.jsonl", "eval.jsonl", "tokens.parquet"))):
        synthetic.write_run(tmp_path / name, seed=len(name), **SHORT)
    for name in files:
        (tmp_path / name / name).unlink(missing_ok=True)
        os.mkfifo(tmp_path / name / name)
    study = runs.load([tmp_path])
    assert set(study.used["run"]) == {"good", "tokens.parquet"}
    for said in (*study.unused["why_not"], *study.notes):
        assert "is no plain file" in said


def test_a_damaged_sweep_record_costs_its_own_cells(tmp_path):
    synthetic.write_run(tmp_path / "good/run", **SHORT)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/sweep.json").write_text('{"cells": [{"folder": "\\u0000"}]}')
    study = runs.load([tmp_path])
    assert len(study.used) == 1 and "not a sweep's record" in study.notes[0]


def test_a_cell_that_cannot_be_looked_at_is_not_used(tmp_path):
    """A name that no file system takes, as a folder of somebody else's: asking whether it is there is an error."""
    for seed in (1, 2):
        synthetic.write_run(tmp_path / f"run{seed}", seed=seed, **SHORT)
    sweep = {"name": "s", "cells": [{"folder": f"../{name}"} for name in ("run1", "x" * 300, "run2")]}
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "sweep.json").write_text(json.dumps(sweep))
    study = runs.load([tmp_path / "sweep"])
    assert sorted(study.used["run"]) == ["run1", "run2"]
    (reason,) = study.unused["why_not"]
    assert reason.startswith("foreign: manifest.json cannot be read ([Errno 36] File name too long")


def test_folders_of_another_user_are_named():
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        closed = Path(folder, "run")
        closed.mkdir(mode=0o000)
        user = os.geteuid()
        try:
            os.seteuid(user or 65534)  # root may read everything
            folders, notes = runs.discover([folder])
        finally:
            os.seteuid(user)
    assert folders == [] and notes == [f"not used: {closed}: Permission denied"]


def test_a_figure_or_table_that_fails_is_named_and_the_others_are_made(tmp_path, study, monkeypatch):
    def fails(_study) -> Drawing:
        raise ZeroDivisionError("of no\nuse")

    def cannot_be_saved(given) -> Drawing:
        drawing = figures.main.accuracy_vs_updates(given)
        drawing.figure.axes[0].set_title(r"$\no$")
        return drawing

    table = {"f2": figures.Figure("fails", fails), "f5": figures.Figure("cannot be saved", cannot_be_saved)}
    monkeypatch.setattr(figures, "FIGURES", {"accuracy_vs_updates": figures.FIGURES["accuracy_vs_updates"], **table})
    index = figures.write(study, tmp_path)
    assert index["accuracy_vs_updates"]["drawn"] and index["f2"]["why_not"] == "ZeroDivisionError: of no"
    assert not index["f5"]["drawn"] and not (tmp_path / "f5.png").exists()
    monkeypatch.setattr(tables, "stability", lambda *_: 1 / 0)
    page = report.page(study)
    assert page.count("ZeroDivisionError: of no") == 1 and "stability: ZeroDivisionError" in page


def test_a_run_with_a_hostile_name_is_inert_everywhere(tmp_path, capsys):
    synthetic.write_run(tmp_path / "good", **SHORT)
    folder = tmp_path / "x\x1b[31m=1"
    shutil.copytree(tmp_path / "good", folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "algorithm": HOSTILE}))
    config = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump({**config, "seed": 7, "\x1b[2J": HOSTILE[:-1]}))
    out = tmp_path / "out"
    for command in ("table", "leaderboard", "pack"):
        target = out / "a.parquet" if command == "pack" else out
        assert main([command, str(tmp_path / "good"), str(folder), "--incomplete", "--out", str(target)]) == 0
    assert main(["table", str(out / "a.parquet")]) == 0
    printed = capsys.readouterr()
    assert "\x1b" not in printed.out + printed.err and "<script" not in printed.out.replace("\\<", "")
    for path in out.glob("*.csv"):
        assert not any(cell.startswith(("=", "@")) for row in path.read_text().splitlines() for cell in row.split(","))


def test_texts_are_made_inert():
    assert printable("a\x1b[31m\n\u202eb\ud800") == "a�[31m��b�"
    assert markdown_cell("a|b <img> [x](y)") == r"a\|b \<img> [x]\(y)"
    frame = csv_cells(pd.DataFrame({"name": ["=1+1", "@x", "ok"], "value": [-1.0, 2.0, 3.0]}))
    assert list(frame["name"]) == ["'=1+1", "'@x", "ok"] and frame["value"].sum() == 4
