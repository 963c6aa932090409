"""Tuning by rungs: which points go on, what was chosen, its price, and the file of the final sweep."""

from __future__ import annotations

import json
import re
from itertools import product

import numpy as np
import pytest
import synthetic
import yaml

from analysis import __main__ as cli
from analysis import runs, tuned, tuning, width
from analysis.errors import AnalysisError, MissingData

POINTS = {"grpo": [{}, {"learner.lr": 1e-4}, {"learner.lr": 1e-5}], "m2po": [{}, {"algo.m2_threshold": 0.01}]}
POINTS["m2po"].append({"algo.m2_threshold": 0.16})
LEVELS = {"grpo": (0.3, 0.5, 0.4), "m2po": (0.3, 0.2, 0.6)}  # accuracy of each point, the same at every update


def write_sweep(root, to=20, reached=None, failed=(), lags=("64",)):
    """A tuning sweep of 40 updates with a rung at 20, every run at `to` but those in `reached`."""
    cells = []
    for method, points in POINTS.items():
        for number, point in enumerate(points):
            for lag, seed in product(lags, (101, 102)):
                name = f"{method}-{number}-{seed}" + (f"-{lag}" if len(lags) > 1 else "")
                own = {key.replace(".", "__"): value for key, value in {"learner.lr": 3e-5, **point}.items()}
                status = "failed" if (method, number) in failed else "paused" if to < 40 else "finished"
                folder = synthetic.write_run(root / name, method, 64, seed, updates=40, status=status, **own)
                end = (reached or {}).get((method, number), to)
                _cut(folder, end, LEVELS[method][number] + (seed - 101.5) / 1000)
                cells.append(
                    {
                        "folder": name,
                        "overrides": [f"staleness={lag}", f"seed={seed}"],
                        "method": method,
                        "point": number,
                    }
                )
    points = {"methods": POINTS, "seeds": [101, 102], "settings": {"updates": 40, "eval.validation_only": True}}
    points |= {
        "rungs": [20],
        "keep": 0.34,
        "metric": "sampled_accuracy",
        "outcome": "area",
        "needs": {"grpo": ["m2po"]},
    }
    (root / "sweep.json").write_text(json.dumps({"name": "tune", "cells": cells, "points": points}))
    return root


def _cut(folder, end, level):
    for name in ("metrics.jsonl", "eval.jsonl"):
        rows = [json.loads(line) for line in (folder / name).read_text().splitlines()]
        kept = [row | {"sampled_accuracy": level if row.get("split") == "validation" else 1 - level} for row in rows]
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in kept if row["update"] <= end))


def test_the_best_third_on_validation_goes_on(tmp_path):
    sweep = write_sweep(tmp_path)
    names = [cell["folder"] for cell in json.loads((sweep / "sweep.json").read_text())["cells"]]
    assert [names[cell] for cell in tuning.going_on(sweep, 20)] == [
        "grpo-1-101",
        "grpo-1-102",
        "m2po-2-101",
        "m2po-2-102",
    ]


def test_what_later_updates_say_does_not_change_a_rung(tmp_path):
    sweep = write_sweep(tmp_path, reached={("grpo", 1): 40})
    rows = (sweep / "grpo-1-101/eval.jsonl").read_text().splitlines()
    changed = [json.loads(row) | ({"sampled_accuracy": 0.0} if json.loads(row)["update"] > 20 else {}) for row in rows]
    (sweep / "grpo-1-101/eval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in changed))
    assert 2 in tuning.going_on(sweep, 20)


def test_a_run_that_is_not_there_stops_the_rung_and_one_that_failed_loses_it(tmp_path):
    sweep = write_sweep(tmp_path / "a", reached={("grpo", 1): 10})
    with pytest.raises(
        AnalysisError, match=r"2 of 12 runs are not at update 20 \(2 paused\); the same command carries on"
    ):
        tuning.going_on(sweep, 20)
    sweep = write_sweep(tmp_path / "b", reached={("grpo", 1): 10}, failed=(("grpo", 1),))
    assert tuning.going_on(sweep, 20)[:2] == [4, 5]  # the second best of grpo


def test_choice_price_curve_and_final_sweep(tmp_path, capsys):
    reached = dict.fromkeys([(m, n) for m in POINTS for n in range(3)], 20) | {("grpo", 1): 40, ("m2po", 2): 40}
    sweep = write_sweep(tmp_path, reached=reached)
    read = tuning.read(sweep)
    grpo, m2po = tuned.choices(read)
    assert grpo.values == {"learner.lr": 1e-4} and grpo.edge == ["learner.lr"]
    assert m2po.values == {"algo.m2_threshold": 0.16} and np.isnan(m2po.published)
    assert (grpo.runs, grpo.updates, grpo.needed) == (6, 4 * 20 + 2 * 40, 2 * 20) and m2po.needed == 0
    curve = tuned.spending(read)
    own = curve[curve["method"] == "grpo"]
    assert own["spent"].tolist() == [
        80,
        120,
        160,
        200,
    ]  # M2PO's published runs first, then three points, then one longer
    assert own["best"].round(2).tolist() == [0.3, 0.5, 0.5, 0.5]
    final = tmp_path / "final/x.yaml"
    assert cli.main(["tune", str(sweep), "--out", str(tmp_path / "out"), "--final", str(final)]) == 0
    said = capsys.readouterr().out
    assert "GRPO s = 64, runs of 20: best 0.300 at 80, 0.500 at 120 updates spent" in said
    assert (tmp_path / "out/tuning_curve.png").is_file() and (tmp_path / "out/tuning.csv").is_file()
    held = yaml.safe_load(final.read_text())
    assert held["seeds"] == list(range(1, 13)) and held["settings"] == {"updates": 40}
    assert held["methods"]["grpo"] == [{"staleness": 64, "learner.lr": 1e-4}]
    assert cli.main(["tune", str(sweep), "--final", str(final), "--seeds", "101,3"]) == 2
    assert "seed 101: tuning has used it" in capsys.readouterr().err


def test_a_distribution_of_ages_is_tuned_by_itself(tmp_path):
    sweep = write_sweep(tmp_path, to=40, lags=("uniform:0:128", "64", "0"))
    assert len(tuning.going_on(sweep, 20)) == 2 * 3 * 2
    read = tuning.read(sweep)
    assert [c.staleness for c in tuned.choices(read)] == 2 * ["uniform:0:128", 64, 0]
    assert len(tuned.write(read, tmp_path)) == 6
    assert [ax.get_title() for ax in tuned.draw(read).figure.axes] == ["s = 0", "s = 64", "s = uniform:0:128"]
    final = yaml.safe_load(tuned.final_sweep(read))
    assert [point["staleness"] for point in final["methods"]["grpo"]] == ["uniform:0:128", 64, 0]


def test_another_folder_is_no_tuning_sweep(study_folder, tmp_path):
    for folder in (study_folder, tmp_path):
        with pytest.raises(AnalysisError, match="no tuning sweep"):
            tuning.read(folder)


@pytest.mark.parametrize("text", [
    "[" * 99, "[]", '{"points": [], "cells": []}', '{"points": {"methods": {}}, "cells": []}', "NaN", "\0",
])  # fmt: skip
def test_a_damaged_tuning_sweep_is_one_line(tmp_path, capsys, text):
    (tmp_path / "sweep.json").write_text(text)
    assert cli.main(["tune", str(tmp_path)]) == 2
    assert re.fullmatch("error: .*: no tuning sweep .*\n", capsys.readouterr().err)


KINDS = (None, "x", {"a": 1}, float("nan"))


def test_no_kind_of_value_in_a_tuning_sweep_is_a_traceback(tmp_path, capsys):
    sweep = write_sweep(tmp_path, to=40)
    held = json.loads((sweep / "sweep.json").read_text())
    places = [(held["points"], key) for key in held["points"]] + [(held["cells"][0], key) for key in held["cells"][0]]
    for node, key in [*places, (held, "points"), (held, "cells")]:
        before = node[key]
        for value in KINDS:
            node[key] = value
            (sweep / "sweep.json").write_text(json.dumps(held))
            code = cli.main(["tune", str(sweep)])
            said = capsys.readouterr().err
            assert code == 0 or said.count("\n") == 1, (key, value, said)
        node[key] = before


def test_a_tuning_sweep_that_has_not_begun_says_so(tmp_path, capsys):
    sweep = write_sweep(tmp_path, to=40)
    for folder in sweep.iterdir():
        if folder.is_dir():
            (folder / "manifest.json").unlink()
    assert cli.main(["tune", str(sweep)]) == 2
    assert "no run of this sweep has begun" in capsys.readouterr().err


def test_width_is_the_median_bound_where_the_mask_acted(tmp_path):
    for seed in (1, 2):
        folder = synthetic.write_run(tmp_path / f"{seed}", "m2po", 64, seed, updates=8)
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        bounds = [(0.5, 1.5, 0.1), (0.9, 4.0, 0.1), (0.25, 1.1, 0.1), (0.01, 1.0, 0.0)] * 2  # the last never masked
        for row, (low, high, masked) in zip(rows, bounds, strict=True):
            row |= {"mask_ratio_low": low, "mask_ratio_high": high, "masked_fraction": masked}
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (row,) = width.width(runs.load([tmp_path])).rows
    assert row[2:6] == [2, 0.75, pytest.approx(0.75), pytest.approx(3.0)]
    assert row[6] == "algo=clip_at_width algo.epsilon_low=0.75 algo.epsilon_high=3"


def test_width_needs_runs_of_m2po(study):
    with pytest.raises(MissingData, match="needs runs of m2po"):
        width.width(study)
