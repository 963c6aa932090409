"""Every value of every option of every method makes an update, and whatever a method needs is there."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields, replace
from functools import cache
from typing import Any, ClassVar, Literal, get_args, get_origin

import pytest
import torch

import algorithms
from algorithms import AGGREGATIONS, Algorithm, TokenStats, TokenWeights, weigh
from harness.learner.learner import Update
from harness.types import GradedRollouts
from tests.test_learner import GROUP, graded, learner


@cache
def stale() -> GradedRollouts:
    """Six groups whose tokens were sampled by versions 0, 1 and 2."""
    batch = graded()
    version = torch.arange(len(batch.rollouts.version), dtype=torch.int32) % 3
    return replace(batch, rollouts=replace(batch.rollouts, version=version))


def required(name: str) -> dict[str, Any]:
    """A value for every parameter of a method that has no default."""
    return {
        f.name: f.metadata.get("low", 0) + 0.1
        for f in fields(algorithms.METHODS[name])
        if f.default is MISSING and f.default_factory is MISSING
    }


def values(kind: Any, name: str) -> list[Any]:
    """What an option can be: every choice, every aggregation, every base; a number that may be left out."""
    if get_origin(kind) is Literal:
        return list(get_args(kind))
    if name == "base":
        return algorithms.names()
    if name == "aggregation":
        return list(AGGREGATIONS)
    if kind is bool:
        return [False, True]
    return [1.5] if kind == float | None else []


def settings() -> list[tuple[str, dict[str, Any]]]:
    cases: list[tuple[str, dict[str, Any]]] = []
    for name in algorithms.names():
        cases.append((name, required(name)))
        for f in fields(algorithms.METHODS[name]):
            for value in values(f.type, f.name):
                more = {"base_parameters": required(value)} if f.name == "base" else {}
                cases.append((name, {**required(name), f.name: value, **more}))
    return cases


def update(method: Algorithm, **learner_settings: Any) -> Update:
    """One update at version 5, in several micro-batches."""
    made = learner(method, micro_batch_tokens=150, **learner_settings)
    made.version = 5
    (done,) = made.step(stale())
    return done


@pytest.mark.parametrize(("name", "params"), settings(), ids=lambda value: str(value).replace(" ", ""))
def test_every_value_of_every_option_trains(name: str, params: dict[str, Any]) -> None:
    done = update(algorithms.make(name, **params))
    assert done.refusal is None and done.metrics["skipped"] == 0
    assert torch.isfinite(torch.tensor(done.metrics["loss"])) and done.metrics["grad_norm"] > 0


def test_the_interpolated_proximal_policy_depends_on_the_staleness() -> None:
    method = algorithms.make("decoupled", proximal="interpolated")
    fresh = learner(method)
    rollouts = replace(graded().rollouts, version=torch.zeros_like(graded().rollouts.version))
    (at_once,) = fresh.step(replace(stale(), rollouts=rollouts))  # staleness 0: no correction at all
    assert at_once.metrics["loss"] != pytest.approx(update(method).metrics["loss"])


def needing(field: str, scope: str = "token") -> type[Algorithm]:
    """A method from outside that keeps what it is given."""

    @dataclass(frozen=True)
    class Outside(Algorithm):
        seen: ClassVar[list[TokenStats]] = []
        needs = frozenset({field})

        def weights(self, stats: TokenStats) -> TokenWeights:
            self.seen.append(stats)
            return weigh(stats, stats.ratio * (1 + 0 * stats.masked(stats.require(field, "Outside"))).to(stats.dtype))

    Outside.scope = scope
    return Outside


@pytest.mark.parametrize("scope", ["token", "batch"])
@pytest.mark.parametrize("field", ["logp_proximal", "logp_engine", "staleness", "entropy", "group"])
def test_a_method_from_outside_is_given_what_it_needs(field: str, scope: str) -> None:
    method = needing(field, scope)()
    done = update(method)
    assert done.refusal is None and done.metrics["grad_norm"] > 0
    # Of token scope each micro-batch, and for the metrics the whole; of batch scope the whole alone.
    *parts, whole = method.seen
    assert len(whole.mask) == 6 * GROUP and (len(parts) > 1) == (scope == "token")
    seen = parts or [whole]
    values = torch.cat([stats.masked(getattr(stats, field))[stats.mask] for stats in seen])
    assert values.isfinite().all()
    if field == "staleness":
        assert {int(value) for value in values} == {3, 4, 5}
        assert done.metrics["staleness_min"] == 3 and done.metrics["staleness_max"] == 5
    if field == "group":
        rows = torch.cat([stats.group for stats in seen])
        assert rows.bincount().tolist() == [GROUP] * 6
    if field == "entropy":
        assert not any(stats.entropy.requires_grad for stats in seen)


def test_whole_mini_batches_are_in_order() -> None:
    method = needing("staleness", "batch")()
    update(method)
    (stats,) = method.seen
    rollouts = stale().rollouts
    assert stats.mask.sum(1).tolist() == rollouts.response_lengths.tolist()
    assert stats.staleness[stats.mask].tolist() == (5 - rollouts.version).tolist()
    assert stats.group.tolist() == rollouts.group.tolist()


@dataclass(frozen=True)
class Counting(Algorithm):
    """A method of token scope with a metric of its own."""

    def weights(self, stats: TokenStats) -> TokenWeights:
        return weigh(stats, stats.ratio, metrics={"tokens_seen": stats.count})


def test_the_metrics_of_a_method_are_those_of_the_whole_mini_batch() -> None:
    assert update(Counting()).metrics["tokens_seen"] == len(stale().rollouts.version)


def spoiled(field: str) -> GradedRollouts:
    values = getattr(stale().rollouts, field).clone()
    values[3] = float("nan")
    return replace(stale(), rollouts=replace(stale().rollouts, **{field: values}))


def test_only_what_a_method_needs_can_refuse_its_update() -> None:
    """An engine's NaN concerns the method that uses the engine's log-probs, and no other."""
    (done,) = learner("m2po").step(spoiled("logp_engine"))
    assert done.refusal is None and done.metrics["refused"] == 0
    (refused,) = learner("engine_mismatch").step(spoiled("logp_engine"))
    assert refused.refusal is not None and refused.refusal.reason.startswith("logp_engine has 1 non-finite of")
    (refused,) = learner("engine_mismatch").step(spoiled("logp_behaviour"))
    assert refused.refusal is not None and refused.refusal.reason.startswith("logp_behaviour has 1 non-finite of")


def test_the_length_of_responses_and_the_staleness_of_what_is_trained_on() -> None:
    batch = stale()
    trained = torch.arange(batch.rollouts.n_responses) % 3 != 0
    made = learner("grpo")
    made.version = 5
    (done,) = made.step(replace(batch, trained=trained))
    lengths = batch.rollouts.response_lengths
    assert done.metrics["response_length"] == pytest.approx(lengths.double().mean().item())
    staleness = 5 - batch.rollouts.version[torch.repeat_interleave(trained, lengths)]
    assert done.metrics["staleness_hist"] == {str(s): int((staleness == s).sum()) for s in (3, 4, 5)}
    assert done.metrics["staleness_mean"] == pytest.approx(staleness.double().mean().item())
