"""One family of tests over several tasks and stalenesses."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from analysis import __main__, across, runs
from analysis.errors import AnalysisError, MissingData
from analysis.study import Study
from tests.analysis import synthetic

GAIN = {"grpo": 0.0, "m2po": 0.1, "gspo": 0.001}  # of the last evaluation over GRPO's
SEEDS = range(1, 9)


def write(root: Path) -> None:
    """Two tasks; of `carry_long` TOPR ends low, and one of its runs failed half way."""
    for task, name, seed in itertools.product(("carry", "carry_long"), GAIN, SEEDS):
        folder = synthetic.write_run(root / f"{task}-{name}-{seed}", name, 64, seed, task=task, updates=16)
        noise = 0.004 * np.sin(seed + sum(name.encode()))
        synthetic.curve(folder, [0.1, 0.2, 0.3, 0.3, 0.4 + GAIN[name] * (task == "carry") + noise])
    for seed in SEEDS:
        failed = seed == 3
        folder = synthetic.write_run(
            root / f"topr-{seed}",
            "topr",
            64,
            seed,
            task="carry_long",
            updates=16,
            status="failed" if failed else "finished",
        )
        synthetic.curve(folder, [0.1, 0.5, 0.1] if failed else [0.1, 0.5, 0.1, 0.1, 0.1])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("across")
    write(folder)
    return folder


@pytest.fixture(scope="module")
def study(root: Path) -> Study:
    return runs.load([root], incomplete=True)


def lines(table: Any) -> dict[tuple[Any, ...], dict[str, Any]]:
    return {tuple(row[:3]): dict(zip(table.columns, row, strict=True)) for row in table.rows}


def test_differences_are_one_family_over_the_places(study: Study) -> None:
    found = lines(across.differences(study))
    assert set(found) == {("carry", 64, n) for n in ("GRPO", "M2PO", "GSPO")} | {
        ("carry_long", 64, n) for n in ("GRPO", "M2PO", "GSPO", "TOPR")
    }
    ahead = found["carry", 64, "M2PO"]
    assert ahead["said"] == "ahead, equivalent within 0.02" and ahead["p (Holm)"] == f"{5 * 2 / 2**8:.3g}"
    assert ahead["minus GRPO"].value == pytest.approx(0.1 * 2 / 16, abs=0.002)  # the last of four trapezoids
    assert found["carry_long", 64, "M2PO"]["said"] == "equivalent within 0.02"
    assert found["carry", 64, "GRPO"]["said"] == "–"
    assert "Carried forward at their last value: topr-3 (failed)." in across.differences(study).caption


def test_a_registered_family_keeps_its_size(study: Study) -> None:
    table = across.differences(study, tested=["m2po"], planned=12)
    found = lines(table)
    assert found["carry", 64, "M2PO"]["p (Holm)"] == f"{12 * 2 / 2**8:.3g}"
    assert found["carry", 64, "M2PO"]["said"] == "n = 8 is too few for 12 comparisons"
    assert found["carry", 64, "GSPO"]["said"] == "–"
    assert "12 comparisons, of which 2 were made" in table.caption


def test_a_failed_run_counts_with_its_last_value(study: Study) -> None:
    found = across.per_seed(study).set_index("run").loc["topr-3"]
    assert found["sampled_accuracy"] == pytest.approx((0.3 + 0.3 + 0.1 + 0.1) / 4)
    assert (found["end"], found["best"]) == (0.1, 0.5)


def test_collapses_have_exact_intervals(study: Study) -> None:
    found = lines(across.collapses(study))
    fell = found["carry_long", 64, "TOPR"]
    assert (fell["collapsed"], fell["95 % interval"], fell["lastingly"]) == ("8/8", "[0.63, 1.00]", "yes")
    assert found["carry", 64, "GRPO"]["collapsed"] == "0/8"


def test_greedy_that_orders_the_other_way_has_a_tau_of_minus_one(study: Study) -> None:
    (carry, long) = across.agreement(study).rows
    assert carry[:4] == ["carry", 64, 3, -1.0] and long[:4] == ["carry_long", 64, 4, -1.0]
    assert carry[-1] == long[-1] == "not told"  # of three or four methods no order is surprising enough


def test_registered_places_that_were_not_run_count(study: Study) -> None:
    assert [row[4] for row in across.agreement(study).rows] == ["0.333", "0.167"]  # 2 / 3! and 2 · 2 / 4!
    planned = across.agreement(study, planned=4)
    assert [row[4] for row in planned.rows] == ["1", "0.333"]
    assert planned.caption.endswith("4 places, of which 2 were run.")


def test_a_place_with_two_methods_orders_nothing(study: Study) -> None:
    two = study.keep(study.used[(study.used["task"] == "carry_long") | study.used["algorithm"].isin(["grpo", "m2po"])])
    (long,) = across.agreement(two).rows
    assert long[0] == "carry_long"
    with pytest.raises(MissingData, match="three methods"):
        across.agreement(two.where(task="carry"))


@pytest.mark.parametrize("n", [3, 7, 8])
def test_kendall_is_scipys(n: int) -> None:
    rng = np.random.default_rng(n)
    x, y = rng.normal(size=(2, n))
    expected = stats.kendalltau(x, y, method="exact")
    assert across.kendall(x, y) == pytest.approx((expected.statistic, expected.pvalue))
    assert across.kendall(np.arange(12.0), np.arange(12.0))[1] < 1e-3  # by random orders


def test_two_settings_in_a_place_are_refused(root: Path, tmp_path: Path) -> None:
    synthetic.write_run(tmp_path / "more", "m2po", 64, 1, updates=16, algo__m2_threshold=0.01)
    with pytest.raises(AnalysisError, match=r"m2po on carry at s = 64: expected one setting .*--where"):
        across.differences(runs.load([root, tmp_path]))
    with pytest.raises(AnalysisError, match="--against nobody: no place has it"):
        across.differences(runs.load([root]), against="nobody")


def test_the_command_writes_three_tables(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["across", str(root), "--incomplete", "--tested", "m2po,gspo", "--out", str(tmp_path)]
    assert __main__.main(words) == 0
    assert {path.name for path in tmp_path.glob("*.md")} == {"differences.md", "agreement.md", "collapses.md"}
    assert "ahead" in capsys.readouterr().out
