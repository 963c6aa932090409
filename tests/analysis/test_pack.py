"""A pack stands in for the folders it was made from."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest
import synthetic

from analysis import figures, pack, problems, runs, tables, tabular, token_tables
from analysis.errors import AnalysisError


def test_tables_from_a_pack_are_those_from_the_folders(study, study_folder, tmp_path):
    assert pack.write(study, tmp_path / "study.parquet") == 1
    again = runs.load([tmp_path / "study.parquet"])
    assert tabular.markdown(tables.summary(again)) == tabular.markdown(tables.summary(study))
    assert len(again.updates) == len(study.updates)
    assert np.allclose(again.updates["reward"].mean(), study.updates["reward"].mean(), rtol=1e-6)
    one = {"algorithm": "grpo", "staleness": 64}
    by_problem = problems.areas(again.where(**one))
    assert len(by_problem) and by_problem.equals(problems.areas(study.where(**one)))


@pytest.mark.parametrize("header", [None, b"null", b"[]", b"{}", b'{"every": 1}', b"no JSON"])
def test_a_table_that_is_no_pack_is_refused_in_one_line(study, tmp_path, header):
    path = tmp_path / "study.parquet"
    pack.write(study, path)
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata(header and {b"lagrange": header}), path)
    with pytest.raises(AnalysisError, match=r"study\.parquet is not a pack \([^\n]*\)[^\n]*$"):
        runs.load([path])
    pq.write_table(table.drop_columns(["seed"]), path)
    with pytest.raises(AnalysisError, match="no column seed"):
        runs.load([path])


def test_counts_of_problems_are_left_out_where_they_are_many(study, tmp_path, monkeypatch):
    monkeypatch.setattr(pack, "_ANSWERED", 1000)
    pack.write(study, tmp_path / "study.parquet")
    assert problems.areas(runs.load([tmp_path / "study.parquet"])).empty


def test_a_pack_draws_the_figures_tokens_included(tmp_path):
    for seed in (1, 2, 3):
        synthetic.write_run(tmp_path / f"runs/{seed}", "grpo", 64, seed, updates=20, tokens=True)
    synthetic.write_run(tmp_path / "runs/bad", "grpo", 64, 9, updates=20, status="failed")
    study = runs.load([tmp_path / "runs"])
    pack.write(study, tmp_path / "p.parquet")
    again = runs.load([tmp_path / "p.parquet"])
    assert token_tables.by_ratio(again)["count"].sum() == token_tables.by_ratio(study)["count"].sum() == 12_000
    drawn = dict(figures.draw(again, ["f4b", "f10", "accuracy_vs_updates"]))
    assert not any(isinstance(each, str) for each in drawn.values())
    assert list(again.unused["why_not"]) == ["failed after 20 updates"]


def test_every_kth_keeps_the_last_and_k_shares_no_factor_with_a_step(study, tmp_path, monkeypatch):
    pack.write(study, tmp_path / "p.parquet", every=7)
    one = runs.load([tmp_path / "p.parquet"])
    kept = one.updates[one.updates["run"] == "grpo/s0/seed1"]["update"].tolist()
    assert kept == [*range(1, 80, 7), 80]
    assert "a pack of one update in 7" in one.notes[-1]
    with pytest.raises(AnalysisError, match="--every 20: never has all of the 4 updates of a step; nearest valid: 21"):
        pack.write(study, tmp_path / "none.parquet", every=20)
    assert not (tmp_path / "none.parquet").exists()
    monkeypatch.setattr(pack, "LIMIT", 200_000)
    k = pack.write(study, tmp_path / "small.parquet")
    assert k > 1 and k % 2 == 1 and (tmp_path / "small.parquet").stat().st_size <= 200_000


def test_what_does_not_fit_is_refused_and_leaves_no_file(study, tmp_path, monkeypatch):
    monkeypatch.setattr(pack, "LIMIT", 1000)
    with pytest.raises(AnalysisError, match="do not fit"):
        pack.write(study, tmp_path / "p.parquet")
    assert list(tmp_path.iterdir()) == []


def test_a_pack_holds_no_path_of_the_machine_and_is_the_same_twice(study, study_folder, tmp_path):
    for name in ("a", "b"):
        pack.write(study, tmp_path / f"{name}.parquet")
    data = (tmp_path / "a.parquet").read_bytes()
    assert data == (tmp_path / "b.parquet").read_bytes()
    assert str(study_folder).encode() not in data


def test_packs_and_folders_can_be_mixed(study, tmp_path):
    pack.write(study.where(algorithm="grpo"), tmp_path / "grpo.parquet")
    synthetic.write_run(tmp_path / "mine", "m2po", 64, updates=80)
    both = runs.load([tmp_path / "grpo.parquet", tmp_path / "mine"])
    assert set(both.used["algorithm"]) == {"grpo", "m2po"} and len(both.used) == 13
    assert set(both.updates["algorithm"]) == {"grpo", "m2po"}


@pytest.mark.parametrize("content", [None, b"", b"not parquet"])
def test_what_is_no_pack_is_an_error_in_one_line(tmp_path, content):
    path = tmp_path / "x.parquet"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(AnalysisError, match=r"x\.parquet"):
        runs.load([path])


def test_a_pack_needs_its_suffix(study, tmp_path):
    with pytest.raises(AnalysisError, match=r"ends in \.parquet"):
        pack.write(study, tmp_path / "pack.csv")
