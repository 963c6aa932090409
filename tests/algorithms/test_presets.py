"""Presets: other frameworks' names for settings of the methods, one yaml each."""

from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import torch
import yaml
from cases import random_batch

import algorithms

ROOT = Path(__file__).parents[2]
PRESETS = sorted({f.stem for f in (ROOT / "conf" / "algo").glob("*.yaml")} - set(algorithms.names()))


def preset(name: str) -> algorithms.Algorithm:
    """The method that a preset makes."""
    settings = yaml.safe_load((ROOT / "conf" / "algo" / f"{name}.yaml").read_text())
    module, _, kind = settings.pop("_target_").rpartition(".")
    return getattr(import_module(module), kind)(**settings)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_a_few_lines_with_its_source_and_trains(name: str):
    lines = (ROOT / "conf" / "algo" / f"{name}.yaml").read_text().splitlines()
    assert lines[0].startswith("# ") and len(lines) <= 10
    x = random_batch(31)
    near = x.behaviour + 1e-4 * x.l  # the geometric means allow ±0.001
    x = replace(x, logp=near, proximal=near)
    logp = x.logp.clone().requires_grad_()
    out = preset(name)(x.stats(logp))
    out.loss.backward()
    assert torch.isfinite(out.loss) and logp.grad.any()


def test_the_page_lists_every_preset_with_its_first_line():
    text = (ROOT / "docs" / "algorithms" / "presets.md").read_text()
    for name in PRESETS:
        comment = (ROOT / "conf" / "algo" / f"{name}.yaml").read_text().splitlines()[0].removeprefix("# ")
        assert f"| `{name}` | {comment} |" in text


def test_verl_has_nineteen():
    assert sum(name.startswith("verl_") for name in PRESETS) == 19


AGGREGATION = {"verl": "token_mean", "areal": "token_mean", "trl": "token_mean", "prime": "token_mean"}
AGGREGATION |= {"slime": "seq_mean_token_mean"}  # its per-sample mean, unless --calculate-per-token-loss


@pytest.mark.parametrize("name", [name for name in PRESETS if name.partition("_")[0] in AGGREGATION])
def test_a_preset_averages_as_its_framework_does_by_default(name: str):
    assert preset(name).aggregation == AGGREGATION[name.partition("_")[0]]


def test_the_gradient_of_slime_weighs_responses_equally():
    x = random_batch(33)
    logp = x.logp.clone().requires_grad_()
    stats = replace(x, proximal=x.logp, A=torch.ones_like(x.A)).stats(logp)
    preset("slime")(stats).loss.backward()
    lengths = stats.mask.sum(1)
    expected = stats.mask.double() / (lengths[:, None].clamp(min=1) * (lengths > 0).sum())
    torch.testing.assert_close(-logp.grad, expected, rtol=1e-12, atol=0)


def test_the_naive_proximal_baseline_goes_by_several_names():
    stats = random_batch(32).stats()
    naive = algorithms.make("decoupled", mode="none").weights(stats)
    for name in ("naive_proximal", "areal_decoupled", "slime"):
        assert torch.equal(preset(name).weights(stats).weights, naive.weights)
    # verl adds its dual clip: what it keeps has the same weight.
    verl = preset("verl_disabled").weights(stats)
    assert torch.equal(verl.weights, naive.weights * verl.kept)
