"""The schema: every key once, and what is derived from it."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import fields
from functools import cache
from typing import Any

import pytest
import yaml

from harness.command.check import check_values
from harness.command.compose import compose_cells
from harness.config import Config, known_keys, schema
from harness.errors import UserError
from harness.groups import ModelConfig
from harness.schema import leaves, lookup
from tests.conftest import ROOT

ROLES = {"science", "driver", "record", "place"}
OF_A_CLASS = ("algo", "task", "lag")  # their schema is the signature of the class that _target_ names


@cache
def composed(*overrides: str) -> Config:
    (config,), *_ = compose_cells(overrides)
    return config


def changed(name: str, value: Any) -> Config:
    """The default config with one value changed, as no type check of Hydra's has seen it."""
    config = deepcopy(composed())
    *groups, last = name.split(".")
    node: Any = config
    for group in groups:
        node = getattr(node, group)
    setattr(node, last, value)
    return config


def test_every_field_has_a_meaning_and_a_role() -> None:
    assert {key.role for key in schema().values()} == ROLES
    assert all(key.meaning for key in schema().values())
    assert {f.name for f in fields(Config)} - {"choices", "interpolated", "forked"} == {
        name.split(".")[0] for name in schema()
    }
    assert {name.rpartition(".")[0] for name in schema()} <= {"", *known_keys()}


def test_a_default_stands_once() -> None:
    """No option of a group repeats what the schema says already."""
    defaults = Config(model=ModelConfig()).flat()
    for file in sorted((ROOT / "conf").glob("*/*.yaml")):
        if file.parent.name not in (*OF_A_CLASS, "experiment"):
            for name, value in leaves(yaml.safe_load(file.read_text()) or {}, f"{file.parent.name}."):
                assert name == "model.path" or defaults[name] != value, f"{file}: {name} is {value} by default"


def test_each_value_takes_part_in_the_identity_as_its_role_says() -> None:
    before = composed()
    other = {bool: lambda v: not v, int: lambda v: v + 4, float: lambda v: v + 0.5, str: lambda v: f"{v}x"}
    for name, key in schema().items():
        value = lookup(before, name)
        different = other.get(type(value), lambda _: ["x"])(value) if name not in OF_A_CLASS else {"x": 1}
        assert (changed(name, different).sha256() == before.sha256()) == (key.role == "place"), name


def test_what_does_not_change_a_run_does_not_change_its_folder() -> None:
    folder = composed().folder
    for override in ("stop_at=8", "record.keep_checkpoints=all", "tracking=none", "dry_run=true", "retry_failed=true"):
        assert composed(override).folder == folder, override
    for override in ("driver=overlapped", "repeat=1", "eval.every=80", "record.tokens=[1,2]", "algo.m2_threshold=0.1"):
        assert composed(override).folder != folder, override


def test_parameters_of_a_class_have_the_role_of_their_group() -> None:
    roles = composed("algo=grpo", "driver=ray", "eval=paper").roles()
    assert roles["algo.epsilon_low"] == roles["task.terms"] == roles["seed"] == roles["choices.algo"] == "science"
    assert roles["ray.actors"] == roles["driver"] == "driver"
    assert roles["eval.suites"] == "record" and roles["tracking.uri"] == roles["runs_dir"] == "place"
    assert roles.keys() == composed("algo=grpo").flat().keys()


def bad_values() -> Iterator[tuple[str, Any]]:
    for name, key in schema().items():
        if key.low is not None:
            yield name, key.low - 1
        if key.above is not None:
            yield name, key.above
        if key.high is not None:
            yield name, key.high + 1
        if key.below is not None:
            yield name, key.below
        if key.choices:
            yield name, "other"
        if key.multiple_of:
            yield name, 4 * 16 + 1
        if isinstance(lookup(Config(), name), float):
            yield from ((name, float("nan")), (name, float("inf")))


@pytest.mark.parametrize(("name", "value"), bad_values())
def test_a_value_outside_its_range_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(UserError) as error:
        check_values(changed(name, value))
    message = str(error.value)
    assert message.startswith(f"{name}={value}: ") and "\n" not in message
    assert "expected" in message or "nearest valid" in message


def test_what_composes_is_complete_and_valid() -> None:
    check_values(composed())
    assert composed("rollout=vllm").rollout._target_.endswith("VllmEngine")
    assert composed("rollout=vllm").rollout.prompts_per_step == composed().rollout.prompts_per_step
    assert composed("eval=paper").eval.samples == composed().eval.samples
    assert composed("algo=grpo", "task=gsm8k").choices == {
        "algo": "grpo", "task": "gsm8k", "model": "carry", "lag": "exact", "rollout": "torch",
    }  # fmt: skip
