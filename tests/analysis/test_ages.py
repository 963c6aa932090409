"""Runs whose staleness is a distribution: they stand at its mean, and are never averaged with a constant lag."""

from pathlib import Path

import pytest
import yaml
from synthetic import write_run

from analysis import __main__ as cli
from analysis import axes, runs, style
from analysis.study import Study


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Constant lags 0 and 64 and two distributions of mean 64, three seeds each."""
    for seed in (1, 2, 3):
        for age in (0, 64):
            write_run(tmp_path / f"s{age}-{seed}", "grpo", age, seed)
        for text in ("uniform:0:128", "two_point:0:128:0.5"):
            folder = tmp_path / f"{text.replace(':', '_')}-{seed}"
            write_run(folder, "grpo", 64, seed, manifest={"staleness": text, "age": 64.0})
            config = yaml.safe_load((folder / "config.yaml").read_text())
            (folder / "config.yaml").write_text(yaml.safe_dump(config | {"staleness": text}))
    return tmp_path


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
