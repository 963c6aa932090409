"""Every method: its hand-computed cases, its gradient against autograd of the published surrogate, its symmetries."""

from dataclasses import fields, replace
from fractions import Fraction

import pytest
import torch
from cases import CASES, Batch, Case, Hand, random_batch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import algorithms
from algorithms import TokenStats, compose
from algorithms.aggregation import AGGREGATIONS, totals

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)


def naive_aggregate(values: Tensor, counted: Tensor, mode: str, max_length: int) -> Tensor:
    """Σ/D row by row, as one would write it on paper."""
    rows = [row[keep] for row, keep in zip(values, counted, strict=True)]
    filled = [row for row in rows if len(row)]
    if mode == "token_mean":
        return torch.cat(rows).mean()
    if mode == "seq_mean_token_mean":
        return torch.stack([row.mean() for row in filled]).mean()
    if mode == "seq_mean_token_sum":
        return torch.stack([row.sum() for row in filled]).mean()
    return torch.stack([row.sum() for row in rows]).sum() / (len(rows) * max_length)


def hand_stats(hand: Hand) -> TokenStats:
    log_ratio = torch.tensor([hand.log_ratio], dtype=torch.float64)
    behaviour = torch.full_like(log_ratio, hand.behaviour)
    A = torch.tensor(hand.advantages, dtype=torch.float64)

    def near(gap: object) -> Tensor | None:
        return None if gap is None else behaviour + torch.tensor([gap], dtype=torch.float64)

    return TokenStats(
        behaviour + log_ratio,
        behaviour,
        A if len(A) == 1 else A[None],
        torch.ones_like(log_ratio, dtype=torch.bool),
        logp_proximal=near(hand.proximal),
        logp_engine=near(hand.engine),
        staleness=torch.tensor([2]),
    )


@every_case
def test_weights_computed_by_hand(case: Case):
    for hand in case.hand:
        weights = case.make().weights(hand_stats(hand))
        expected = torch.tensor([hand.weights], dtype=torch.float64)
        torch.testing.assert_close(weights.weights, expected, rtol=1e-9, atol=1e-12)
        assert torch.equal(weights.kept, expected != 0)
        offsets = torch.tensor([hand.offsets or [0.0] * expected.shape[1]], dtype=torch.float64)
        torch.testing.assert_close(weights.offsets, offsets, rtol=1e-9, atol=1e-15)


@every_case
@pytest.mark.parametrize("mode", [None, *AGGREGATIONS])
def test_gradient_and_value_are_those_of_the_published_surrogate(case: Case, mode: str | None):
    x = random_batch(3, per_token=case.per_token)
    method = case.make(aggregation=mode)
    mode = method.aggregation

    plain = x.logp.clone().requires_grad_()
    counted = x.mask if case.counted is None else case.counted(x)
    published = -naive_aggregate(case.objective(replace(x, logp=plain)), counted, mode, 20)
    (expected,) = torch.autograd.grad(published, plain)

    logp = x.logp.clone().requires_grad_()
    out = method(x.stats(logp, case.per_token), max_length=20)
    out.loss.backward()
    torch.testing.assert_close(logp.grad, expected * x.mask, rtol=1e-9, atol=1e-13)
    torch.testing.assert_close(out.metrics["surrogate"], published.detach(), rtol=1e-9, atol=1e-12)
    value = -naive_aggregate((out.weights * x.A + out.offsets) * x.logp.masked_fill(~x.mask, 0), counted, mode, 20)
    torch.testing.assert_close(out.loss.detach(), value, rtol=1e-9, atol=1e-12)


@every_case
def test_on_policy_every_method_is_reinforce(case: Case):
    x = random_batch(1, per_token=case.per_token)
    x = replace(x, behaviour=x.logp, proximal=x.logp, engine=x.logp)
    logp = x.logp.clone().requires_grad_()
    out = case.make(aggregation="token_mean")(x.stats(logp, case.per_token))
    out.loss.backward()
    torch.testing.assert_close(logp.grad, -x.A * x.mask / x.mask.sum())
    assert out.kept.equal(x.mask) and out.metrics["clip_fraction"] == 0


def gradient(case: Case, x: Batch, **options) -> tuple[Tensor, Tensor]:
    logp = x.logp.clone().requires_grad_()
    out = case.make(**options)(x.stats(logp, case.per_token), max_length=20)
    out.loss.backward()
    return out.loss.detach(), logp.grad


def move(x: Batch, change) -> Batch:
    return Batch(**{f.name: change(getattr(x, f.name)) for f in fields(x)})


def close(result: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(result, expected, rtol=1e-11, atol=1e-14)


@every_case
def test_padding_does_not_matter(case: Case):
    x = random_batch(4, per_token=case.per_token)
    loss, grad = gradient(case, x)

    def pad(value: Tensor) -> Tensor:
        fill = float("nan") if value.is_floating_point() else 0
        if value.dim() == 1:
            return torch.cat([value, value.new_zeros(2)])
        return torch.nn.functional.pad(value, (0, 3, 0, 2), value=fill)

    wide = move(x, pad)
    wide = replace(wide, A=torch.nan_to_num(wide.A))
    wide_loss, wide_grad = gradient(case, wide)
    close(wide_loss, loss)
    close(wide_grad[:-2, :-3], grad)
    assert not wide_grad[-2:].any() and not wide_grad[:, -3:].any()


@every_case
def test_order_of_rows_does_not_matter(case: Case):
    x = random_batch(5, per_token=case.per_token)
    order = torch.randperm(len(x.A), generator=torch.Generator().manual_seed(0))
    loss, grad = gradient(case, x)
    moved_loss, moved_grad = gradient(case, move(x, lambda value: value[order]))
    close(moved_loss, loss)
    close(moved_grad, grad[order])


@every_case
def test_order_of_tokens_does_not_matter(case: Case):
    if case.ordered:
        return
    x = random_batch(6, per_token=case.per_token)
    order = torch.randperm(x.A.shape[1], generator=torch.Generator().manual_seed(0))
    loss, grad = gradient(case, x)
    moved_loss, moved_grad = gradient(case, move(x, lambda value: value if value.dim() == 1 else value[:, order]))
    close(moved_loss, loss)
    close(moved_grad, grad[:, order])


@every_case
@pytest.mark.parametrize("mode", AGGREGATIONS)
def test_split_into_micro_batches_does_not_matter(case: Case, mode: str):
    x = random_batch(7, per_token=case.per_token)
    loss, grad = gradient(case, x, aggregation=mode)
    method = case.make(aggregation=mode)
    weights = method.weights(x.stats(None, case.per_token))
    total = totals(weights.counted)
    logp, pieces = x.logp.clone().requires_grad_(), []
    for start, stop in ((0, 1), (1, 8), (8, 12)):
        part = move(replace(x, logp=logp.detach()), lambda value: value[start:stop])  # noqa: B023
        stats = part.stats(logp[start:stop], case.per_token)
        mine = None if method.scope != "batch" else weights.select(slice(start, stop))
        pieces.append(compose(method, stats, weights=mine, max_length=20, total=total).loss)
    torch.stack(pieces).sum().backward()
    close(torch.stack(pieces).sum().detach(), loss)
    close(logp.grad, grad)


@every_case
def test_float32_and_float64_agree(case: Case):
    x = random_batch(8, per_token=case.per_token)
    _, grad = gradient(case, x)
    narrow = move(x, lambda value: value.float() if value.is_floating_point() else value)
    _, narrow_grad = gradient(case, narrow)
    assert narrow_grad.dtype == torch.float32
    # Tokens within rounding of a threshold may fall on either side of it: none in this batch.
    torch.testing.assert_close(narrow_grad.double(), grad, rtol=2e-4, atol=1e-6)


@every_case
def test_output_contract(case: Case):
    x = random_batch(9, per_token=case.per_token)
    x.mask[2] = False
    out = case.make()(x.stats(None, case.per_token))
    weights = case.make().weights(x.stats(None, case.per_token))
    assert case.make().scope in ("token", "sequence", "batch")
    assert out.loss.dim() == 0
    for value in (out.weights, out.offsets, weights.weights, weights.offsets):
        assert value.shape == x.mask.shape and value.dtype == torch.float64 and not value.requires_grad
        assert not value[~x.mask].any()
    for value in (out.kept, weights.kept, weights.counted, weights.changed):
        assert value.shape == x.mask.shape and value.dtype == torch.bool
        assert not value[~x.mask].any()
    assert not out.weights[~out.kept].any()
    assert (weights.changed | weights.kept)[x.mask].all(), "what is masked is changed"
    assert all(value.dim() == 0 for value in out.metrics.values())


@pytest.mark.parametrize(
    ("name", "parameter", "values"),
    [
        ("grpo", "epsilon_low", [0.0, 0.05, 0.2, 0.9]),
        ("grpo", "epsilon_high", [0.0, 0.05, 0.28, 3.0]),
        ("gspo", "epsilon_high", [0.0, 4e-4, 0.01, 1.0]),
        ("mis", "ratio_high", [1.0, 1.5, 5.0]),
        ("dppo", "delta_high", [0.0, 0.05, 0.2, 1.0]),
        ("dppo", "delta_low", [0.0, 0.05, 0.2, 1.0]),
        ("opsm", "delta", [0.0, 1e-3, 0.05, 1.0]),
        ("m2po", "m2_threshold", [0.0, 1e-4, 0.01, 0.04, 0.5]),
    ],
)
def test_a_wider_threshold_keeps_more(name: str, parameter: str, values: list[float]):
    """Kept sets grow with the threshold, and on this batch strictly from the first to the last."""
    stats = random_batch(10, rows=40).stats()
    variants = ["paper", "released", "all_tokens_mean", "areal"] if name == "m2po" else [None]
    for variant in variants:
        more = {} if variant is None else {"variant": variant}
        kept = [algorithms.make(name, **{parameter: v}, **more).weights(stats).kept for v in values]
        for narrow, wide in zip(kept, kept[1:], strict=False):
            assert not (narrow & ~wide).any()
        assert kept[0].sum() < kept[-1].sum()


@pytest.mark.parametrize("name", ["cispo", "tis"])
def test_a_higher_cap_raises_weights(name: str):
    stats = random_batch(11).stats()
    low, high = (algorithms.make(name, ratio_cap=cap).weights(stats).weights for cap in (1.0, 1.5))
    assert (low <= high).all() and (low < high).any()


def test_special_cases_are_their_neighbours():
    stats = random_batch(12).stats()

    def same(a: algorithms.Algorithm, b: algorithms.Algorithm) -> None:
        x, y = a.weights(stats), b.weights(stats)
        torch.testing.assert_close(x.weights, y.weights, rtol=1e-12, atol=0)
        assert torch.equal(x.kept, y.kept)

    make, inf = algorithms.make, float("inf")
    same(make("tis", ratio_cap=1.3), make("cispo", ratio_cap=1.3))
    same(make("grpo", epsilon_low=inf, epsilon_high=inf), make("no_trust_region"))
    same(make("m2po", m2_threshold=inf), make("no_trust_region"))
    same(make("gspo"), make("gspo_token"))
    same(make("m2_penalty", kappa=0.0), make("dppo"))
    same(make("opsm", delta=inf), make("grpo"))
    same(make("m2_penalty", base="opsm", base_parameters={"delta": 0.05}), make("opsm", delta=0.05))


def test_wrapper_takes_the_wider_scope_and_the_base_settings():
    make = algorithms.make
    assert make("opsm", delta=1.0).scope == "sequence"
    assert make("opsm", delta=1.0, base="m2po").scope == "batch"
    assert make("engine_mismatch", base="m2po").scope == "batch"
    assert make("engine_mismatch", base="decoupled").needs == {"logp_engine", "logp_proximal"}
    assert make("m2_penalty", base="gspo").aggregation == "seq_mean_token_mean"
    assert make("m2_penalty", base="gspo", aggregation="token_mean").aggregation == "token_mean"
    with pytest.raises(ValueError, match="unknown algorithm 'grop'; nearest: grpo"):
        make("m2_penalty", base="grop").scope  # noqa: B018


def test_bapo_walks_as_the_paper_does():
    x = random_batch(13)
    for target, p, weight in ((0.3, "behaviour", x.behaviour.exp()), (0.9, "one", torch.ones_like(x.A))):
        from cases import bapo_bounds

        low, high = bapo_bounds(x, weight, target)
        metrics = algorithms.make("bapo", positive_share=target, p=p).weights(x.stats()).metrics
        assert metrics["bapo_low"].item() == pytest.approx(low)
        assert metrics["bapo_high"].item() == pytest.approx(high)
    # Nothing reaches ρ = 1 here: c_high is spent first, then c_low runs to its end, 0.90 and not 0.88.
    metrics = algorithms.make("bapo", positive_share=1.0).weights(x.stats()).metrics
    assert metrics["bapo_high"].item() == pytest.approx(3.0)
    assert metrics["bapo_low"].item() == pytest.approx(0.9)


def bapo_loop(method: algorithms.Algorithm, x: Batch) -> tuple[float, float]:
    """The loop that BAPO's docstring quotes, in exact decimals."""
    p = x.behaviour.exp() if method.p == "behaviour" else torch.ones_like(x.A)
    r, A, p = x.r[x.mask], x.A[x.mask], p[x.mask]

    def share(low: Fraction, high: Fraction) -> float:
        good = (p * A * r.clamp(max=float(high)))[A > 0].sum()
        bad = (p * A.abs() * r.clamp(min=float(low)))[A < 0].sum()
        return float(good / (good + bad))

    exact = {f.name: Fraction(str(getattr(method, f.name))) for f in fields(method) if f.type is float}
    c_low, c_high = exact["low_start"], exact["high_start"]
    while share(c_low, c_high) < method.positive_share and c_low + exact["low_step"] <= exact["low_end"]:
        if c_high + exact["high_step"] <= exact["high_end"]:
            c_high += exact["high_step"]
        else:
            c_low += exact["low_step"]
    return float(c_low), float(c_high)


@settings(deadline=None, max_examples=100)
@given(
    seed=st.integers(0, 50),
    share=st.sampled_from([0.1, 0.3, 0.45, 0.6, 0.9, 1.0]),
    p=st.sampled_from(["behaviour", "one"]),
    low=st.sampled_from([(0.6, 0.9, 0.02), (0.6, 0.9, 0.07), (0.9, 0.9, 0.02), (0.5, 0.3, 0.1), (0.2, 0.95, 0.05)]),
    high=st.sampled_from([(1.2, 3.0, 0.05), (1.2, 1.2, 0.05), (1.1, 1.4, 0.07), (1.0, 2.0, 0.3)]),
)
def test_bapo_in_vector_form_is_the_loop_it_quotes(seed, share, p, low, high):
    ends = dict(
        zip(("low_start", "low_end", "low_step", "high_start", "high_end", "high_step"), low + high, strict=True)
    )
    method, x = algorithms.make("bapo", positive_share=share, p=p, **ends), random_batch(seed)
    bounds = [value.item() for value in method.bounds(x.stats())[:2]]
    assert bounds == pytest.approx(bapo_loop(method, x), rel=1e-12)


def test_bapo_without_advantages_does_not_walk():
    x = random_batch(14)
    metrics = algorithms.make("bapo").weights(replace(x, A=torch.zeros_like(x.A)).stats()).metrics
    assert (metrics["bapo_low"].item(), metrics["bapo_high"].item()) == (0.6, 1.2)
