"""What to expect of a run: seconds a step, who waits for whom, and how stale its rollouts will be."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from statistics import mean

from harness import build
from harness.command.capacity.rates import Rates
from harness.command.capacity.virtual_time import Pauses, Seconds, Workers, simulate
from harness.config import Config
from harness.lag.policy import Order

LONGEST = 400  # batches looked at once the queue may be full
LEAST_SPREAD = 0.05
SEED = 1  # of the durations: the seeds of a run make no difference to its plan
DEPENDS_ON = ("driver", "lag", "staleness", "updates", "updates_per_step", "checkpoint_every")
_seen: dict[str, Outlook] = {}


@dataclass(frozen=True)
class Outlook:
    """What virtual time says.

    step_s: seconds of a rollout batch, pauses for evaluation and checkpoints included.
    run_s: of the whole run.
    learner_waits: share of the time in which no update is made: for rollouts, evaluations, checkpoints.
    engines_idle: share of the engines' time.
    staleness: mean over all updates; low and high: between which nine in ten of them are.
    unhindered: the smallest staleness at which the learner would not wait for a chunk that has just begun.
    """

    step_s: float
    run_s: float
    learner_waits: float
    engines_idle: float
    staleness: float
    low: int
    high: int
    unhindered: int


def engines(config: Config) -> int:
    """How many work at once."""
    return config.ray.actors if config.driver == "ray" else 1


def outlook(config: Config, rates: Rates) -> Outlook:
    """Runs the config in virtual time; the cells of a sweep that differ in seed or method alone are run once.

    config: of a run whose staleness policy needs no record of another run.
    """
    parts = [getattr(config, name) for name in DEPENDS_ON]
    asked = repr((parts, config.ray.actors, config.rollout.chunks, config.eval.every, rates))
    if asked not in _seen:
        _seen[asked] = _in_turns(config, rates) if config.driver == "serial" else _at_once(config, rates)
    return _seen[asked]


def _at_once(config: Config, rates: Rates) -> Outlook:
    """driver=overlapped and ray: the engines generate while the learner learns."""
    rng, per_step = random.Random(SEED), config.updates_per_step
    workers = Workers(engines(config), _drawn(rng, rates.chunk, rates.spread))
    update = _drawn(rng, rates.update, rates.spread)
    pauses = Pauses(
        publish_s=rates.publish,
        every=config.eval.every,
        sampling_s=rates.evaluation_sampling,
        grading_s=rates.evaluation_grading,
        checkpoint_every=config.checkpoint_every,
        checkpoint_s=rates.checkpoint,
    )
    policy = build.staleness_policy(config)
    batches = min(config.batches, LONGEST + 4 * policy.lag_steps)
    steps = list(simulate(policy, workers, update, batches=batches, chunks=config.rollout.chunks, pauses=pauses))
    ages = sorted(
        step.version + number - chunk.version
        for step in steps
        for chunk in step.batch.chunks
        for number in range(per_step)
    )
    return Outlook(
        step_s=workers.now / batches,
        run_s=workers.now / batches * config.batches,
        learner_waits=max(0.0, 1 - batches * per_step * rates.update / workers.now),
        engines_idle=max(0.0, 1 - workers.busy_s / workers.now / workers.count),
        staleness=mean(ages),
        low=ages[len(ages) // 20],
        high=ages[-1 - len(ages) // 20],
        unhindered=per_step - 1 + per_step * math.ceil(rates.chunk / (rates.update * per_step)),
    )


def can_be_simulated(config: Config) -> bool:
    """Whether the run's virtual time is known: batches of whole chunks in no recorded order, or driver=serial."""
    orders = (Order.SUBMITTED, Order.FINISHED, *([Order.MIXED] if config.driver == "serial" else []))
    return config.mode == "train" and build.staleness_policy(config).order in orders


def _in_turns(config: Config, rates: Rates) -> Outlook:
    """driver=serial: first all chunks, then all updates."""
    generating, learning = rates.chunk * config.rollout.chunks, rates.update * config.updates_per_step
    evaluations = config.updates / config.eval.every * (rates.evaluation_sampling + rates.evaluation_grading)
    checkpoints = config.updates / config.checkpoint_every * rates.checkpoint
    step = generating + learning + rates.publish + (evaluations + checkpoints) / config.batches
    stale, last = build.staleness_policy(config).staleness, config.updates_per_step - 1
    waits, idle = 1 - learning / step, 1 - generating / step
    return Outlook(step, step * config.batches, waits, idle, stale + last / 2, stale, stale + last, last)


def _drawn(rng: random.Random, seconds: float, spread: float) -> Seconds:
    """Durations of a mean and a spread, gamma-distributed."""
    shape = max(spread, LEAST_SPREAD) ** -2
    return lambda: rng.gammavariate(shape, seconds / shape)
