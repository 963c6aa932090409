"""Which runs are found, which count, and which may be averaged."""

from __future__ import annotations

import json

import pytest
import synthetic

from analysis import runs, tables, tabular
from analysis.errors import AnalysisError

SHORT = {"updates": 8, "eval_every": 4}


def load(*paths, **options):
    return runs.load(paths, **options)


def test_run_sweep_and_any_folder_above_find_the_same_runs(tmp_path):
    synthetic.write_study(tmp_path / "sweep", ("grpo",), (0, 16), (1, 2), **SHORT)
    assert len(load(tmp_path).used) == len(load(tmp_path / "sweep").used) == 4
    assert len(load(tmp_path / "sweep/grpo/s0/seed1", tmp_path / "sweep/grpo").used) == 4


def test_a_sweep_leads_to_cells_elsewhere_and_names_those_not_begun(tmp_path):
    synthetic.write_run(tmp_path / "elsewhere", **SHORT)
    (tmp_path / "sweep").mkdir()
    cells = [{"folder": "../elsewhere"}, {"folder": "later"}]
    (tmp_path / "sweep/sweep.json").write_text(json.dumps({"cells": cells}))
    study = load(tmp_path / "sweep")
    assert len(study.used) == 1
    assert study.notes == ("sweep sweep: 1 of 2 cells not begun",)


def test_unfinished_failed_and_foreign_runs_are_listed_not_used(tmp_path):
    synthetic.write_run(tmp_path / "good", **SHORT)
    synthetic.write_run(tmp_path / "going", seed=2, status="running", **SHORT)
    error = {"error": "Traceback …\nRuntimeError: loss is NaN"}
    synthetic.write_run(tmp_path / "broken", seed=3, status="failed", manifest=error, **SHORT)
    (tmp_path / "site").mkdir()
    (tmp_path / "site/manifest.json").write_text('{"name": "a web page"}')
    study = load(tmp_path)
    assert list(study.used["run"]) == ["good"]
    why = dict(zip(study.unused["run"], study.unused["why_not"], strict=True))
    assert why["going"] == "running after 8 updates"
    assert why["broken"] == "failed after 8 updates (RuntimeError: loss is NaN)"
    assert why["site"].startswith("foreign")
    assert set(study.updates["run"]) == {"good"}
    assert set(load(tmp_path, incomplete=True).used["run"]) == {"good", "going", "broken"}


def test_a_foreign_folder_leaves_the_tables_as_they_are(tmp_path):
    synthetic.write_run(tmp_path / "good", staleness=16, **SHORT)
    before = tabular.markdown(tables.summary(load(tmp_path)))
    (tmp_path / "site").mkdir()
    (tmp_path / "site/manifest.json").write_text("{}")
    assert tabular.markdown(tables.summary(load(tmp_path))) == before


@pytest.mark.parametrize(("digest", "said"), [("a" * 64, "same final weights"), ("b" * 64, "OTHER final weights")])
def test_the_second_of_two_equal_runs_is_a_duplicate(tmp_path, digest, said):
    synthetic.write_run(tmp_path / "one", manifest={"final_weights_sha256": "a" * 64}, **SHORT)
    synthetic.write_run(tmp_path / "two", driver="ray", manifest={"final_weights_sha256": digest}, **SHORT)
    study = load(tmp_path)
    assert list(study.used["run"]) == ["one"]
    assert study.unused["why_not"].iloc[0] == f"duplicate of one, {'' if 'same' in said else 'but with '}{said}"


def test_repeats_of_a_bounded_run_are_runs_of_their_own(tmp_path):
    for repeat in (0, 1):
        synthetic.write_run(tmp_path / str(repeat), choices__lag="bounded", repeat=repeat, **SHORT)
    assert len(load(tmp_path).used) == 2


def test_settings_are_never_mixed_and_the_reference_covers_most(tmp_path):
    for seed in (1, 2):
        for staleness in (0, 64):
            synthetic.write_run(tmp_path / f"g{staleness}{seed}", "grpo", staleness, seed, **SHORT)
            synthetic.write_run(tmp_path / f"m{staleness}{seed}", "m2po", staleness, seed, **SHORT)
        synthetic.write_run(tmp_path / f"lr{seed}", "grpo", 64, seed, learner__lr=9e-5, **SHORT)
        synthetic.write_run(tmp_path / f"tau{seed}", "m2po", 64, seed, algo__m2_threshold=0.16, **SHORT)
    used = load(tmp_path).used.set_index("run")
    assert used.loc["lr1", "setting"] == "learner.lr=9e-05"
    assert used.loc["tau1", "setting"] == "algo.m2_threshold=0.16"
    assert used.loc["g641", "setting"] == used.loc["m641", "setting"] == ""
    assert set(used.index[~used["reference"]]) == {"lr1", "lr2", "tau1", "tau2"}


def test_keys_that_change_no_science_make_no_setting(tmp_path):
    synthetic.write_run(tmp_path / "a", seed=1, **SHORT)
    synthetic.write_run(tmp_path / "b", seed=2, driver="overlapped", runs_dir="x", tracking__uri="y", **SHORT)
    assert set(load(tmp_path).used["setting"]) == {""}


def test_rows_carry_the_identity_of_their_run(study):
    rows = study.updates[study.updates["run"] == "m2po/s64/seed2"]
    assert set(rows["algorithm"]) == {"m2po"} and set(rows["staleness"]) == {64} and set(rows["seed"]) == {2}
    assert set(rows["task"]) == {"carry"} and rows["reference"].all()


def test_samples_per_update_follow_from_the_config(study):
    assert set(study.used["responses_per_update"]) == {128.0}


def test_no_run_found_says_where_it_looked(tmp_path):
    with pytest.raises(AnalysisError, match=str(tmp_path)):
        load(tmp_path)
    with pytest.raises(AnalysisError, match="neither a folder nor a pack"):
        load(tmp_path / "absent")


def test_no_usable_run_says_why(tmp_path):
    synthetic.write_run(tmp_path / "a", status="interrupted", **SHORT)
    with pytest.raises(AnalysisError, match=r"none can be used \(a: interrupted after 8 updates"):
        load(tmp_path)


def test_where_selects_and_refuses_unknown_columns(study):
    assert set(study.where(staleness="64", algorithm="grpo").used["staleness"]) == {64}
    with pytest.raises(AnalysisError, match="staleness"):
        study.where(stalness=64)
    with pytest.raises(AnalysisError, match="no run with algorithm=x"):
        study.where(algorithm="x")


def test_a_damaged_sweep_record_is_an_error_in_one_line(tmp_path):
    (tmp_path / "sweep.json").write_text('{"cells": 3}')
    with pytest.raises(AnalysisError, match=r"sweep\.json is not a sweep's record"):
        load(tmp_path)


def test_every_key_of_the_configuration_selects_runs(tmp_path):
    for seed, rate in ((1, 3e-5), (2, 3e-5), (3, 1e-4)):
        synthetic.write_run(tmp_path / str(seed), seed=seed, learner__lr=rate, updates=8, eval_every=4)
    study = runs.load([tmp_path])
    assert set(study.where(**{"learner.lr": "0.00003"}).runs["run"]) == {"1", "2"}
    assert len(study.where(**{"choices.lag": "exact", "learner.lr": "1e-4"}).runs) == 1
    with pytest.raises(AnalysisError, match=r"nearest: .*learner\.lr"):
        study.where(**{"learner.rl": 1})


def test_counts_of_problems_come_back_from_the_folder_and_the_cache(tmp_path):
    folder = synthetic.write_run(tmp_path / "a", updates=8, eval_every=4)
    for _ in range(2):
        rows = runs.load([folder]).evaluations
        assert len(rows["right"].iloc[0]) == 256
        assert sum(rows["right"].iloc[0]) / 1024 == pytest.approx(rows["sampled_accuracy"].iloc[0], abs=0.08)
