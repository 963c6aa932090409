"""Reading a run folder: everything usable is used, everything else is said, and the cache never lies."""

from __future__ import annotations

import json
import os

import pytest
import synthetic

from analysis import records


@pytest.fixture
def run(tmp_path):
    return synthetic.write_run(tmp_path / "run", "m2po", 16, updates=12, eval_every=4)


def test_all_rows_and_the_flat_config_are_read(run):
    record = records.read_record(run)
    assert record.updates["update"].to_pylist() == list(range(1, 13))
    assert record.config["learner.lr"] == 3e-5 and record.config["algo.m2_threshold"] == 0.04
    assert set(record.evaluations["split"].to_pylist()) == {"validation", "test"}
    assert record.notes == []


def test_truncated_last_line_is_left_out_and_said(run):
    path = run / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    record = records.read_record(run)
    assert record.updates.num_rows == 11
    assert record.notes == ["metrics.jsonl: last line is truncated; used up to there"]


def test_a_last_line_without_newline_counts_if_it_is_whole(run):
    path = run / "metrics.jsonl"
    path.write_bytes(path.read_bytes().rstrip())
    assert records.read_record(run).updates.num_rows == 12


def test_damage_in_the_middle_ends_the_file_there(run):
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:5], "{nonsense", *lines[5:]]) + "\n")
    record = records.read_record(run)
    assert record.updates["update"].to_pylist() == [1, 2, 3, 4, 5]
    assert "line 6 is not a JSON object" in record.notes[0]


def test_bare_nan_and_infinity_are_numbers(run):
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"update": 13, "reward": NaN, "k1": Infinity}\n')
    record = records.read_record(run)
    assert record.updates.num_rows == 13
    assert record.updates["k1"].to_pylist()[-1] == float("inf")


def test_of_two_rows_of_one_update_the_later_counts(run):
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"update": 12, "reward": 0.125}\n')
    record = records.read_record(run)
    assert record.updates.num_rows == 12
    assert record.updates["reward"].to_pylist()[-1] == 0.125
    assert "1 repeated" in record.notes[0]


def test_lists_and_text_do_not_become_columns(run):
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"update": 13, "staleness_hist": [1, 2], "word": "x"}\n')
    assert not {"staleness_hist", "word"} & set(records.read_record(run).updates.column_names)


@pytest.mark.parametrize("bare_nan", ["", ', "k": NaN'])  # the quick and the exact way of reading
def test_what_is_nested_becomes_dotted_columns(run, bare_nan):
    row = f'{{"update": 0, "split": "test", "pass_at_k": {{"1": 0.25, "4": 0.5}}{bare_nan}}}\n'
    (run / "eval.jsonl").write_text(row)
    evaluations = records.read_record(run).evaluations
    assert evaluations["pass_at_k.4"].to_pylist() == [0.5] and evaluations["pass_at_k.1"].to_pylist() == [0.25]


def test_a_run_without_any_rows_is_empty_not_an_error(run):
    (run / "metrics.jsonl").write_text("")
    (run / "eval.jsonl").unlink()
    record = records.read_record(run)
    assert record.updates.num_rows == record.evaluations.num_rows == 0


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("manifest.json", "[]", "not a run's"),
        ("manifest.json", '{"name": "a web page"}', "not a run's"),
        ("manifest.json", "{", "cannot be read"),
        ("config.yaml", "a: [", "cannot be read"),
        ("config.yaml", "!!python/object/apply:os.system ['true']", "cannot be read"),
        ("config.yaml", "just text", "not a mapping"),
    ],
)
def test_foreign_folders_are_named_as_such(run, name, text, said):
    (run / name).write_text(text)
    with pytest.raises(records.ForeignFolder, match=said):
        records.read_record(run)


def test_cache_is_used_until_a_file_changes(run, monkeypatch):
    first = records.read_record(run)
    with monkeypatch.context() as patch:
        patch.setattr(records, "_from_folder", lambda folder: pytest.fail("read again"))
        cached = records.read_record(run)
    assert cached.updates.equals(first.updates) and cached.evaluations.equals(first.evaluations)
    assert (cached.manifest, cached.config, cached.notes) == (first.manifest, first.config, first.notes)
    manifest = json.loads((run / "manifest.json").read_text()) | {"status": "failed"}
    (run / "manifest.json").write_text(json.dumps(manifest))
    assert records.read_record(run).manifest["status"] == "failed"


def test_a_damaged_cache_is_read_over(run, tmp_path, monkeypatch):
    monkeypatch.setenv("LAGRANGE_CACHE", str(tmp_path / "cache"))
    records.read_record(run)
    (entry,) = (tmp_path / "cache").iterdir()
    entry.write_bytes(b"PAR1 nonsense")
    assert records.read_record(run).updates.num_rows == 12


def test_an_unwritable_cache_is_done_without(run, tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("LAGRANGE_CACHE", str(blocked / "cache"))
    assert records.read_record(run).updates.num_rows == 12


def test_the_run_folder_is_never_written_to(run):
    before = sorted(os.listdir(run))
    records.read_record(run)
    assert sorted(os.listdir(run)) == before
