"""Runs whose staleness is a distribution: they stand at its mean, and are never averaged with a constant lag."""

from pathlib import Path

import pytest
import yaml
from synthetic import write_run

from analysis import __main__ as cli
from analysis import axes, figures, runs, style
from analysis.figures.common import Drawing
from analysis.study import Study


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Constant lags 0 and 64 and two distributions of mean 64, three seeds each."""
    for seed in (1, 2, 3):
        for age in (0, 64):
            write_run(tmp_path / f"s{age}-{seed}", "grpo", age, seed)
        for text in ("uniform:0:128", "two_point:0:128:0.5"):
            write_mixed(tmp_path / f"{text.replace(':', '_')}-{seed}", "grpo", text, seed)
    return tmp_path


def write_mixed(folder: Path, algorithm: str, ages: str, seed: int) -> None:
    write_run(folder, algorithm, 64, seed, manifest={"staleness": ages, "age": 64.0})
    config = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump(config | {"staleness": ages}))


def test_a_distribution_stands_at_its_mean_as_a_setting_of_its_own(mixed: Path) -> None:
    study: Study = runs.load([mixed])
    used = study.used
    assert len(used) == 12 and sorted(used["staleness"].unique()) == [0, 64]
    found = used.groupby("setting")["staleness"].agg(["nunique", "size"])
    assert found.loc[""].tolist() == [2, 6]
    for text in ("ages=uniform:0:128", "ages=two_point:0:128:0.5"):
        assert found.loc[text].tolist() == [1, 3]
    assert used.loc[used["reference"], "setting"].eq("").all()
    assert axes.axes(study) == ["staleness", "ages"]
    assert style.label("grpo", 64, "ages=uniform:0:128") == "GRPO, s = 64 (ages=uniform:0:128)"


def test_table_and_figure_take_the_distributions(mixed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["table", str(mixed), "--group", "ages"]) == 0
    assert "uniform:0:128" in capsys.readouterr().out
    arguments = ["figures", str(mixed), "--only", "outcome_by_axis", "--x", "staleness", "--hue", "ages"]
    assert cli.main([*arguments, "--out", str(mixed / "out")]) == 0
    assert "two_point:0:128:0.5" in (mixed / "out/outcome_by_axis.csv").read_text()


def test_two_sides_may_differ_in_their_ages(mixed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sides = ["compare", str(mixed), "--a", "ages=uniform:0:128", "--b", "staleness=64"]
    assert cli.main(sides) == 2
    assert "they differ in ages (--b KEY=none: those without it)" in capsys.readouterr().err
    assert cli.main([*sides, "--b", "ages=none"]) == 0
    assert "uniform:0:128" in capsys.readouterr().out


def test_a_distribution_is_named_where_a_method_has_no_other_setting(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in (1, 2, 3):
        write_run(tmp_path / f"grpo-{seed}", "grpo", 64, seed)
        write_mixed(tmp_path / f"m2po-{seed}", "m2po", "uniform:0:128", seed)
    for command in ("table", "leaderboard"):
        assert cli.main([command, str(tmp_path)]) == 0
        assert "| ages=uniform:0:128 |" in capsys.readouterr().out
    ((_, drawing),) = figures.draw(runs.load([tmp_path]), only=["accuracy_vs_updates"])
    assert isinstance(drawing, Drawing) and "s = 64 is uniform:0:128" in drawing.caption
