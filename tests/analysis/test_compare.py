"""compare: what differs, by how much, seed by seed."""

from __future__ import annotations

import pytest

from analysis import compare
from analysis.errors import AnalysisError


def test_it_names_differences_of_config_and_pairs_seeds(study):
    a, b = (study.where(algorithm=name, staleness=64) for name in ("m2po", "grpo"))
    found = compare.compare(a, b)
    assert found.pairs == 3
    assert found.differences["algo.m2_threshold"] == ("0.04", "–") and "seed" not in found.differences
    x, y, difference = found.metrics["last_k accuracy"]
    assert difference.value == pytest.approx(x.value - y.value) and difference.low > 0
    assert found.claims["area accuracy"].words == "n = 3 is too few for 6 comparisons"
    both = found.metrics["area over seeds × 256 problems"][2]
    assert both.n == 3 and both.value == pytest.approx(found.metrics["area accuracy"][2].value, abs=0.02)
    assert "reward" in found.metrics and set(found.curves["side"]) == {"A", "B"}


def test_sides_of_different_staleness_pair_by_seed(study):
    a, b = (study.where(algorithm="m2po", staleness=s) for s in (0, 256))
    found = compare.compare(a, b)
    assert found.pairs == 3 and found.differences["staleness"] == ("0", "256")


def test_one_run_a_side_has_no_interval_and_still_shows(study, capsys, tmp_path):
    a, b = (study.where(algorithm=name, staleness=64, seed=1) for name in ("m2po", "grpo"))
    found = compare.compare(a, b)
    compare.show(found)
    compare.write(found, tmp_path)
    out = capsys.readouterr().out
    assert "1 pair of runs" in out and "[0." not in out and "A: M2PO, s = 64" in out
    assert {path.suffix for path in tmp_path.iterdir()} == {".png", ".pdf", ".csv"}


def test_a_side_of_several_series_is_refused(study):
    with pytest.raises(AnalysisError, match="A holds 20 series; name one with --a"):
        compare.compare(study, study)


def test_sparkline_scales_both_sides_alike(study):
    a, b = (study.where(algorithm=name, staleness=256) for name in ("m2po", "gspo"))
    curves = compare.compare(a, b).curves
    assert compare.sparkline(curves, "A")[-1] == "█" and compare.sparkline(curves, "B")[-1] < "▆"
