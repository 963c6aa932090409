"""The mask of M2PO against a naive loop, and the properties that make it the paper's."""

import math

import pytest
import torch
from cases import naive_all_tokens, naive_areal, naive_paper, naive_released
from hypothesis import given, settings
from hypothesis import strategies as st

import algorithms
from algorithms import TokenStats

# A coarse grid makes ties the rule, as they are on `carry`; floats make them the exception.
GRID = st.integers(-12, 12).map(lambda i: i / 16)
FLOATS = st.floats(-2, 2, allow_nan=False, width=32)
TOKENS = st.lists(st.tuples(GRID | FLOATS, st.sampled_from([-1.0, 0.0, 2.0])), min_size=1, max_size=24)
TAUS = st.sampled_from([0.0, 1e-4, 0.01, 0.04, 0.0625, 0.3, 5.0])


def stats_of(tokens: list[tuple[float, float]], proximal: bool = False) -> TokenStats:
    log_ratio = torch.tensor([[l for l, _ in tokens]], dtype=torch.float64)  # noqa: E741
    A = torch.tensor([[a for _, a in tokens]], dtype=torch.float64)
    zeros = torch.zeros_like(log_ratio)
    mask = torch.ones_like(log_ratio, dtype=torch.bool)
    if proximal:
        return TokenStats(log_ratio, zeros, A, mask, logp_proximal=log_ratio)
    return TokenStats(log_ratio, zeros, A, mask)


def sets(stats: TokenStats, variant: str, tau: float) -> tuple[torch.Tensor, torch.Tensor, list[float], list[float]]:
    """kept and T, [n] bool; M2 of T and of the rest of V."""
    kept = algorithms.make("m2po", m2_threshold=tau, variant=variant).weights(stats).kept[0]
    region, m2 = stats.trust_region[0], stats.log_ratio[0].square()
    return kept, region, m2[region].tolist(), m2[~region].tolist()


@settings(deadline=None, max_examples=300)
@given(TOKENS, TAUS)
def test_paper_keeps_what_algorithm_1_keeps(tokens, tau):
    stats = stats_of(tokens)
    kept, region, values, _ = sets(stats, "paper", tau)
    cap = naive_paper(values, tau)
    m2 = stats.log_ratio[0].square()
    assert kept.tolist() == (~region | (m2 <= cap)).tolist()


@settings(deadline=None, max_examples=300)
@given(TOKENS, TAUS)
def test_paper_properties(tokens, tau):
    stats = stats_of(tokens)
    kept, region, values, _ = sets(stats, "paper", tau)
    m2 = stats.log_ratio[0].square()
    kept_values, masked_values = m2[kept & region].tolist(), m2[region & ~kept].tolist()
    assert kept[~region].all(), "the harmless quadrants are never touched"
    assert not kept_values or math.fsum(kept_values) / len(kept_values) <= tau
    if masked_values:
        back = [value for value in masked_values if value == min(masked_values)]
        assert math.fsum(kept_values + back) / len(kept_values + back) > tau, "the fewest are masked"
        assert not kept_values or max(kept_values) < min(masked_values), "ties are never split"
    else:
        assert not values or math.fsum(values) / len(values) <= tau


@settings(deadline=None, max_examples=300)
@given(TOKENS, TAUS)
def test_released_keeps_a_subset_and_follows_its_definition(tokens, tau):
    stats = stats_of(tokens)
    paper, _, _, _ = sets(stats, "paper", tau)
    kept, region, values, _ = sets(stats, "released", tau)
    if values and abs(math.fsum(values) / len(values) - tau) > 1e-9:
        assert not (kept & ~paper).any()
    cap = naive_released(values, tau)
    m2 = stats.log_ratio[0].square()
    assert kept[~region].all()
    # The definition sums exactly, we sum in float64: they may differ where a sum hits n·τ to the last bit.
    border = [abs(math.fsum(min(v, c) for v in values) - len(values) * tau) < 1e-12 for c in values]
    if not any(border):
        assert kept.tolist() == (~region | (m2 <= cap)).tolist()


@settings(deadline=None, max_examples=300)
@given(TOKENS, TAUS)
def test_all_tokens_mean_removes_the_fewest(tokens, tau):
    stats = stats_of(tokens)
    kept, region, values, rest = sets(stats, "all_tokens_mean", tau)
    cap = naive_all_tokens(values, rest, tau)
    m2 = stats.log_ratio[0].square()
    assert kept.tolist() == (~region | (m2 <= max(cap, 0))).tolist()
    method = algorithms.make("m2po", m2_threshold=tau, variant="all_tokens_mean")
    assert method.weights(stats).metrics["m2_unreachable"] == (cap == -1.0)


@settings(deadline=None, max_examples=300)
@given(TOKENS, TAUS)
def test_areal_ignores_the_sign_of_the_advantage(tokens, tau):
    stats = stats_of(tokens, proximal=True)
    counted = algorithms.make("m2po", m2_threshold=tau, variant="areal").weights(stats).counted[0]
    m2 = stats.log_ratio[0].square()
    assert counted.tolist() == (m2 <= naive_areal(m2.tolist(), tau)).tolist()
    assert counted.any()


@settings(deadline=None, max_examples=100)
@given(TOKENS, TAUS, st.randoms())
@pytest.mark.parametrize("variant", ["paper", "released", "all_tokens_mean", "areal"])
def test_the_mask_knows_no_order(variant, tokens, tau, random):
    order = list(range(len(tokens)))
    random.shuffle(order)
    method = algorithms.make("m2po", m2_threshold=tau, variant=variant)
    proximal = variant == "areal"
    kept = method.weights(stats_of(tokens, proximal)).kept[0]
    shuffled = method.weights(stats_of([tokens[i] for i in order], proximal)).kept[0]
    assert shuffled.tolist() == kept[order].tolist()


def one_sided(log_ratios: list[float]) -> TokenStats:
    return stats_of([(value, 1.0) for value in log_ratios])


def test_a_mean_of_exactly_tau_is_accepted():
    stats = stats_of([(0.25, 1.0), (-0.25, -1.0)])
    assert sets(stats, "paper", 0.0625)[0].all()
    assert not sets(stats, "paper", 0.0625 * (1 - 1e-15))[0].any()
    assert sets(stats, "released", 0.0625)[0].all()
    assert not sets(stats, "all_tokens_mean", 0.0625)[0].any()
    # 0.2² is above 0.04 in binary.
    assert not sets(one_sided([0.2]), "paper", 0.04)[0].any()


def test_float32_input_is_judged_in_float64():
    """A million small values: a float32 prefix sum would stall, and let far too many stay."""
    small, large = torch.full((1, 200_000), 0.1), torch.full((1, 100), 2.0)
    logp = torch.cat([small, large], dim=1)
    stats = TokenStats(logp, torch.zeros_like(logp), torch.ones(1), torch.ones_like(logp, dtype=torch.bool))
    kept = algorithms.make("m2po", m2_threshold=0.0115).weights(stats).kept
    assert kept.sum() == 200_000


def test_measured_masks_of_the_specification():
    """64×256 tokens, τ = 0.04, half A>0: about 9.92 / 18.83 / 19.85 % at N(0, .3²), nothing at N(0, .2²)."""
    torch.manual_seed(0)
    A = torch.where(torch.arange(64) % 2 == 0, 1.0, -1.0)
    mask = torch.ones(64, 256, dtype=torch.bool)

    def masked(log_ratio: torch.Tensor, variant: str) -> float:
        stats = TokenStats(log_ratio, torch.zeros_like(log_ratio), A, mask, logp_proximal=log_ratio)
        out = algorithms.make("m2po", variant=variant).weights(stats)
        counted = out.counted if variant == "areal" else out.kept
        return 100 * (1 - counted.float().mean().item())

    noise = torch.randn(64, 256, dtype=torch.float64)
    for variant, expected in (("paper", 9.92), ("released", 18.83), ("areal", 19.85)):
        assert masked(0.3 * noise, variant) == pytest.approx(expected, abs=1.5)
        assert masked(0.195 * noise, variant) == 0
