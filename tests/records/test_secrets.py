"""Passwords and values of the environment: in no record, no table, no page; what a run is does not change."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from harness.command.compose import compose_cells
from harness.command.interpolations import from_environment
from harness.command.plan import plan
from harness.errors import UserError, without_secrets
from harness.records.secrets import recorded
from tests.conftest import SMALL, only_run

SECRET = "s3cr3t-of-mine"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"http://me:{SECRET}@host:5000/x", "http://***@host:5000/x"),
        (f"http://me:{SECRET}@more@host", "http://***@host"),
        (f"tracking.uri=postgresql://u:{SECRET}@h/db and then", "tracking.uri=postgresql://***@h/db and then"),
        (f"https://host/x?a=1&api_key={SECRET}&b=2", "https://host/x?a=1&api_key=***&b=2"),
        (f"ray.address=me:{SECRET}@host:6379", "ray.address=***@host:6379"),
        ("model.path=owner/name@main", "model.path=owner/name@main"),
        ("sqlite:////tmp/a@b/mlflow.db", "sqlite:////tmp/a@b/mlflow.db"),
        ("hf://datasets/owner/x@main", "hf://datasets/owner/x@main"),
    ],
)
def test_addresses_lose_their_passwords(text: str, shown: str) -> None:
    assert without_secrets(text) == shown


def test_the_environment_is_recorded_as_it_was_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LAGRANGE_TEST_TOKEN", SECRET)
    monkeypatch.setenv("LAGRANGE_TEST_LR", "0.001")
    words = [
        *("updates=16", "eval.every=8", f"runs_dir={tmp_path}"),
        "tracking.experiment=x-${oc.env:LAGRANGE_TEST_TOKEN}",
        "learner.reference=${tracking.experiment}",
        "learner.lr=${oc.env:LAGRANGE_TEST_LR}",
    ]
    (config,) = compose_cells(words)[0]
    assert config.tracking.experiment == config.learner.reference == f"x-{SECRET}"
    written = recorded(config)
    assert written["tracking"]["experiment"] == "x-${oc.env:LAGRANGE_TEST_TOKEN}"
    assert written["learner"]["reference"] == "${tracking.experiment}"
    assert written["learner"]["lr"] == 0.001  # a number is no secret
    assert SECRET not in json.dumps(written)


@pytest.mark.parametrize(
    ("text", "is_secret"),
    [
        ("${tracking.experiment}", True),
        ("${oc.select:tracking.experiment}", True),
        ("${tracking[experiment]}", True),
        ("${${task.name}}", True),
        ("${oc.dict.values:tracking}", True),
        ("${home:${tracking.experiment}}", True),
        ("${modulo:${seed},3}", False),
        ("${home:${seed}}", False),
    ],
)
def test_every_way_to_another_key_is_followed_or_taken_to_read_the_environment(text: str, is_secret: bool) -> None:
    values = {"tracking": {"experiment": "${oc.env:T}"}, "task": {"name": "tracking.experiment"}, "seed": 1, "x": text}
    assert ("x" in from_environment(OmegaConf.create(values))) == is_secret


def test_what_is_written_as_an_interpolation_is_the_same_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LAGRANGE_TEST_SEED", "3")
    typed = plan([*SMALL, f"runs_dir={tmp_path}", "seed=3"]).cells[0]
    by_reference = plan([*SMALL, f"runs_dir={tmp_path}", "seed=${oc.env:LAGRANGE_TEST_SEED}"]).cells[0]
    assert typed.sha256() == by_reference.sha256()


def test_no_file_of_a_sweep_holds_a_password(
    tmp_path: Path, command: Callable[..., subprocess.CompletedProcess[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAGRANGE_TEST_TOKEN", SECRET)
    place = (f"tracking.uri=http://me:{SECRET}@127.0.0.1:1", "tracking.experiment=${oc.env:LAGRANGE_TEST_TOKEN}")
    done = command("-m", "algo=grpo", *SMALL, "updates=8", *place)
    assert done.returncode == 0, done.stderr
    assert SECRET not in done.stdout + done.stderr
    run = only_run(tmp_path)
    assert yaml.safe_load((run / "config.yaml").read_text())["tracking"]["uri"] == "http://***@127.0.0.1:1"
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["task=gsm8k", "task.path=/data/${oc.env:LAGRANGE_TEST_TOKEN}/x.jsonl"],
            "/data/${oc.env:LAGRANGE_TEST_TOKEN}",
        ),
        (["task=gsm8k", "task.reward=${task.path}", "task.path=${oc.env:LAGRANGE_TEST_TOKEN}"], "${"),
        (["model=hf", "model.path=${oc.env:LAGRANGE_TEST_TOKEN}/x"], "${oc.env:LAGRANGE_TEST_TOKEN}/x"),
        (["device=${oc.env:LAGRANGE_TEST_TOKEN}"], "device=${oc.env:LAGRANGE_TEST_TOKEN}"),
        (["seed=${oc.env:LAGRANGE_TEST_TOKEN}"], "seed: while dereferencing"),
        (["driver=ray", f"ray.address=me:{SECRET}@127.0.0.1:1"], "ray.address=me"),
    ],
)
def test_no_refusal_says_what_the_environment_holds(
    words: list[str], said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LAGRANGE_TEST_TOKEN", SECRET)
    with pytest.raises(UserError) as refusal:
        plan([*SMALL, f"runs_dir={tmp_path}", *words])
    assert said in str(refusal.value)
    assert SECRET not in without_secrets(str(refusal.value))


@pytest.mark.parametrize("shows", [("--cfg", "job"), ("--help",)])
def test_nothing_that_is_shown_holds_a_password(
    command: Callable[..., subprocess.CompletedProcess[str]], shows: tuple[str, ...]
) -> None:
    shown = command(*shows, f"tracking.uri=http://me:{SECRET}@127.0.0.1:1")
    assert shown.returncode == 0 and "http://***@127.0.0.1:1" in shown.stdout
    assert SECRET not in shown.stdout + shown.stderr
