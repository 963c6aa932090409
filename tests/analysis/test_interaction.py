"""A difference of two paired differences."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from analysis import __main__, interaction, runs
from analysis.errors import AnalysisError
from analysis.inference import sign_flip
from analysis.study import Study
from tests.analysis import synthetic

PLACES = ("carry_noisy:64", "carry:64")
SEEDS = range(1, 9)
ENDS = {("carry", "grpo"): 0.5, ("carry", "topr"): 0.6, ("carry_noisy", "grpo"): 0.4, ("carry_noisy", "topr"): 0.2}


def end(task: str, name: str, seed: int) -> float:
    return ENDS[task, name] + 0.02 * np.sin(seed * (3 if task == "carry" else 5) + sum(name.encode()))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("interaction")
    for (task, name), seed in itertools.product(ENDS, SEEDS):
        run = synthetic.write_run(folder / f"{task}-{name}-{seed}", name, 64, seed, task=task, updates=16)
        synthetic.curve(run, [0.1, 0.2, 0.3, 0.3, end(task, name, seed)])
    return folder


@pytest.fixture(scope="module")
def study(root: Path) -> Study:
    return runs.load([root])


def test_it_is_the_difference_of_differences_of_each_seed(study: Study) -> None:
    table = interaction.table(study, "topr", PLACES)
    found = {(row[0], row[1]): dict(zip(table.columns, row, strict=True)) for row in table.rows}
    last = found["last", "carry_noisy:64 − carry:64"]
    own, other = (
        np.array([end("carry_noisy", name, seed) - end("carry", name, seed) for seed in SEEDS])
        for name in ("topr", "grpo")
    )
    assert last["TOPR"].value == pytest.approx(own.mean()) and last["GRPO"].value == pytest.approx(other.mean())
    assert last["TOPR − GRPO"].value == pytest.approx((own - other).mean()) and last["p"] == "–"
    area = found["area, sampled_accuracy", "carry_noisy:64 − carry:64"]
    assert area["TOPR − GRPO"].value == pytest.approx((own - other).mean() / 8)  # half of the last of four intervals
    assert area["p"] == f"{sign_flip((own - other) / 8):.3g}" == "0.00781" and area["said"] == "lower"
    assert found["area, sampled_accuracy", "carry:64"]["TOPR − GRPO"].value > 0


def test_turned_round_it_has_the_other_sign(study: Study) -> None:
    (row,) = [row for row in interaction.table(study, "topr", PLACES[::-1]).rows if row[-1] not in ("–", "")]
    assert row[-1] == "higher" and row[1] == "carry:64 − carry_noisy:64"


def test_only_seeds_that_all_four_have(root: Path) -> None:
    few = runs.load([root]).where(seed=1)
    table = interaction.table(few, "topr", PLACES)
    assert table.rows[2][2] == 1 and table.rows[2][-1] == "n = 1 is too few for a test"
    assert "Seeds left out" not in table.caption


def test_seeds_that_a_side_lacks_are_named(study: Study) -> None:
    lacks = (study.used["task"] == "carry") & (study.used["algorithm"] == "topr") & study.used["seed"].isin([2, 5])
    table = interaction.table(study.keep(study.used[~lacks]), "topr", PLACES)
    assert table.rows[2][2] == 6 and table.caption.endswith("Seeds left out, which not all four have: 2, 5.")


def test_what_differs_beside_the_place_is_said(study: Study, tmp_path: Path) -> None:
    assert "the places differ in nothing." in interaction.table(study, "topr", PLACES).caption
    for task, name in ENDS:
        more = {"task__reward_noise": 0.05} if task == "carry_noisy" else {"learner__lr": 1e-4}
        run = synthetic.write_run(tmp_path / f"{task}-{name}", name, 64, 1, task=task, updates=16, **more)
        synthetic.curve(run, [0.1, 0.2])
    told = interaction.table(runs.load([tmp_path]), "topr", PLACES).caption
    assert "the places differ in learner.lr, task.reward_noise." in told


@pytest.mark.parametrize(("method", "places", "said"), [
    ("topr", ("carry_noisy:64", "carry:8"), r"no run of topr at carry:8; .* there are carry:64, carry_noisy:64"),
    ("m2po", PLACES, "no run of m2po at carry_noisy:64"),
])  # fmt: skip
def test_a_side_without_runs_is_named(study: Study, method: str, places: tuple[str, str], said: str) -> None:
    with pytest.raises(AnalysisError, match=said):
        interaction.table(study, method, places)


def test_sides_without_a_common_seed_are_refused(root: Path, study: Study) -> None:
    kept = study.used[(study.used["task"] == "carry") == (study.used["seed"] < 5)]
    with pytest.raises(AnalysisError, match="no seed that topr and grpo have in both"):
        interaction.table(study.keep(kept), "topr", PLACES)


def test_the_command_writes_its_table(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["interaction", str(root), "--method", "topr", "--places", *PLACES, "--out", str(tmp_path)]
    assert __main__.main(words) == 0
    assert (tmp_path / "interaction.md").is_file() and "lower" in capsys.readouterr().out
