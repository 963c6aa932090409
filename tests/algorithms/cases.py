"""One table of cases that drives every method. A new method is one more row.

A row holds the parameters, the published objective of each token written plainly for autograd (nothing shared with
the code under test), and a case small enough to compute by hand. `sg` marks what the publication detaches.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

import algorithms
from algorithms import TokenStats


@dataclass
class Batch:
    """What an objective may look at: float64, no padding in it that matters (the aggregation leaves it out)."""

    logp: Tensor
    behaviour: Tensor
    A: Tensor  # [B,T]
    mask: Tensor
    proximal: Tensor
    engine: Tensor
    staleness: Tensor  # [B]

    @property
    def l(self) -> Tensor:  # noqa: E743, the specification's own symbol
        return self.logp - self.behaviour

    @property
    def r(self) -> Tensor:
        return self.l.exp()

    def row_mean(self, values: Tensor) -> Tensor:
        return (values * self.mask).sum(1, keepdim=True) / self.mask.sum(1, keepdim=True).clamp(min=1)

    def stats(self, logp: Tensor | None = None, per_token: bool = False) -> TokenStats:
        return TokenStats(
            self.logp.detach() if logp is None else logp,
            self.behaviour,
            self.A if per_token else self.A[:, 0],
            self.mask,
            logp_proximal=self.proximal,
            staleness=self.staleness,
            logp_engine=self.engine,
        )


def sg(value: Tensor) -> Tensor:
    return value.detach()


@dataclass
class Hand:
    """l, A → w (without A), kept; one row unless nested. Extra fields of TokenStats are given as log-ratios."""

    log_ratio: Sequence[Any]
    advantages: Sequence[float]
    weights: Sequence[Any]
    behaviour: float = -5.0
    proximal: Sequence[Any] | None = None
    engine: Sequence[Any] | None = None
    offsets: Sequence[Any] | None = None


@dataclass
class Case:
    name: str
    objective: Callable[[Batch], Tensor]
    hand: list[Hand]
    params: dict[str, Any] = field(default_factory=dict)
    counted: Callable[[Batch], Tensor] | None = None  # the tokens in D, if not the mask
    per_token: bool = False  # takes [B,T] advantages that vary
    ordered: bool = False  # the order of a row's tokens matters

    @property
    def id(self) -> str:
        return "-".join([self.name, *(f"{k}={v}" for k, v in self.params.items())])

    def make(self, **more: Any) -> algorithms.Algorithm:
        return algorithms.make(self.name, **{**self.params, **more})


def ppo(ratio: Tensor, A: Tensor, low: float, high: float) -> Tensor:
    return torch.min(ratio * A, ratio.clamp(low, high) * A)


def dual(value: Tensor, A: Tensor, c: float) -> Tensor:
    return torch.where(A < 0, torch.max(value, c * A), value)


def sequence_ratio(x: Batch) -> Tensor:
    return x.row_mean(x.l).exp()


def gspo(x: Batch) -> Tensor:
    """Sequence ratio s, clipped by the sequence; the same objective on each of its tokens."""
    return ppo(sequence_ratio(x).expand_as(x.A), x.A, 1 - 3e-4, 1 + 4e-4)


def gspo_token(x: Batch) -> Tensor:
    """s_t = sg(s)·π/sg(π), clipped with the token's own A."""
    s = sg(sequence_ratio(x)) * (x.logp - sg(x.logp)).exp()
    return ppo(s, x.A, 1 - 3e-4, 1 + 4e-4)


def likelihood(weight: Callable[[Batch], Tensor]) -> Callable[[Batch], Tensor]:
    return lambda x: sg(weight(x)) * x.A * x.logp


def product(x: Batch) -> Tensor:
    return (x.l * x.mask).sum(1, keepdim=True).exp()


def band(value: Tensor, low: float, high: float) -> Tensor:
    return torch.where((value < low) | (value > high), 0.0, value)


def decoupled(bounded: Callable[[Tensor], Tensor]) -> Callable[[Batch], Tensor]:
    def objective(x: Batch) -> Tensor:
        w = bounded((x.proximal - x.behaviour).exp())
        return w * ppo((x.logp - x.proximal).exp(), x.A, 0.8, 1.2)

    return objective


def interpolated(x: Batch) -> Tensor:
    share = (1 - 1 / x.staleness.double()).clamp(min=0)[:, None]
    proximal = sg(x.behaviour + share * x.l)
    w = (proximal - x.behaviour).exp()
    return torch.where(w > 5, 0.0, w) * ppo((x.logp - proximal).exp(), x.A, 0.8, 1.2)


def sapo(x: Batch) -> Tensor:
    tau = torch.where(x.A > 0, x.A.new_tensor(1.0), x.A.new_tensor(1.05))
    return 4 / tau * torch.sigmoid(tau * (x.r - 1)) * x.A


def dppo_mask(x: Batch) -> Tensor:
    moved = sg(x.logp.exp() - x.behaviour.exp())
    return ~(((x.A > 0) & (moved > 0.2)) | ((x.A <= 0) & (moved < -0.2)))


def gppo(x: Batch) -> Tensor:
    high, low = (x.A > 0) & (x.r > 1.28), (x.A < 0) & (x.r < 0.8)
    held = x.r / sg(x.r)
    return torch.where(high, 1.28 * held, torch.where(low, 0.8 * held, x.r)) * x.A


def bapo_bounds(x: Batch, p: Tensor, target: float = 0.4) -> tuple[float, float]:
    """The paper's walk, step by step; hundredths counted in integers."""
    low, high = 60, 120
    r, A = sg(x.r)[x.mask], x.A[x.mask]
    p = p[x.mask]

    def share() -> float:
        good = (p * A * r.clamp(max=high / 100))[A > 0].sum()
        bad = (p * A.abs() * r.clamp(min=low / 100))[A < 0].sum()
        return float(good / (good + bad)) if good + bad > 0 else math.inf

    while share() < target and low + 2 <= 90:
        if high + 5 <= 300:
            high += 5
        else:
            low += 2
    return low / 100, high / 100


def bapo(p: Callable[[Batch], Tensor]) -> Callable[[Batch], Tensor]:
    return lambda x: ppo(x.r, x.A, *bapo_bounds(x, p(x)))


def opsm(x: Batch) -> Tensor:
    masked = (x.A < 0) & (x.row_mean(sg(-x.l)) > 0.05)
    return torch.where(masked, 0.0, ppo(x.r, x.A, 0.8, 1.2))


def penalty(x: Batch) -> Tensor:
    return x.r * x.A * dppo_mask(x) - 1e-3 * x.l.square()


def mismatch(bounded: Callable[[Tensor], Tensor]) -> Callable[[Batch], Tensor]:
    return lambda x: bounded((x.behaviour - x.engine).exp()) * ppo(x.r, x.A, 0.8, 1.2)


def naive_paper(values: list[float], tau: float) -> float:
    """Algorithm 1 as a loop, equal values together: the largest that stays, −1 if none does."""
    left = sorted(values)
    while left and math.fsum(left) / len(left) > tau:
        largest = left[-1]
        left = [value for value in left if value < largest]
    return left[-1] if left else -1.0


def naive_areal(values: list[float], tau: float) -> float:
    left = sorted(values)
    while left and not math.fsum(left) / len(left) < tau:
        largest = left[-1]
        left = [value for value in left if value < largest]
    return left[-1] if left else min(values, default=-1.0)


def naive_released(values: list[float], tau: float) -> float:
    """The definition, not the search: the data value under the first whose winsorised mean reaches τ."""
    if not values or math.fsum(values) / len(values) <= tau + 1e-12:
        return math.inf
    ordered = sorted(values)
    for k, cap in enumerate(ordered):
        if math.fsum(min(value, cap) for value in ordered) >= len(ordered) * tau:
            return ordered[k - 1] if k else 0.0
    return math.inf


def naive_all_tokens(values: list[float], rest: list[float], tau: float) -> float:
    """−1 if even the whole trust region is not enough, 0 if all of it has to fall."""
    left = sorted(values)

    def mean() -> float:
        return math.fsum([*left, *rest]) / max(1, len(left) + len(rest))

    while left and not mean() < tau:
        largest = left[-1]
        left = [value for value in left if value < largest]
    if left:
        return left[-1]
    return 0.0 if mean() < tau else (-1.0 if values or rest else 0.0)


def trust_region(x: Batch) -> Tensor:
    return x.mask & (((x.A > 0) & (x.l > 0)) | ((x.A < 0) & (x.l < 0)))


def m2po(variant: str, tau: float) -> Callable[[Batch], Tensor]:
    def objective(x: Batch) -> Tensor:
        m2, T = sg(x.l).square(), trust_region(x)
        if variant == "paper":
            cap = naive_paper(m2[T].tolist(), tau)
        else:
            cap = naive_all_tokens(m2[T].tolist(), m2[x.mask & ~T].tolist(), tau)
        return torch.where(T & (m2 > cap), 0.0, x.r * x.A)

    return objective


def m2po_released(tau: float, mini_low: float = 0.0, mini_high: float = 0.0) -> Callable[[Batch], Tensor]:
    def objective(x: Batch) -> Tensor:
        m2, T = sg(x.l).square(), trust_region(x)
        cap = naive_released(m2[T].tolist(), tau)
        # A clip just above the cap keeps the token at the cap, as the rule says.
        reach = math.sqrt(cap) * (1 + 1e-12) if math.isfinite(cap) else 50.0
        low, high = min(math.exp(-reach), 1 - mini_low), max(math.exp(reach), 1 + mini_high)
        return ppo(x.r, x.A, low, high)

    return objective


def areal_mask(tau: float) -> Callable[[Batch], Tensor]:
    def counted(x: Batch) -> Tensor:
        m2 = (x.proximal - x.behaviour).square()
        return x.mask & (m2 <= naive_areal(m2[x.mask].tolist(), tau))

    return counted


def m2po_areal(tau: float) -> Callable[[Batch], Tensor]:
    base = decoupled(lambda w: torch.where(w > 5, 0.0, w))
    return lambda x: torch.where(areal_mask(tau)(x), base(x), 0.0)


def naive_proximal(x: Batch) -> Tensor:
    return ppo((x.logp - x.proximal).exp(), x.A, 0.8, 1.2)


def sequence_truncated(x: Batch) -> Tensor:
    w = ((x.proximal - x.behaviour) * x.mask).sum(1, keepdim=True).exp().clamp(max=2)
    return w * naive_proximal(x)


def proximal_gspo(x: Batch) -> Tensor:
    s = x.row_mean(x.logp - x.proximal).exp()
    return ppo(s.expand_as(x.A), x.A, 1 - 3e-4, 1 + 4e-4)


def proximal_dro(x: Batch) -> Tensor:
    w = (x.proximal - x.behaviour).exp().clamp(max=2)
    return w * (x.A * x.logp - 0.05 * (x.logp - x.proximal).square())


def kimi(x: Batch) -> Tensor:
    total = (x.l * x.mask).sum(1, keepdim=True)
    return x.A * x.logp - 0.05 * total.square() / x.mask.sum(1, keepdim=True)


def k3(log_ratio: Tensor) -> Tensor:
    return log_ratio.exp() - 1 - log_ratio


def binary_kl(p: Tensor, q: Tensor) -> Tensor:
    return p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()


def kpop(x: Batch) -> Tensor:
    p, q = (value.exp().clamp(1e-8, 1 - 1e-8) for value in (sg(x.logp), x.behaviour))
    return torch.max(binary_kl(p, q), binary_kl(q, p)) <= 0.02


def row_max(x: Batch, values: Tensor) -> Tensor:
    return values.masked_fill(~x.mask, -math.inf).amax(1, keepdim=True)


def row_sum(x: Batch, values: Tensor) -> Tensor:
    return (values * x.mask).sum(1, keepdim=True)


def inside(value: Tensor, low: float, high: float) -> Tensor:
    return (low <= value) & (value <= high)


def rejecting(accepted: Callable[[Batch], Tensor], base: Callable[[Batch], Tensor]) -> Callable[[Batch], Tensor]:
    """The base on what is left: a mask that is smaller, as in verl."""

    def objective(x: Batch) -> Tensor:
        left = x.mask & accepted(x)
        return torch.where(left, base(replace(x, mask=left)), 0.0)

    return objective


def geometric(x: Batch) -> Tensor:
    return inside(x.row_mean(sg(x.l)).exp(), 0.98, 1.02)


def proximal_geometric(x: Batch) -> Tensor:
    return inside(x.row_mean(x.proximal - x.behaviour).exp(), 0.98, 1.02)


def vespo(x: Batch) -> Tensor:
    W = product(x)
    good, bad = (3 - 3 * W).exp() * W**2, (2 - 2 * W).exp() * W**3
    return torch.where(x.A >= 0, good, bad)


def gmpo(x: Batch) -> Tensor:
    """The paper's form, min of signed logarithms."""
    sign = x.A.sign()
    clamped = x.l.clamp(-0.4, 0.4)
    held = sign * torch.min(sign * x.l, sign * clamped)
    return (x.row_mean(held).exp() * x.A).expand_as(x.A)


def dppo_kl(x: Batch) -> Tensor:
    """verl's masks."""
    p, q = sg(x.logp).exp(), x.behaviour.exp()
    kl = q * (q / p).log() + (1 - q) * ((1 - q + 1e-8) / (1 - p + 1e-8)).log()
    good, bad = (kl <= 0.05) | (p <= q), (kl <= 0.05) | (p >= q)
    return x.r * x.A * torch.where(x.A > 0, good, bad)


def ipo(x: Batch) -> Tensor:
    return x.r * x.A * ((sg(x.logp).exp() - x.behaviour.exp()).abs() <= 0.1)


def bapo_code_bounds(x: Batch, target: float) -> tuple[float, float]:
    """The authors' walk: the lower bound first."""
    low, high, r, A = 60, 120, sg(x.r)[x.mask], x.A[x.mask]

    def share() -> float:
        good, bad = (A * r.clamp(max=high / 100))[A > 0].sum(), (A.abs() * r.clamp(min=low / 100))[A < 0].sum()
        return float(good / (good + bad)) if good + bad > 0 else math.inf

    while share() < target and low < 90:
        low += 2
    while share() < target and high < 300:
        high += 5
    return low / 100, high / 100


def bapo_code(x: Batch) -> Tensor:
    return dual(ppo(x.r, x.A, *bapo_code_bounds(x, 0.6)), x.A, 1.5)


def normalised(x: Batch) -> Tensor:
    return x.r / x.r[x.mask].mean()


def normalised_sequences(x: Batch) -> Tensor:
    capped = product(x).clamp(max=2)
    return (capped / capped.mean()).expand_as(x.A)


def prefix(x: Batch) -> Tensor:
    return (x.l * x.mask).cumsum(1)


E_ = math.exp
LN2, LN3 = math.log(2), math.log(3)
CASES = [
    Case("no_trust_region", lambda x: x.r * x.A, [Hand([LN2, -LN2, 0.0], [1], [2, 0.5, 1])]),
    Case(
        "grpo",
        lambda x: ppo(x.r, x.A, 0.8, 1.2),
        [
            Hand([LN2, -LN2, 0.1, 0.0], [1], [0, 0.5, E_(0.1), 1]),
            Hand([LN2, -LN2, 0.1, 0.0], [-1], [2, 0, E_(0.1), 1]),
            Hand([LN2, -LN2], [0], [2, 0.5]),
        ],
    ),
    Case(
        "grpo",
        lambda x: dual(ppo(x.r, x.A, 0.8, 1.28), x.A, 2.5),
        [Hand([math.log(1.25), LN3], [1], [1.25, 0]), Hand([LN2, LN3, -LN2], [-1], [2, 0, 0])],
        {"epsilon_high": 0.28, "dual_clip": 2.5},
    ),
    Case(
        "gspo",
        gspo,
        [
            Hand([2e-4, 0.0], [1], [E_(1e-4)] * 2),
            Hand([0.002, 0.0], [1], [0, 0]),
            Hand([0.002, 0.0], [-1], [E_(0.001)] * 2),
            Hand([-0.002, 0.0], [-1], [0, 0]),
        ],
    ),
    Case("gspo_token", gspo_token, [Hand([0.002, 0.0], [1, -1], [0, E_(0.001)])], per_token=True),
    Case("tis", likelihood(lambda x: x.r.clamp(max=2)), [Hand([LN3, -LN2], [-1], [2, 0.5])]),
    Case(
        "tis",
        likelihood(lambda x: product(x).clamp(max=2).expand_as(x.A)),
        [Hand([LN3, -LN2], [1], [1.5, 1.5]), Hand([LN3, LN2], [1], [2, 2])],
        {"level": "sequence"},
    ),
    Case(
        "mis",
        likelihood(lambda x: band(x.r, 0.5, 5)),
        [Hand([LN3, math.log(6), math.log(0.4), LN2], [1], [3, 0, 0, 2])],
    ),
    Case(
        "mis",
        likelihood(lambda x: band(product(x), 0.5, 5).expand_as(x.A)),
        [Hand([LN3, LN3], [1], [0, 0]), Hand([LN3, 0.0], [-1], [3, 3])],
        {"level": "sequence"},
    ),
    Case("cispo", likelihood(lambda x: x.r.clamp(max=1.2)), [Hand([LN2, -LN2], [1], [1.2, 0.5])], {"ratio_cap": 1.2}),
    Case(
        "decoupled",
        decoupled(lambda w: torch.where(w > 5, 0.0, w)),
        # w_b = 2 and 6 (over the cap), then r_p = 1.1, 1.5 (clipped), 1.1.
        [
            Hand(
                [LN2 + math.log(1.1), LN2 + math.log(1.5), math.log(6) + math.log(1.1)],
                [1],
                [2.2, 0, 0],
                proximal=[LN2, LN2, math.log(6)],
            )
        ],
    ),
    Case(
        "decoupled",
        decoupled(lambda w: w.clamp(max=2)),
        [Hand([LN3 + math.log(1.1), LN3 + 1], [1], [2.2, 0], proximal=[LN3, LN3])],
        {"mode": "truncate"},
    ),
    Case(
        "decoupled",
        decoupled(lambda w: band(w, 0.5, 5)),
        [Hand([math.log(0.4), LN3], [1], [0, 3], proximal=[math.log(0.4), LN3])],
        {"mode": "band"},
    ),
    Case("decoupled", interpolated, [Hand([2 * math.log(1.1)], [1], [1.21])], {"proximal": "interpolated"}),
    Case(
        "topr",
        likelihood(lambda x: torch.where(x.A >= 0, 1.0, product(x).clamp(0, 1))),
        [
            Hand([LN3, -LN2], [1], [1, 1]),
            Hand([LN3, -LN2], [-1], [1, 1]),
            Hand([-LN3, LN2], [-1], [2 / 3, 2 / 3]),
            Hand([-LN3], [0], [1]),
        ],
    ),
    Case(
        "sapo",
        sapo,
        [Hand([0.0, LN2], [1], [1, 8 * E_(1) / (1 + E_(1)) ** 2]), Hand([0.0], [-1], [1])],
    ),
    Case(
        "dppo",
        lambda x: x.r * x.A * dppo_mask(x),
        # π_behav = 0.2: 0.45 moved by 0.25 (falls), 0.3 by 0.1; from 0.5 down to 0.25.
        [
            Hand([math.log(0.45 / 0.2), math.log(1.5)], [1], [0, 1.5], behaviour=math.log(0.2)),
            Hand([math.log(0.5), LN2], [-1], [0, 2], behaviour=math.log(0.5)),
            Hand([math.log(0.5), LN2], [0], [0, 2], behaviour=math.log(0.5)),
        ],
    ),
    Case(
        "gppo",
        gppo,
        [Hand([LN2, -LN2, 0.1], [1], [1.28, 0.5, E_(0.1)]), Hand([LN2, -LN2], [-1], [2, 0.8])],
    ),
    Case(
        "bapo",
        bapo(lambda x: x.behaviour.exp()),
        # P + Q with one sign only: ρ = 1 needs no step; c_high = 1.2 clips r = 2.
        [Hand([LN2, 0.1], [1], [0, E_(0.1)])],
    ),
    Case("bapo", bapo(lambda x: torch.ones_like(x.A)), [Hand([LN2, 0.1], [1], [0, E_(0.1)])], {"p": "one"}),
    Case(
        "opsm",
        opsm,
        [
            Hand([-0.2, 0.0], [-1], [0, 0]),
            Hand([-0.08, 0.0], [-1], [E_(-0.08), 1]),
            Hand([-0.15, 0.0], [1], [E_(-0.15), 1]),
        ],
        {"delta": 0.05},
    ),
    Case(
        "m2_penalty",
        penalty,
        [Hand([LN2, 0.5], [1], [2, E_(0.5)], offsets=[-2e-3 * LN2, -1e-3])],
    ),
    Case(
        "engine_mismatch",
        mismatch(lambda w: w.clamp(max=2)),
        # engine log-prob below the trainer's by LN3: factor 3, capped at 2; r = 1.1.
        [Hand([math.log(1.1)] * 2, [1], [2.2, 1.1], engine=[-LN3, 0.0])],
    ),
    Case(
        "engine_mismatch",
        mismatch(lambda w: band(w, 0.5, 5)),
        [Hand([math.log(1.1)] * 2, [1], [0, 3.3], engine=[-math.log(6), -LN3])],
        {"how": "band"},
    ),
    Case(
        "m2po",
        m2po("paper", 0.04),
        # M2 of T: .01, .04, .09; prefix means .01, .025, .0467. l < 0 is harmless where A > 0.
        [
            Hand([0.1, 0.2 - 1e-9, 0.3, -2.0], [1], [E_(0.1), E_(0.2 - 1e-9), 0, E_(-2)]),
            Hand([-0.1, -0.3, 2.0], [-1], [E_(-0.1), 0, E_(2)]),
        ],
    ),
    Case(
        "m2po",
        m2po_released(0.04),
        # Winsorised sums of .01, .04, .09 against .12: .03, .09, .14, so the cap is .04.
        [Hand([0.1, 0.2, 0.3, -2.0], [1], [E_(0.1), E_(0.2), 0, E_(-2)])],
        {"variant": "released"},
    ),
    Case(
        "m2po",
        m2po_released(0.01, 0.15, 0.2),
        # cap 0 here: without the floor 1.2 all three would fall.
        [Hand([0.11, 0.12, 0.3], [1], [E_(0.11), E_(0.12), 0])],
        {"variant": "released", "m2_threshold": 0.01, "miniclip_low": 0.15, "miniclip_high": 0.2},
    ),
    Case(
        "m2po",
        m2po("all_tokens_mean", 0.04),
        # (.09 + .04 + 0)/3 = .0433; without .09: .02.
        [Hand([0.3, 0.2, 0.0], [1], [0, E_(0.2), 1]), Hand([0.3, -3.0], [1], [0, E_(-3)])],
        {"variant": "all_tokens_mean"},
    ),
    Case(
        "m2po",
        m2po_areal(0.04),
        # M2 of π_prox/π_behav: .01, .09 → mean .05: the second falls, whatever the sign of A.
        [Hand([0.1, -0.3], [1], [E_(0.1), 0], proximal=[0.1, -0.3])],
        {"variant": "areal"},
        counted=areal_mask(0.04),
    ),
    Case("reinforce", lambda x: x.A * x.logp, [Hand([LN3, -LN2], [-1], [1, 1])]),
    Case(
        "reinforce",
        lambda x: x.A * x.logp - 0.05 * x.l.square(),
        [Hand([LN3, -LN2], [-1], [1, 1], offsets=[-0.1 * LN3, 0.1 * LN2])],
        {"beta": 0.1},
    ),
    Case(
        "reinforce",
        kimi,
        [Hand([LN3, -LN2], [1], [1, 1], offsets=[-0.1 * math.log(1.5)] * 2)],
        {"beta": 0.1, "level": "sequence"},
    ),
    Case(
        "decoupled",
        naive_proximal,
        # w_b = 2 plays no part.
        [Hand([LN2 + math.log(1.1), LN2 + math.log(1.5)], [1], [1.1, 0], proximal=[LN2, LN2])],
        {"mode": "none"},
    ),
    Case(
        "decoupled",
        sequence_truncated,
        # w_b: 3·(1/2) = 1.5 on both, then 3·2 = 6, held at 2.
        [
            Hand([LN3, math.log(0.55)], [1], [1.5, 1.65], proximal=[LN3, -LN2]),
            Hand([LN3, LN2], [-1], [2, 2], proximal=[LN3, LN2]),
        ],
        {"mode": "truncate", "level": "sequence"},
    ),
    Case(
        "decoupled",
        proximal_gspo,
        [Hand([LN2 + 2e-4, LN2], [1], [E_(1e-4)] * 2, proximal=[LN2, LN2])],
        {"mode": "none", "base": "gspo"},
    ),
    Case(
        "decoupled",
        proximal_dro,
        [Hand([LN2 + 0.3, 2.0], [1], [2, 2], proximal=[LN2, 1.0], offsets=[-0.06, -0.2])],
        {"mode": "truncate", "base": "reinforce", "base_parameters": {"beta": 0.1}},
    ),
    Case(
        "reject",
        rejecting(geometric, lambda x: ppo(x.r, x.A, 0.8, 1.2)),
        [Hand([0.03, 0.0], [1], [E_(0.03), 1]), Hand([0.05, 0.0], [-1], [0, 0])],
        {"level": "seq_mean", "ratio_low": 0.98, "ratio_high": 1.02},
    ),
    Case(
        "reject",
        rejecting(lambda x: inside(sg(x.r), 0.9, 1.1), gspo),
        # The base sees the tokens that are left: s is that of the first alone.
        [Hand([2e-4, LN2], [1], [E_(2e-4), 0])],
        {"level": "token", "base": "gspo", "ratio_low": 0.9, "ratio_high": 1.1},
    ),
    Case(
        "reject",
        rejecting(lambda x: inside(product(x).detach(), 0.5, 2), lambda x: x.A * x.logp),
        [Hand([LN3, -LN2], [1], [1, 1]), Hand([-LN2, -LN2], [1], [0, 0])],
        {"base": "reinforce"},
    ),
    Case(
        "reject",
        rejecting(lambda x: row_max(x, sg(x.l).square() / 2) <= 0.02, lambda x: x.r * x.A),
        [Hand([0.1, 0.15], [1], [E_(0.1), E_(0.15)]), Hand([0.1, -0.3], [1], [0, 0])],
        {"metric": "k2", "level": "seq_max", "base": "no_trust_region", "limit": 0.02},
    ),
    Case(
        "reject",
        rejecting(lambda x: row_sum(x, k3(sg(x.l))) <= 0.1, lambda x: x.r * x.A),
        # k3 of ln 2: 1 − ln 2 = .307; of .1: .0052.
        [Hand([LN2, 0.0], [1], [0, 0]), Hand([0.1, 0.0], [1], [E_(0.1), 1])],
        {"metric": "k3", "level": "seq_sum", "base": "no_trust_region", "limit": 0.1},
    ),
    Case(
        "reject",
        rejecting(kpop, lambda x: x.r * x.A),
        # p .6, q .5: KL(p‖q) = .0201, KL(q‖p) = .0204; p .55: .005.
        [Hand([math.log(1.2), math.log(1.1)], [1], [0, 1.1], behaviour=-LN2)],
        {"metric": "kl", "level": "token", "base": "no_trust_region", "limit": 0.02},
    ),
    Case(
        "reject",
        rejecting(proximal_geometric, naive_proximal),
        [Hand([0.1, 0.0], [1], [E_(0.1), 1], proximal=[0.0, 0.0]), Hand([0.1, 0.0], [1], [0, 0], proximal=[0.1, 0.0])],
        {
            "level": "seq_mean",
            "ratio_low": 0.98,
            "ratio_high": 1.02,
            "policy": "proximal",
            "denominator": "kept",
            "base": "decoupled",
            "base_parameters": {"mode": "none"},
        },
        counted=lambda x: x.mask & proximal_geometric(x),
    ),
    Case(
        "vespo",
        likelihood(lambda x: vespo(x).expand_as(x.A)),
        [
            Hand([LN3, -LN2], [1], [E_(-1.5) * 2.25] * 2),
            Hand([LN3, -LN2], [-1], [E_(-1) * 1.5**3] * 2),
            Hand([0.0], [0], [1]),
        ],
    ),
    Case(
        "gmpo",
        gmpo,
        # A > 0: only .6 is clipped, to .4; the mean of (.4, −.6) is −.1.
        [Hand([0.6, -0.6], [1], [0, E_(-0.1)]), Hand([0.6, -0.6], [-1], [E_(0.1), 0])],
    ),
    Case(
        "dppo",
        dppo_kl,
        # From .5: to .7 the KL is .0872, to .6 .0204; down to .3 .0872.
        [
            Hand([math.log(1.4), math.log(1.2), math.log(0.6)], [1], [0, 1.2, 0.6], behaviour=-LN2),
            Hand([math.log(1.4), math.log(1.2), math.log(0.6)], [-1], [1.4, 1.2, 0], behaviour=-LN2),
        ],
        {"divergence": "kl"},
    ),
    Case(
        "dppo",
        ipo,
        [Hand([math.log(1.25), math.log(1.15), -LN2], [1], [0, 1.15, 0], behaviour=-LN2)],
        {"symmetric": True, "delta_low": 0.1, "delta_high": 0.1},
    ),
    Case(
        "gppo",
        lambda x: dual(gppo(x), x.A, 1.5),
        [Hand([LN2, -LN2, 0.1], [-1], [0, 0.8, E_(0.1)]), Hand([LN2], [1], [1.28])],
        {"dual_clip": 1.5},
    ),
    Case(
        "bapo",
        bapo_code,
        # ρ = 1, no step: c_high = 1.2. With A < 0 only, ρ = 0: both bounds run to their ends, 0.9 and 3.
        [Hand([LN2, 0.1], [1], [0, E_(0.1)]), Hand([-0.2, 0.1, LN2], [-1], [0, E_(0.1), 0])],
        {"order": "code", "p": "one", "positive_share": 0.6, "dual_clip": 1.5},
    ),
    Case(
        "topr",
        likelihood(lambda x: torch.where(x.A >= 0, 1.0, x.r.clamp(0, 1))),
        [Hand([LN3, -LN2], [1], [1, 1]), Hand([LN3, -LN2], [-1], [1, 0.5])],
        {"level": "token"},
    ),
    Case("snis", likelihood(normalised), [Hand([LN3, 0.0], [1], [1.5, 0.5])]),
    Case(
        "snis",
        likelihood(normalised_sequences),
        [Hand([LN3, LN2], [1], [1, 1])],
        {"level": "sequence", "ratio_cap": 2.0},
    ),
    Case(
        "per_decision",
        likelihood(lambda x: prefix(x).exp()),
        [Hand([LN3, -LN2, LN2], [1], [3, 1.5, 3])],
        ordered=True,
    ),
    Case(
        "per_decision",
        likelihood(lambda x: (prefix(x) / x.mask.cumsum(1).clamp(min=1)).exp()),
        [Hand([LN3, -LN2, LN2], [1], [3, 1.5**0.5, 3 ** (1 / 3)])],
        {"reduction": "geometric_mean"},
        ordered=True,
    ),
]


def random_batch(seed: int = 0, rows: int = 12, width: int = 9, per_token: bool = False) -> Batch:
    """Uneven lengths from 1 to `width`; ratios on both sides of every threshold."""
    g = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    behaviour = -2.5 * torch.rand(rows, width, generator=g, dtype=torch.float64) - 0.05
    # Rows drift by very different amounts, so that sequence methods meet both sides too.
    scale = torch.logspace(-4, -0.2, rows, dtype=torch.float64)[:, None]
    log_ratio = scale * noise(rows, width)
    lengths = torch.randint(1, width + 1, (rows, 1), generator=g)
    A = noise(rows, width) if per_token else noise(rows, 1).expand(rows, width).clone()
    return Batch(
        logp=(behaviour + log_ratio).clamp(max=0),
        behaviour=behaviour,
        A=A,
        mask=torch.arange(width) < lengths,
        proximal=behaviour + 0.7 * log_ratio + 0.02 * noise(rows, width),
        engine=behaviour + 0.5 * noise(rows, width),
        staleness=torch.randint(1, 9, (rows,), generator=g),
    )
