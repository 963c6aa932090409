"""The exact twin: a task so small that every response can be enumerated, so that no number has sampling noise.

A tabular policy writes 4 symbols of an alphabet of 4; a tenth of the 256 responses is right. It is trained with its
true gradient. On data sampled s updates earlier, the expectation, bias and variance of every method's update are then
known exactly and can be held against the true policy gradient of the current policy. `python -m harness.twin` prints
them.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

import algorithms
from algorithms import Algorithm, TokenStats
from algorithms.aggregation import row_scale
from algorithms.weighted_loss import coefficients

SYMBOLS, LENGTH = 4, 4
RIGHT = 0.1  # share of the responses that are right
UPDATES, CURRENT, LR = 200, 200, 0.006
PROXIMAL = 3  # updates between the start of the step and the current policy, as in the last of four updates
LARGE = 100_000  # responses of the large-batch limit
BATCH, BATCHES = 128, 400  # responses of a mini-batch, and mini-batches sampled
STALENESS = (0, 16, 64, 192)


@dataclass(frozen=True)
class Twin:
    """The enumerated task and its training.

    responses: [K,L] int, every response.
    prefixes: [K,L] int, the row of the policy's table that each token is drawn from.
    rewards: [K] float64, 0 or 1.
    policies: tables of logits, [prefixes,SYMBOLS] float64, after 0, 1, … updates.
    """

    responses: Tensor
    prefixes: Tensor
    rewards: Tensor
    policies: Sequence[Tensor]

    def log_probs(self, policy: Tensor) -> Tensor:
        """Log-prob of every token of every response under a table, [K,L], nats."""
        return torch.log_softmax(policy, 1)[self.prefixes, self.responses]

    def probabilities(self, policy: Tensor) -> Tensor:
        """Probability of every response, [K]."""
        return self.log_probs(policy).sum(1).exp()

    def value(self, policy: Tensor) -> Tensor:
        """Expected reward, 0-d."""
        return (self.probabilities(policy) * self.rewards).sum()

    def true_gradient(self, policy: Tensor) -> Tensor:
        """∂ value / ∂ logits, [P], P the entries of the table."""
        logits = policy.clone().requires_grad_()
        return torch.autograd.grad(self.value(logits), logits)[0].flatten()

    def token_gradients(self, policy: Tensor) -> Tensor:
        """∂ log-prob / ∂ logits of every token, [K,L,P]: one-hot minus softmax, in the row of its prefix."""
        table = torch.zeros(*self.prefixes.shape, *policy.shape, dtype=policy.dtype)
        k, t = torch.meshgrid(*(torch.arange(n) for n in self.prefixes.shape), indexing="ij")
        table[k, t, self.prefixes] = -torch.softmax(policy, 1)[self.prefixes]
        table[k, t, self.prefixes, self.responses] += 1
        return table.flatten(2)

    def stats(self, staleness: int, rows: Tensor) -> TokenStats:
        """What a method sees of some responses (int [n]) that were sampled `staleness` updates before CURRENT.

        The advantage is the reward minus its expectation under the policy that sampled.
        """
        now, behaviour = self.policies[CURRENT], self.policies[CURRENT - staleness]
        proximal = self.policies[CURRENT - min(staleness, PROXIMAL)]
        log_probs = torch.log_softmax(now, 1)
        entropy = -(log_probs.exp() * log_probs).sum(1)[self.prefixes]
        sampled = self.log_probs(behaviour)[rows]
        return TokenStats(
            logp_current=self.log_probs(now)[rows],
            logp_behaviour=sampled,
            advantages=(self.rewards - self.value(behaviour))[rows],
            mask=torch.ones(len(rows), LENGTH, dtype=torch.bool),
            logp_proximal=self.log_probs(proximal)[rows],
            logp_engine=sampled,
            staleness=torch.full((len(rows),), staleness),
            entropy=entropy[rows],
            group=torch.zeros(len(rows), dtype=torch.int64),
        )


def twin(seed: int = 3) -> Twin:
    """The task with a random tenth of its responses right, trained from a random table by Adam on its true gradient."""
    generator = torch.Generator().manual_seed(seed)
    responses = torch.tensor(list(itertools.product(range(SYMBOLS), repeat=LENGTH)))
    place = SYMBOLS ** torch.arange(LENGTH)
    prefixes = torch.stack(
        [sum(place[:t]) + (responses[:, :t] * place[:t]).sum(1) for t in range(LENGTH)], dim=1
    )  # the tables of lengths 0, 1, … one after the other
    rewards = (torch.rand(len(responses), dtype=torch.float64, generator=generator) < RIGHT).double()
    start = torch.randn(int(place.sum()), SYMBOLS, dtype=torch.float64, generator=generator)
    made = Twin(responses, prefixes, rewards, [])
    return Twin(responses, prefixes, rewards, list(_trained(made, start)))


def _trained(task: Twin, start: Tensor) -> Iterator[Tensor]:
    """The table before every update of gradient ascent on the value, and after the last."""
    logits = start.requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=LR, maximize=True)
    for _ in range(UPDATES + 1):
        yield logits.detach().clone()
        optimizer.zero_grad()
        task.value(logits).backward()
        optimizer.step()


# What a method's update is ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Expected:
    """A method's expected update against the true gradient g*, on data of one staleness.

    cosine: of the expected update with g*.
    norm_ratio: its norm ÷ that of g*.
    bias: ‖expected update − g*‖ ÷ ‖g*‖.
    noise: standard deviation of the update of BATCH responses ÷ ‖g*‖.
    batch_bias, error: for a method of batch scope, the bias of its update on BATCH responses and its standard error;
        the figures above are then those of the large-batch limit. None: it has no other than these.
    """

    cosine: float
    norm_ratio: float
    bias: float
    noise: float
    batch_bias: float | None = None
    error: float | None = None


def expected(task: Twin, method: Algorithm, staleness: int) -> Expected:
    """The figures of one method. Exact where its weights need no more than a sequence, else as `Expected` says."""
    truth = task.true_gradient(task.policies[CURRENT])
    tokens = task.token_gradients(task.policies[CURRENT])
    mu = task.probabilities(task.policies[CURRENT - staleness])
    everything = torch.arange(len(mu))
    if method.scope != "batch" and bool(method.weights(task.stats(staleness, everything)).counted.all()):
        single = torch.einsum("kt,ktp->kp", _per_response(task, method, staleness, everything), tokens)
        mean = mu @ single
        variance = float(mu @ single.square().sum(1) - mean.square().sum())
        return Expected(*_against(mean, truth), noise=math.sqrt(max(variance, 0.0) / BATCH) / float(truth.norm()))

    def update(rows: Tensor) -> Tensor:
        weight = torch.zeros(len(mu), LENGTH, dtype=mu.dtype)
        weight.index_add_(0, rows, _per_response(task, method, staleness, rows) / len(rows))
        return torch.einsum("kt,ktp->p", weight, tokens)

    limit = update(torch.repeat_interleave(everything, (mu * LARGE).round().long()))
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.multinomial(mu, BATCH, replacement=True, generator=generator) for _ in range(BATCHES)]
    updates = torch.stack([update(rows) for rows in drawn])
    deviation = float(updates.var(0).sum().sqrt() / truth.norm())
    batch_bias = float((updates.mean(0) - truth).norm() / truth.norm())
    return Expected(*_against(limit, truth), deviation, batch_bias, deviation / math.sqrt(BATCHES))


def _per_response(task: Twin, method: Algorithm, staleness: int, rows: Tensor) -> Tensor:
    """Coefficients [n,L] of the log-probs, whose mean over the responses is the update: Σ over a response's tokens.

    All responses are equally long, so the aggregations differ by constant factors, which are taken out here.
    """
    stats = task.stats(staleness, rows)
    weights = method.weights(stats)
    aggregation = str(method.aggregation)
    scale = row_scale(weights.counted, aggregation) * len(rows)
    return coefficients(stats, weights, scale * (1 if aggregation == "seq_mean_token_sum" else LENGTH))


def _against(update: Tensor, truth: Tensor) -> tuple[float, float, float]:
    """Cosine, norm ratio and bias of an update with respect to the true gradient."""
    cosine = torch.dot(update, truth) / (update.norm() * truth.norm())
    return float(cosine), float(update.norm() / truth.norm()), float((update - truth).norm() / truth.norm())


# The table ----------------------------------------------------------------------------------------------


def methods() -> dict[str, Algorithm]:
    """Every method with its defaults, and three that need other settings to be seen here."""
    given = {"opsm": {"delta": 0.5}}
    made = {name: algorithms.make(name, **given.get(name, {})) for name in algorithms.names()}
    exact = algorithms.make("tis", level="sequence", ratio_cap=1e6)
    wide = algorithms.make("gspo", epsilon_low=0.2, epsilon_high=0.2)
    naive = algorithms.make("decoupled", mode="none")
    return {
        "exact importance sampling: tis level=sequence ratio_cap=1e6": exact,
        **made,
        "gspo, ε = 0.2": wide,
        "naive proximal: decoupled mode=none": naive,
    }


def table(figures: Callable[[Algorithm, int], Expected]) -> Iterator[str]:
    """The lines of a Markdown table: a row a method, at each staleness cosine, norm ratio and noise."""
    yield "| method | " + " | ".join(f"s = {s}: cos · norm · noise" for s in STALENESS) + " | 128 responses, s = 64 |"
    yield "|---|" + "---|" * (len(STALENESS) + 1)
    for name, method in methods().items():
        found = {s: figures(method, s) for s in STALENESS}
        cells = [f"{e.cosine:.3f} · {e.norm_ratio:.2f} · {e.noise:.2f}" for e in found.values()]
        batch = found[64]
        bias = f"bias {batch.bias:.2f}"
        if batch.batch_bias is not None:
            bias += f" in the limit, {batch.batch_bias:.2f} ± {batch.error:.2f}"
        yield f"| {name} | " + " | ".join(cells) + f" | {bias} |"


def main() -> None:
    """Prints the table."""
    argparse.ArgumentParser(prog="python -m harness.twin", description=__doc__).parse_args()
    task = twin()
    now = task.policies[CURRENT]
    print(
        f"Expected reward {float(task.value(task.policies[0])):.3f} at the start, {float(task.value(now)):.3f} now.\n"
    )
    print("\n".join(table(lambda method, staleness: expected(task, method, staleness))))
