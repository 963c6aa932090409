"""The inputs a sweep will meet: every edge case of the specification, with its required outcome."""

import math
from dataclasses import replace

import pytest
import torch
from cases import CASES, Case, random_batch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import algorithms
from algorithms import TokenStats

INF, NAN = math.inf, math.nan
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)


def run(case: Case, stats: TokenStats) -> tuple[Tensor, Tensor, algorithms.LossOutput]:
    logp = stats.logp_current.clone().requires_grad_()
    fields = {name: getattr(stats, name) for name in TokenStats.__dataclass_fields__}
    out = case.make()(TokenStats(**{**fields, "logp_current": logp}))
    out.loss.backward()
    return out.loss.detach(), logp.grad, out


def with_value(stats: TokenStats, name: str, value: float, index: tuple[int, int]) -> TokenStats:
    fields = {n: getattr(stats, n) for n in TokenStats.__dataclass_fields__}
    changed = fields[name].clone()
    changed[index] = value
    return TokenStats(**{**fields, name: changed})


def fields_of(case: Case) -> list[str]:
    return ["logp_current", "logp_behaviour", *sorted(case.make().needs - {"staleness"})]


@every_case
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_whatever_stands_outside_the_mask_has_no_effect(case: Case, value: float):
    x = random_batch(20, per_token=case.per_token)
    x.mask[:, -1] = False
    stats = x.stats(None, case.per_token)
    loss, grad, _ = run(case, stats)
    for name in fields_of(case):
        found_loss, found_grad, out = run(case, with_value(stats, name, value, (3, -1)))
        assert torch.equal(found_loss, loss) and torch.equal(found_grad, grad)
        assert out.weights.isfinite().all() and out.metrics["surrogate"].isfinite()


@every_case
def test_nan_at_a_valid_place_is_never_dropped(case: Case):
    x = random_batch(21, per_token=case.per_token)
    stats = x.stats(None, case.per_token)
    for name in fields_of(case):
        for row in range(0, 12, 3):
            loss, _, _ = run(case, with_value(stats, name, NAN, (row, 0)))
            assert not loss.isfinite(), (name, row)


@every_case
@pytest.mark.parametrize("name", ["logp_proximal", "logp_engine", "entropy"])
def test_a_field_that_the_method_does_not_use_is_not_looked_at(case: Case, name: str):
    if name in case.make().needs:
        return
    x = random_batch(21, per_token=case.per_token)
    stats = x.stats(None, case.per_token)
    loss, grad, _ = run(case, stats)
    broken = replace(stats, **{name: torch.full_like(x.logp, NAN)})
    found_loss, found_grad, _ = run(case, broken)
    assert torch.equal(found_loss, loss) and torch.equal(found_grad, grad)


@every_case
def test_one_mini_batch_can_be_asked_by_several_methods(case: Case):
    """Nothing of a graph stays behind in the statistics."""
    x = random_batch(22, per_token=case.per_token)
    stats = x.stats(x.logp.clone().requires_grad_(), case.per_token)
    first, second = (torch.autograd.grad(case.make()(stats).loss, stats.logp_current)[0] for _ in range(2))
    assert torch.equal(first, second)


@every_case
def test_a_current_log_prob_of_minus_infinity_is_never_dropped(case: Case):
    x = random_batch(22, per_token=case.per_token)
    stats = x.stats(None, case.per_token)
    for row in range(0, 12, 3):
        loss, _, _ = run(case, with_value(stats, "logp_current", -INF, (row, 0)))
        assert not loss.isfinite(), row


@every_case
def test_nan_advantage_is_never_dropped(case: Case):
    x = random_batch(23, per_token=case.per_token)
    x.A[4] = NAN
    loss, _, _ = run(case, x.stats(None, case.per_token))
    assert not loss.isfinite()


@every_case
def test_an_infinite_log_ratio_is_held(case: Case):
    """Behaviour −Inf: finite loss and weights for every method, on either sign of A."""
    x = random_batch(24, per_token=case.per_token)
    for row in range(12):
        stats = with_value(x.stats(None, case.per_token), "logp_behaviour", -INF, (row, 0))
        loss, grad, out = run(case, stats)
        assert loss.isfinite() and grad.isfinite().all() and out.weights.isfinite().all(), row


@pytest.mark.parametrize("variant", ["paper", "released", "all_tokens_mean"])
def test_m2po_masks_an_infinite_log_ratio_with_positive_advantage(variant: str):
    logp = torch.tensor([[-1.0, -1.0], [-1.0, -1.0], [-1.0, -1.0]])
    behaviour = torch.tensor([[-INF, -1.0], [-INF, -1.0], [-INF, -1.0]])
    stats = TokenStats(logp, behaviour, torch.tensor([1.0, -1.0, 0.0]), torch.ones(3, 2, dtype=torch.bool))
    out = algorithms.make("m2po", variant=variant).weights(stats)
    assert out.kept.tolist() == [[False, True], [True, True], [True, True]]
    assert out.weights[1, 0] == pytest.approx(math.exp(20))


@every_case
@pytest.mark.parametrize("shape", [(3, 4), (3, 0), (0, 4)])
def test_no_valid_token_gives_a_zero_loss_with_a_gradient_path(case: Case, shape: tuple[int, int]):
    empty = torch.full(shape, NAN, dtype=torch.float64)
    stats = TokenStats(
        empty.clone(),
        empty,
        torch.zeros(shape if case.per_token else shape[0], dtype=torch.float64),
        torch.zeros(shape, dtype=torch.bool),
        logp_proximal=empty,
        logp_engine=empty,
        staleness=torch.zeros(shape[0]),
    )
    loss, grad, out = run(case, stats)
    assert loss == 0 and not grad.any() and grad.shape == shape
    assert set(out.metrics) >= {"m2_before", "surrogate", "clip_fraction"}


@every_case
def test_zero_advantages_move_nothing(case: Case):
    x = random_batch(25, per_token=case.per_token)
    x.A.zero_()
    _, grad, out = run(case, x.stats(None, case.per_token))
    if out.offsets.any():
        return  # a pull towards the behaviour policy acts whatever A is
    assert not grad.any()
    if case.name == "m2po" and case.params.get("variant") != "areal":
        assert out.kept.equal(x.mask)


@every_case
def test_empty_rows_are_left_out_of_sequence_means(case: Case):
    x = random_batch(26, per_token=case.per_token)
    loss, grad, _ = run(case, x.stats(None, case.per_token))
    stats = x.stats(None, case.per_token)
    fields = {name: getattr(stats, name) for name in TokenStats.__dataclass_fields__}
    wider = {name: value if value is None else torch.cat([value, value[:1]]) for name, value in fields.items()}
    wider["mask"] = torch.cat([x.mask, torch.zeros_like(x.mask[:1])])
    wider_loss, wider_grad, out = run(case, TokenStats(**wider))
    torch.testing.assert_close(wider_loss, loss)
    torch.testing.assert_close(wider_grad[:-1], grad)
    assert out.metrics["empty_responses"] == 1


@every_case
def test_far_ratios_are_clamped_and_counted(case: Case):
    x = random_batch(27, per_token=case.per_token)
    logp = x.logp.clone()
    logp[:, 0] = x.behaviour[:, 0] + 100 * torch.tensor([1.0, -1.0]).repeat(6)
    loss, grad, out = run(case, x.stats(logp, case.per_token))
    assert loss.isfinite() and grad.isfinite().all()
    assert out.metrics["clamped_fraction"] == pytest.approx(12 / int(x.mask.sum()))


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_m2po_border_cases(variant: str):
    def kept(log_ratios: list[float], A: list[float], tau: float = 0.04) -> list[bool]:
        logp = torch.tensor([log_ratios], dtype=torch.float64)
        mask = torch.ones_like(logp, dtype=torch.bool)
        stats = TokenStats(logp, torch.zeros_like(logp), torch.tensor([A]), mask)
        return algorithms.make("m2po", variant=variant, m2_threshold=tau).weights(stats).kept[0].tolist()

    assert kept([-3.0, 3.0], [1.0, -1.0]) == [True, True], "T is empty"
    assert kept([3.0, -3.0], [0.0, 0.0]) == [True, True], "A = 0 is never in T"
    assert kept([0.5, 0.6, -0.1], [1.0, 1.0, 1.0]) == [False, False, True], "every M2 of T exceeds τ"
    assert kept([0.1, 0.3, 0.3], [1.0, 1.0, 1.0]) == [True, False, False], "ties are never split"
    assert kept([0.0, 0.01, -0.01, 0.1], [1.0, 1.0, -1.0, -1.0], 0.0) == [True, False, False, True], "τ = 0"


def test_areal_keeps_the_smallest_and_needs_the_proximal_policy():
    zeros, mask = torch.zeros(1, 3), torch.ones(1, 3, dtype=torch.bool)
    gap = torch.tensor([[0.5, -0.5, 0.9]])
    method = algorithms.make("m2po", variant="areal")
    out = method.weights(TokenStats(zeros, zeros, torch.ones(1), mask, logp_proximal=gap))
    assert out.counted.tolist() == [[True, True, False]]
    for name in ("m2po", "decoupled"):
        params = {"variant": "areal"} if name == "m2po" else {}
        with pytest.raises(ValueError, match=r"needs TokenStats.logp_proximal"):
            algorithms.make(name, **params)(TokenStats(zeros, zeros, torch.ones(1), mask))


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("gspo", {}),
        ("topr", {}),
        ("opsm", {"delta": 0.1}),
        ("tis", {"level": "sequence"}),
        ("mis", {"level": "sequence"}),
    ],
)
def test_sequence_methods_refuse_advantages_that_vary(name: str, params: dict):
    x = random_batch(28)
    constant = TokenStats(x.logp, x.behaviour, x.A.masked_fill(~x.mask, NAN), x.mask)
    by_row = TokenStats(x.logp, x.behaviour, x.A[:, 0], x.mask)
    method = algorithms.make(name, **params)
    torch.testing.assert_close(method(constant).loss, method(by_row).loss)
    varying = x.A.clone()
    varying[0, 0] += 1
    x.mask[0, :2] = True
    with pytest.raises(ValueError, match="gspo_token"):
        method(TokenStats(x.logp, x.behaviour, varying, x.mask))


class Synchronisations(TorchDispatchMode):
    """Counts what would wait for a GPU: reading a number, and shapes that depend on values."""

    WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "_unique2", "unique_dim")

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += str(func.overloadpacket).removeprefix("aten.") in self.WAITS
        boolean_index = "index.Tensor" in str(func) and any(i is not None and i.dtype == torch.bool for i in args[1])
        self.count += boolean_index
        return func(*args, **(kwargs or {}))


@every_case
def test_no_method_waits_for_the_device(case: Case):
    """M2PO may, once: it asks whether the mean is within τ. Metrics and loss included."""
    stats = random_batch(29).stats()
    method = case.make(m2_threshold=1e-4) if case.name == "m2po" else case.make()
    with Synchronisations() as waits:
        out = method(stats)
        dict(out.metrics)
    assert waits.count == (1 if case.name == "m2po" else 0)


@every_case
def test_every_method_runs_where_there_is_no_number_to_read(case: Case):
    """On tensors without data, metrics and the backward pass included: no result can have been waited for.

    M2PO stops at its question, so there it is shown that asking fails.
    """
    given = random_batch(29, per_token=case.per_token).stats(None, case.per_token)
    fields = {name: getattr(given, name) for name in TokenStats.__dataclass_fields__}
    fields = {name: None if value is None else value.to("meta") for name, value in fields.items()}
    stats = TokenStats(**{**fields, "logp_current": fields["logp_current"].requires_grad_()})
    if case.name == "m2po":
        with pytest.raises(RuntimeError, match="item"):
            case.make()(stats)
        return
    out = case.make()(stats)
    out.loss.backward()
    assert all(value.is_meta for value in out.metrics.values())


def test_a_log_prob_that_rounds_to_above_zero_is_a_certainty_to_dppo():
    """The binary KL of a probability of 1 + 1e-7 is that of 1, not NaN, which would keep the token."""
    current, behaviour = torch.tensor([[1e-7, 0.0]]), torch.full((1, 2), 0.5).log()
    stats = TokenStats(current, behaviour, torch.ones(1), torch.ones(1, 2, dtype=torch.bool))
    assert not algorithms.make("dppo", divergence="kl").weights(stats).kept.any()
    back = TokenStats(behaviour, current, -torch.ones(1), torch.ones(1, 2, dtype=torch.bool))
    assert not algorithms.make("dppo", divergence="kl").weights(back).kept.any()
