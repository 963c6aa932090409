"""Runs whose staleness is a distribution: they stand at its mean, and are never averaged with a constant lag."""

import itertools
import math
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from synthetic import curve, write_run

from analysis import __main__ as cli
from analysis import ages, axes, figures, runs, style
from analysis.errors import AnalysisError
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


def write_mixed(folder: Path, algorithm: str, text: str, seed: int, **more: int) -> None:
    write_run(folder, algorithm, 64, seed, manifest={"staleness": text, "age": 64.0}, **more)
    config = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump(config | {"staleness": text}))


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


GAIN = {  # of the last evaluation
    "64": 0.0,
    "uniform:0:128": 0.1,
    "uniform:32:96": 0.0,
    "two_point:0:128:0.5": 0.15,
    "0": 0.2,
    "128": -0.15,
}


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six distributions, two methods, six seeds; every curve is 0.3, 0.3 and an end of its own."""
    root = tmp_path_factory.mktemp("registered")
    for (text, gain), name, seed in itertools.product(GAIN.items(), ("grpo", "m2po"), range(1, 7)):
        folder = root / f"{name}-{text.replace(':', '_')}-{seed}"
        if text.isdigit():
            write_run(folder, name, int(text), seed, updates=16)
        else:
            write_mixed(folder, name, text, seed, updates=16)
        curve(folder, [0.3, 0.3, 0.4 + gain * (2 if name == "m2po" else 1) + noise(text, name, seed)])
    return root


def noise(text: str, name: str, seed: int) -> float:
    """Of ±.01, and ±.1 on the even spread, where M2PO's opposes GRPO's in part."""
    return (0.1 if text == "uniform:0:128" else 0.01) * math.sin(7 * seed + len(text) + len(name))


def test_contrasts_are_means_over_methods_paired_by_seed(registered: Path) -> None:
    study = runs.load([registered])
    (first, scale) = ages.contrasts(study, [("two_point:0:128:0.5", "64")], [("128", "0")])
    expected = {
        seed: sum(
            gain + noise("two_point:0:128:0.5", name, seed) - noise("64", name, seed)
            for name, gain in (("grpo", 0.15), ("m2po", 0.3))
        ) / 2 / 4
        for seed in range(1, 7)
    }  # fmt: skip
    pairs = first.of("sampled_accuracy")
    assert dict(pairs) == pytest.approx(expected)  # the end is a quarter of the area of three evaluations
    assert dict(first.of("end")) == pytest.approx({seed: 4 * v for seed, v in expected.items()})
    assert (first.p, first.said) == (2 / 2**6, "higher") and (math.isnan(scale.p), scale.said) == (True, "")


def test_nothing_is_tested_after_the_first_that_is_not_rejected(registered: Path) -> None:
    study = runs.load([registered])
    asked = [("64", "128"), ("uniform:32:96", "64"), ("uniform:0:128", "64")]
    higher, same, untested = ages.contrasts(study, asked)
    assert (higher.said, higher.p) == ("higher", 2 / 2**6)
    assert same.said == "the same within 0.02" and same.p > 0.05
    assert math.isnan(untested.p) and untested.said == "not told apart"  # its interval leaves the margin
    rows = ages.table(study, [higher, same, untested]).rows
    assert [row[-2] for row in rows if row[1] == ages.ALL] == ["0.0312", f"{same.p:.3g}", "not tested"]


def test_the_command_shows_writes_and_refuses(registered: Path, tmp_path: Path, capsys) -> None:
    pack = tmp_path / "ages.parquet"
    assert cli.main(["pack", str(registered), "--out", str(pack)]) == 0
    command = ["ages", str(pack), "--contrast", "uniform:0:128", "64", "--scale", "128", "0", "--out", str(tmp_path)]
    assert cli.main(command) == 0
    assert "uniform:0:128 − 64" in capsys.readouterr().out
    assert (tmp_path / "contrasts_by_seed.png").stat().st_size > 5000
    assert (tmp_path / "contrasts.md").read_text().count("GRPO") == 2
    assert cli.main(["ages", str(pack), "--contrast", "uniform:0:129", "64"]) == 2
    assert "no runs at staleness=uniform:0:129; there are 0, 128, 64" in capsys.readouterr().err
    for sides in (["two_point:0:128:.5", "64", "--contrast", "64", "two_point:0:128:0.5"], ["64", "64"]):
        assert cli.main(["ages", str(pack), "--contrast", *sides]) == 2
        assert "expected two ages that differ, each pair once" in capsys.readouterr().err


def test_ages_may_be_spelt_as_for_run_py(registered: Path) -> None:
    study = runs.load([registered])
    (typed,) = ages.contrasts(study, [("two_point:0:128:.5", "64")])
    (recorded,) = ages.contrasts(study, [("two_point:0:128:0.5", "64")])
    assert typed.name == recorded.name and typed.pairs.equals(recorded.pairs)
    with pytest.raises(AnalysisError, match="no runs at staleness=unifrm:0:128; there are 0, 128, 64"):
        ages.contrasts(study, [("unifrm:0:128", "64")])


def test_sides_that_differ_in_more_than_their_ages_are_refused(registered: Path, tmp_path: Path) -> None:
    for seed in range(1, 7):
        write_mixed(tmp_path / f"lr-{seed}", "grpo", "uniform:16:112", seed, updates=16, learner__lr=1e-3)
        write_mixed(tmp_path / f"long-{seed}", "grpo", "uniform:48:80", seed, updates=32)
    study = runs.load([registered, tmp_path])
    grpo = study.keep(study.runs[study.runs["algorithm"] == "grpo"])
    for other, key in (("uniform:16:112", "learner.lr"), ("uniform:48:80", "updates")):
        with pytest.raises(AnalysisError, match=f"differs from another run of grpo in {key}, not in"):
            ages.contrasts(grpo, [(other, "64")])


def test_a_method_at_one_side_only_is_refused_and_one_method_is_no_mean(registered: Path) -> None:
    study = runs.load([registered])
    left = study.keep(study.runs[~study.runs["run"].str.contains("m2po-64-")])
    with pytest.raises(AnalysisError, match="no runs of m2po at staleness=64"):
        ages.contrasts(left, [("uniform:0:128", "64")])
    one = study.where(algorithm="grpo")
    assert [row[1] for row in ages.table(one, ages.contrasts(one, [("0", "64")])).rows] == ["GRPO"]


def test_what_was_not_evaluated_is_never_filled_in_silently(registered: Path, tmp_path: Path) -> None:
    study = runs.load([registered])
    run = str(study.runs.loc[study.runs["run"].str.endswith("grpo-64-2"), "run"].iloc[0])
    own = study.evaluations["run"].astype(str) == run

    def without(update: int, status: str = "finished") -> Study:
        changed = study.runs.assign(status=study.runs["status"].where(study.runs["run"] != run, status))
        return replace(
            study, runs=changed, evaluations=study.evaluations[~own | (study.evaluations["update"] != update)]
        )

    last, middle = sorted(study.evaluations.loc[own, "update"].unique())[:-3:-1]
    for update, words in (
        (middle, f"grpo-64-2: no evaluation at update {middle}"),
        (last, "grpo-64-2 has finished, its"),
    ):
        with pytest.raises(AnalysisError, match=words):
            ages.contrasts(without(update), [("0", "64")])
    stopped = without(last, "running")
    caption = ages.table(stopped, ages.contrasts(stopped, [("0", "64")])).caption
    assert "Carried forward at their last value: grpo-64-2 (running)." in caption
    impossible = study.evaluations.assign(sampled_accuracy=study.evaluations["sampled_accuracy"].where(~own, 17.0))
    with pytest.raises(AnalysisError, match=r"grpo-64-2: sampled_accuracy is 17 at update 0; expected 0 to 1"):
        ages.contrasts(replace(study, evaluations=impossible), [("0", "64")])


def test_too_few_seeds_are_no_test(registered: Path) -> None:
    study = runs.load([registered])
    five = study.keep(study.runs[study.runs["seed"] < 6])
    (found,) = ages.contrasts(five, [("0", "64")])
    assert math.isnan(found.p) and found.said == "n = 5 is too few for a test"


def test_a_seed_that_lacks_a_run_is_named(registered: Path) -> None:
    study = runs.load([registered])
    study = study.keep(study.runs[~study.runs["run"].str.endswith("m2po-64-3")])
    (found,) = ages.contrasts(study, [("uniform:0:128", "64")])
    assert list(found.of("sampled_accuracy").index) == [1, 2, 4, 5, 6]
    assert ages.table(study, [found]).caption.endswith("Seeds that lack a run: uniform:0:128 − 64: 3.")
