"""Run folders and packs of 0.1.0 load under today's keys and give the numbers they gave."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import synthetic
import yaml

from analysis import old_names, runs, series, tables, tabular
from harness.command.mistakes import RENAMED
from harness.config import role_of

ROOT = Path(__file__).resolve().parents[2]
RECORDS = sorted((ROOT / "docs" / "records").glob("*.parquet"))
STUDY = [ROOT / "docs" / "records" / f"{name}.parquet"
         for name in ("tokens", "study", "learning_rate", "m2_threshold", "rivals", "asymmetric")]  # fmt: skip
SHORT = {"updates": 8, "eval_every": 4}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"core": "ray"}, {"driver": "ray"}),
        ({"lag": "bounded", "on_excess": "drop"}, {"choices.lag": "bounded", "lag.on_excess": "drop"}),
        ({"schedule": "a.jsonl", "max_versions": 2}, {"lag.schedule": "a.jsonl", "lag.max_versions": 2}),
        ({"rollout.engine": "vllm", "rollout.shards": 2}, {"choices.rollout": "vllm", "rollout.chunks": 2}),
        ({"rollout.engine": "vllm", "choices.rollout": "mine"}, {"choices.rollout": "mine"}),
        ({"rollout.vllm.probe_tolerance": 0.02}, {"rollout.probe_tolerance": 0.02}),
        ({"ray.shard_timeout_s": 600.0}, {"ray.chunk_timeout_s": 600.0}),
        ({"model.path": "harness/models/carry"}, {"model.path": "harness/assets/carry"}),
        (
            {"task.path": "harness/tasks/gsm8k_small/train.jsonl"},
            {"task.path": "harness/assets/word_problems/train.jsonl"},
        ),
        ({"learner.lr": 3e-5, "eval.suites": []}, {"learner.lr": 3e-5, "eval.suites": []}),
    ],
)
def test_each_old_key_has_its_new_name(old: dict[str, Any], new: dict[str, Any]) -> None:
    assert old_names.current(old) == new
    assert old_names.current(new) == new


def test_what_a_command_says_of_an_old_key_and_what_the_analysis_makes_of_it_agree() -> None:
    for old, new in RENAMED.items():
        assert old_names.RENAMED[old] in (new, f"choices.{new}")
    assert old_names.RENAMED.keys() - RENAMED.keys() == {"lag"}  # still valid as a word on the command line


def test_the_frozen_roles_are_those_of_the_schema() -> None:
    loaded = (runs.load([pack]).used for pack in RECORDS)
    before = [used[used["roles"] == ""] for used in loaded]  # later ones say theirs
    configs = [json.loads(text) for used in before for text in used["config"]]
    keys = {key for config in configs for key in config} - {"repeat"}  # a column of its own
    for key in sorted(keys):
        assert old_names.role(key, old_names.ROLES) == role_of(key), key


def test_a_folder_of_0_1_0_and_one_of_today_are_one_series(tmp_path: Path) -> None:
    for seed in (1, 2):
        synthetic.write_run(tmp_path / f"new{seed}", staleness=16, seed=seed, **SHORT)
    for seed in (3, 4):
        of_0_1_0(synthetic.write_run(tmp_path / f"old{seed}", staleness=16, seed=seed, **SHORT))
    used = runs.load([tmp_path]).used
    assert set(used["setting"]) == {""} and set(used["lag"]) == {"exact"} and set(used["driver"]) == {"serial"}
    assert len(used) == 4 and set(used["model"]) == {"carry"}


def of_0_1_0(folder: Path) -> Path:
    """The folder as release 0.1.0 would have written it: its keys, and a manifest without roles."""
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config |= {
        "core": config.pop("driver"),
        "lag": config["choices"].pop("lag"),
        "on_excess": "wait",
        "max_versions": 2,
    }
    config["rollout"]["engine"] = "torch"
    config["model"]["path"] = "harness/models/carry"
    del config["rollout"]["_target_"]
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["roles"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_the_run_says_which_keys_are_science(tmp_path: Path) -> None:
    roles = synthetic.ROLES | {"learner.lr": "driver", "rollout": "science"}
    for seed, extra in ((1, {}), (2, {"learner__lr": 9e-5}), (3, {"rollout__new": 1}), (4, {"fresh": True})):
        synthetic.write_run(tmp_path / str(seed), seed=seed, manifest={"roles": roles}, **extra, **SHORT)
    setting = runs.load([tmp_path]).used.set_index("run")["setting"]
    assert setting["2"] == setting["1"] == ""  # said to be no science
    assert setting["3"] == "rollout.new=1"  # its group is
    assert setting["4"] == "fresh=True"  # nobody said: it may be


def test_another_engine_or_lag_is_another_setting() -> None:
    config = {"choices.lag": "exact", "choices.rollout": "vllm", "lag.max_versions": 2, "driver": "ray"}
    row = {"config": json.dumps(config), "roles": ""}
    assert series.settings_of(row) == {"lag": "exact", "rollout": "vllm"}
    free = row | {"config": json.dumps(config | {"choices.lag": "bounded"})}
    expected = {"lag": "bounded", "rollout": "vllm", "lag.max_versions": 2, "driver": "ray"}
    assert series.settings_of(free) == expected


@pytest.mark.parametrize("pack", RECORDS, ids=lambda path: path.stem)
def test_every_committed_record_loads(pack: Path) -> None:
    study = runs.load([pack])
    assert len(study.used) and {"driver", "lag", "roles"} <= set(study.runs.columns)
    for text in study.used["config"]:
        assert not old_names.RENAMED.keys() & json.loads(text).keys()
    assert tables.summary(study).rows


@pytest.mark.parametrize("name", ["summary", "table1"])
def test_the_tables_of_the_docs_are_those_of_the_records(name: str, tmp_path: Path) -> None:
    table = getattr(tables, name)(runs.load(STUDY))
    tabular.write(table, tmp_path, name)
    committed = ROOT / "docs" / "study" / f"{name}.csv"
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / f"{name}.csv"), pd.read_csv(committed))
