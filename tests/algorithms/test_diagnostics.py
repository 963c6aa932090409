"""Diagnostics against their formulas, written with numpy over lists of tokens."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from cases import random_batch

import algorithms
from algorithms import diagnose

BINDING = {
    "m2_before", "m2_after", "m2_valid", "trust_region_fraction", "masked_fraction", "clip_fraction",
    "k1", "k2", "k3", "ess", "entropy",
}  # fmt: skip


@pytest.mark.parametrize("name", ["grpo", "m2po", "tis", "cispo", "gppo"])
def test_formulas(name: str):
    x = random_batch(30, rows=24, width=16)
    x.A[3] = 0
    x.mask[5] = False
    entropy = torch.rand(24, 16)
    method = algorithms.make(name)
    stats = replace(x.stats(), entropy=entropy)
    weights = method.weights(stats)
    metrics = {key: value.item() for key, value in diagnose(stats, weights).items()}

    def tokens(value: torch.Tensor) -> np.ndarray:
        return value[x.mask].double().numpy()

    l, A, w = tokens(x.l), tokens(x.A), tokens(weights.weights)  # noqa: E741
    kept, changed, H = tokens(weights.kept) > 0, tokens(weights.changed) > 0, tokens(entropy)
    r, T, u = np.exp(l), ((A > 0) & (l > 0)) | ((A < 0) & (l < 0)), tokens(x.staleness[:, None].expand(24, 16))
    expected = {
        "m2_before": np.mean(l[T] ** 2),
        "m2_after": np.mean(l[T & kept] ** 2),
        "m2_valid": np.mean(l**2),
        "trust_region_fraction": T.mean(),
        "masked_fraction": 1 - kept.mean(),
        "clip_fraction": changed.mean(),
        "mask_ratio_low": r[T & kept & (A < 0)].min(),
        "mask_ratio_high": r[T & kept & (A > 0)].max(),
        "k1": -l.mean(),
        "k2": np.mean(l**2) / 2,
        "k3": np.mean(r - 1 - l),
        "chi2": np.mean((r - 1) ** 2),
        "chi2_second_moment": np.mean(r**2) - 1,
        "ess": 1 / np.mean((r / r.mean()) ** 2),
        "ess_weighted": 1 / np.mean((w / w.mean()) ** 2),
        "clamped_fraction": 0,
        "empty_responses": 1,
        "entropy": H.mean(),
        "entropy_kept": H[kept].mean(),
        "entropy_masked": H[~kept].mean() if (~kept).any() else np.nan,
        "staleness_min": u.min(),
        "staleness_mean": u.mean(),
        "staleness_max": u.max(),
        "ratio_positive_q50": np.quantile(r[A > 0], 0.5, method="nearest"),
        "ratio_negative_q01": np.quantile(r[A < 0], 0.01, method="nearest"),
        "ratio_negative_q99": np.quantile(r[A < 0], 0.99, method="nearest"),
    }
    log_products = np.array([x.l[i][x.mask[i]].double().sum() for i in range(24) if x.mask[i].any()])
    lengths = np.array([x.mask[i].sum() for i in range(24) if x.mask[i].any()])
    products, means = np.exp(log_products), np.exp(log_products / lengths)
    expected |= {
        "acted": changed.mean(),
        "ess_sequence": 1 / np.mean((products / products.mean()) ** 2),
        "chi2_sequence": np.mean((products - 1) ** 2),
        "perplexity": np.exp(-tokens(x.logp).mean()),
        "perplexity_behaviour": np.exp(-tokens(x.behaviour).mean()),
        "perplexity_ratio": np.exp(-l.mean()),
        "version_span": 0,
        "drift_per_update": np.mean(r - 1 - l) / u.mean(),
    }
    for key, values in (("sequence_ratio", products), ("geometric_ratio", means)):
        expected |= {f"{key}_mean": values.mean(), f"{key}_std": values.std()}
        expected |= {f"{key}_min": values.min(), f"{key}_max": values.max()}
    gap = tokens(x.behaviour - x.engine)
    expected |= {"engine_gap_mean": gap.mean(), "engine_gap_square": (gap**2).mean()}
    expected |= {"engine_gap_max": abs(gap).max()}
    for key, value in expected.items():
        assert metrics[key] == pytest.approx(value, rel=1e-9, abs=1e-12, nan_ok=True), key
    assert set(metrics) >= BINDING


def test_metrics_of_a_loss_are_the_diagnostics_and_the_surrogate():
    x = random_batch(31)
    method, stats = algorithms.make("m2po"), replace(x.stats(), entropy=torch.ones_like(x.logp))
    out = method(stats)
    direct = diagnose(stats, method.weights(stats))
    assert set(out.metrics) == set(direct) | {"surrogate"}
    for name, value in direct.items():
        torch.testing.assert_close(out.metrics[name], value, equal_nan=True)


def test_undefined_is_nan():
    x = random_batch(32)
    x.A.zero_()
    stats = replace(x.stats(), entropy=torch.ones_like(x.logp))
    metrics = diagnose(stats, algorithms.make("grpo").weights(stats))
    assert metrics["m2_before"].isnan() and metrics["entropy_masked"].isnan()
    assert metrics["ratio_positive_q50"].isnan() and metrics["masked_fraction"] == 0


def test_quantiles_of_a_large_batch_come_from_an_even_stride():
    torch.manual_seed(0)
    logp = 0.1 * torch.randn(64, 512)
    mask = torch.ones(64, 512, dtype=torch.bool)
    stats = algorithms.TokenStats(logp, torch.zeros_like(logp), torch.ones(64), mask)
    metrics = diagnose(stats, algorithms.make("grpo").weights(stats))["ratio_positive_q99"]
    assert metrics.item() == pytest.approx(np.quantile(logp.exp().numpy(), 0.99), rel=0.02)


def test_every_metric_is_in_the_documentation():
    from pathlib import Path

    x = random_batch(33)
    names = set(algorithms.make("m2po", variant="all_tokens_mean")(replace(x.stats(), entropy=x.logp)).metrics)
    names |= set(algorithms.make("bapo")(x.stats()).metrics)
    text = (Path(__file__).parents[2] / "docs" / "diagnostics.md").read_text()
    missing = {name for name in names if f"`{name}`" not in text}
    assert not missing


def test_the_version_span_is_the_widest_within_a_response():
    x = random_batch(32, rows=3, width=4)
    x.mask[:] = True
    staleness = torch.tensor([[4, 4, 4, 4], [9, 8, 7, 7], [20, 20, 19, 19]])
    x.mask[1, 0] = False
    stats = replace(x.stats(), staleness=staleness)
    assert diagnose(stats, algorithms.make("grpo").weights(stats))["version_span"] == 1


def test_the_ess_of_sequences_is_exactly_one_on_policy_and_does_not_overflow():
    x = random_batch(33, rows=7, width=5)
    stats = replace(x.stats(), logp_current=x.stats().logp_behaviour)
    assert diagnose(stats, algorithms.make("grpo").weights(stats))["ess_sequence"] == 1
    far = replace(stats, logp_current=stats.logp_behaviour + 900 * torch.rand(7, 5))
    assert 0 < diagnose(far, algorithms.make("grpo").weights(far))["ess_sequence"] <= 1
