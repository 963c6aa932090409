"""The command line: quick help, one-line errors with code 2, and everything after a sweep in one call."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest
import synthetic

import analysis
from analysis import __main__ as cli
from analysis import figures
from analysis.errors import AnalysisError

SHORT = {"updates": 8, "eval_every": 4}


def test_help_needs_neither_pandas_nor_time():
    code = "import sys, analysis.__main__ as m; m._parser(); "
    code += "print(sorted({'pandas', 'matplotlib', 'torch'} & set(sys.modules)))"
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]" and time.perf_counter() - started < 2


def test_the_analysis_imports_neither_torch_nor_the_harness():
    """Of the harness only the names of a run folder's files."""
    root = Path(analysis.__file__).parent
    modules = [".".join(file.relative_to(root.parent).with_suffix("").parts) for file in sorted(root.rglob("*.py"))]
    code = f"import sys, importlib\nfor name in {modules}: importlib.import_module(name)\n"
    code += "print(sorted(m for m in sys.modules if m.split('.')[0] in ('torch', 'harness', 'algorithms')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(
        ["harness", "harness.records", "harness.records.layout", "harness.records.limits"]
    )


@pytest.fixture
def folder(tmp_path):
    for seed in (1, 2):
        synthetic.write_run(tmp_path / f"runs/{seed}", "grpo", 64, seed, **SHORT)
    return tmp_path / "runs"


def test_figures_tell_what_was_drawn_and_what_not_and_why(folder, tmp_path, capsys):
    assert (
        cli.main(
            ["figures", str(folder), "--out", str(tmp_path / "f"), "--only", "masked_fraction_vs_updates,f8,f1_left"]
        )
        == 0
    )
    told = capsys.readouterr()
    assert f"{tmp_path / 'f' / 'masked_fraction_vs_updates'}.png" in told.out
    assert "not drawn: f1_left: needs runs of GRPO, on-policy or no trust region, s = 64 or M2PO, s = 64" in told.out
    assert "not drawn: f8: needs runs of m2po" in told.out
    assert "2 of 2 runs used" in told.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["table", "{runs}/nowhere"], "no run found"),
        (["figures", "{runs}", "--only", "f1_lft"], "nearest: f1_left"),
        (["table", "{runs}", "--metric", "greedy_acuracy"], "nearest: greedy_accuracy"),
        (["table", "{runs}", "--where", "sead=1"], "nearest: used, seed"),
        (["table", "{runs}", "--where", "seed"], "expected COLUMN=VALUE"),
        (["figures", "{runs}", "--out", "{runs}/1/manifest.json"], "cannot write to"),
        (["report", "{runs}", "--out", "{runs}/1/manifest.json/x"], "cannot write to"),
        (["pack", "{runs}", "--out", "{runs}/1/manifest.json/x.parquet"], "cannot write"),
        (["compare", "a", "b", "c"], "two sides"),
    ],
)
def test_bad_input_is_one_line_and_code_2(folder, arguments, said, capsys):
    assert cli.main([argument.format(runs=folder) for argument in arguments]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if not line.endswith("runs used")]
    assert len(errors) == 1 and errors[0].startswith("error: ") and said in errors[0]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_named(folder, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(AnalysisError, match="cannot write to"):
        figures.prepare(tmp_path / "out")


def test_write_all_leaves_figures_tables_and_report_in_the_sweeps_folder(folder, monkeypatch):
    drawn = []

    def counted(study):
        drawn.append(study)
        return original.draw(study)

    original = figures.FIGURES["accuracy_vs_updates"]
    monkeypatch.setattr(figures, "FIGURES", {"accuracy_vs_updates": original._replace(draw=counted)})
    made = {path.relative_to(folder).as_posix() for path in analysis.write_all([folder], folder)}
    assert {
        "figures/accuracy_vs_updates.png",
        "figures/accuracy_vs_updates.pdf",
        "figures/figures.json",
        "tables/table1.tex",
        "tables/summary.md",
        "report/index.html",
    } <= made
    assert len(drawn) == 2  # for the files and the report, and narrow for a phone
    assert "figure-accuracy_vs_updates" in (folder / "report/index.html").read_text()
    assert analysis.write_all([folder], folder)  # what it wrote is no run


def test_a_table_fits_a_terminal_of_80_columns(folder):
    """Whatever is wider comes in parts, each with the columns that name its rows."""
    main, side = pty.openpty()
    command = [sys.executable, "-m", "analysis", "leaderboard", str(folder)]
    shown = ""
    with subprocess.Popen(command, stdout=side, stderr=subprocess.DEVNULL, env=os.environ | {"COLUMNS": "80"}):
        os.close(side)
        with contextlib.suppress(OSError):  # how Linux says that the other side is closed
            while part := os.read(main, 1 << 16):
                shown += part.decode()
    os.close(main)
    lines = shown.splitlines()
    assert max(map(len, lines)) <= 80 and sum(line.startswith("| algorithm") for line in lines) > 1
    assert "Ranked by area under the curve" in shown


def test_the_whole_way_on_the_terminal(folder, tmp_path, capsys):
    pack = tmp_path / "p.parquet"
    assert cli.main(["pack", str(folder), "--out", str(pack)]) == 0
    assert "2 runs, every update" in capsys.readouterr().out
    assert cli.main(["leaderboard", str(pack), "--out", str(tmp_path / "t")]) == 0
    assert (tmp_path / "t/leaderboard.tex").exists() and "| GRPO" in capsys.readouterr().out
    assert cli.main(["compare", str(pack), "--a", "seed=1", "--b", "seed=2"]) == 0
    assert "the configurations are the same" in capsys.readouterr().out
