"""`dry_run=true`: what a command would run, where, and what it would cost. Writes nothing, needs no model or data.

`calibrate=true` needs both: it measures this machine first.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from safetensors import safe_open

from harness import build
from harness.command.banner import never_reached
from harness.command.capacity import report as capacity
from harness.command.capacity.calibrate import measured
from harness.command.capacity.memory import beside_bytes, compute_bytes, engine_weight_bytes, mini_batches
from harness.command.capacity.outlook import can_be_simulated
from harness.command.capacity.rates import Rates
from harness.command.output import counted
from harness.command.plan import Plan
from harness.config import Config
from harness.lag.mixture import MixedLag
from harness.lag.partial import PartialLag
from harness.models import footprint
from harness.models.checks import resolve_path
from harness.models.declared import architecture_at_hand
from harness.models.positions import positions
from harness.models.published import shape_at_hand
from harness.tasks.suites import BENCHMARKS

TOKEN_BYTES = 16  # a stored response token: id, two log-probs, version
TASK_SPLITS = 2  # validation and test; their sizes are known only with the data
GUESSED_PROBLEMS = 256  # a split
WIDTH = 100  # columns


def report(plan: Plan) -> str:
    """The lines that dry_run prints; each distinct estimate once."""
    lines = [f"dry run: {counted(len(plan.cells), 'cell')}, nothing is written"]
    groups: dict[tuple[str, ...], list[Config]] = {}
    for cell in plan.cells:
        groups.setdefault(tuple(_describe(sized(cell), rates_of(cell))), []).append(cell)
    for description, cells in groups.items():
        lines += ["", *description]
        for cell in cells:
            lines.append(f"  {cell.label} → {cell.folder}")
    for line in never_reached(plan):
        lines += ["", *textwrap.wrap(line, WIDTH)]
    total = capacity.total([capacity.run_seconds(sized(cell), _answers(cell), rates_of(cell)) for cell in plan.cells])
    if total and plan.is_sweep:
        lines += ["", *textwrap.wrap(f"all cells, one after the other: {total}", WIDTH)]
    return "\n".join(lines)


def refusals(plan: Plan) -> list[str]:
    """What a run of the plan should not be started with, each once."""
    found = (line for cell in plan.cells for line in capacity.refusals(sized(cell), _answers(cell), rates_of(cell)))
    return list(dict.fromkeys(found))


def sized(config: Config) -> Config:
    """The config with prompts no longer than the model's positions allow, where it is at hand, and its task's are.

    A task may know its longest prompt, which counts where no template adds to it.
    """
    rollout = config.rollout
    longest = getattr(build.task(config), "longest_prompt", None) if config.model.template == "plain" else None
    most = positions(architecture_at_hand(resolve_path(config.served_model.path))).most
    room = None if most is None or most <= rollout.max_new_tokens else most - rollout.max_new_tokens
    fitting = min(limit for limit in (rollout.max_prompt_tokens, longest, room) if limit is not None)
    return replace(config, rollout=replace(rollout, max_prompt_tokens=fitting))


def rates_of(config: Config) -> Rates | None:
    """The seconds of this machine, where they are asked for and there is a use for them."""
    return measured(config, _answers(config)) if config.calibrate and can_be_simulated(config) else None


# Estimates -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Estimate:
    """Upper bounds for one cell: every response is taken to be as long as it may be.

    responses: of a rollout batch.
    training_tokens, evaluation_tokens: sampled in the whole run.
    micro_batches: of an update.
    parameters: of the model; None: unknown, then the bytes that depend on it are 0.
    learner_bytes: weights, gradients and AdamW's moments, of each of its ranks.
    ranks: of the learner.
    engine_bytes: weights for generation, beside the learner's.
    queue_bytes: the rollout queue, on the host.
    """

    responses: int
    training_tokens: int
    evaluation_tokens: int
    micro_batches: int
    parameters: float | None
    learner_bytes: float
    ranks: int
    engine_bytes: float
    queue_bytes: float


def estimate(config: Config) -> Estimate:
    """What a run of this config needs at most."""
    rollout, known = config.rollout, parameters(config)
    size = known or 0.0
    responses = rollout.prompts_per_step * rollout.group_size
    step_tokens = responses * rollout.max_new_tokens
    compute = compute_bytes(config)
    return Estimate(
        responses=responses,
        training_tokens=config.batches * step_tokens,
        evaluation_tokens=_evaluations(config) * _answers(config) * rollout.max_new_tokens,
        micro_batches=capacity.micro_batches(config),
        parameters=known,
        learner_bytes=footprint.master_bytes(size, config.ranks) + footprint.cast_bytes(size, compute),
        ranks=config.ranks,
        engine_bytes=engine_weight_bytes(config, size) + beside_bytes(config, size),
        queue_bytes=_queued(config) * step_tokens * TOKEN_BYTES,
    )


def parameters(config: Config) -> float | None:
    """model.parameters, else from the size of the weights where the folder is at hand, else None."""
    if config.model.parameters is not None:
        return config.model.parameters
    folder = Path(resolve_path(config.served_model.path))
    files = list(folder.glob("model*.safetensors")) if folder.is_dir() else []
    return sum(_stored_numbers(file) for file in files) if files else None


def _stored_numbers(file: Path) -> int:
    with safe_open(file, framework="numpy") as tensors:
        names = tensors.keys()
        return sum(math.prod(tensors.get_slice(name).get_shape()) for name in names)


def _evaluations(config: Config) -> int:
    """How often the run evaluates: at the start, when due, and at the end."""
    if config.mode == "evaluate":
        return 1
    return 1 + math.ceil(config.updates / config.eval.every)


def _answers(config: Config) -> int:
    """Responses of one evaluation."""
    evaluation, suites = config.eval, [BENCHMARKS[name] for name in config.eval.suites]
    own = TASK_SPLITS * GUESSED_PROBLEMS * (evaluation.samples + evaluation.greedy)
    return own + sum(s.problems * ((evaluation.suite_samples or s.samples) + evaluation.greedy) for s in suites)


def _queued(config: Config) -> int:
    """Rollout batches that wait to be trained on at most, the next one included."""
    return min(config.batches, build.staleness_policy(config).lag_steps + 1)


# Words ---------------------------------------------------------------------------------------------------


def _describe(config: Config, rates: Rates | None) -> Iterator[str]:
    engine = f"{config.choices['rollout']} engine on {config.device}"
    yield f"task {config.choices['task']} · model {config.served_model.path} · {engine}"
    for name, text in [*_facts(config, estimate(config)), *_capacity(config, rates)]:
        yield textwrap.fill(f"{name:<15}{text}", WIDTH, initial_indent="  ", subsequent_indent=" " * 17)


def _facts(config: Config, e: Estimate) -> Iterator[tuple[str, str]]:
    rollout, per_step, ahead = config.rollout, config.updates_per_step, _queued(config)
    yield "tokens", f"prompt ≤ {rollout.max_prompt_tokens}, response ≤ {rollout.max_new_tokens}"
    yield "evaluation", f"{_evaluated(config)}; about ≤ {_short(e.evaluation_tokens)} tokens"
    if config.mode == "evaluate":
        return
    prompts = f"{rollout.prompts_per_step} prompts × {rollout.group_size} = {e.responses} responses a step"
    yield "batch", f"{prompts}; {counted(per_step, 'update')} of {e.responses // mini_batches(config)}"
    micro = f"{counted(e.micro_batches, 'micro-batch', 'micro-batches')} of {config.learner.micro_batch_tokens} tokens"
    yield "learner", f"{counted(config.updates, 'update')}, each in at most about {micro}"
    policy = build.staleness_policy(config)
    part = "in part " if isinstance(policy, MixedLag) else ""
    first = "all" if ahead == config.batches else f"the first {ahead if ahead > 1 else 'one'}"
    tokens = f"≤ {_short(e.training_tokens)} tokens to train on"
    yield "generation", f"{counted(config.batches, 'batch', 'batches')}, {first} {part}from the base model; {tokens}"
    if isinstance(policy, MixedLag):
        yield "staleness", _ages(policy)
    if isinstance(policy, PartialLag):
        yield "staleness", f"{policy.spelt}: a response begins {policy.staleness} updates older than it ends"
    yield "rollout queue", f"{counted(ahead, 'batch', 'batches')}, ≤ {_bytes(e.queue_bytes)} on the host"
    if shape_at_hand(config.served_model.path) is None:
        yield "memory", _memory(e)


def _capacity(config: Config, rates: Rates | None) -> Iterator[tuple[str, str]]:
    if config.mode == "train":
        yield from capacity.facts(config, _answers(config), rates)


def _ages(policy: MixedLag) -> str:
    few = [f"{prompts} × {age}" for age, prompts in policy.histogram.items()]
    listed = f": {', '.join(few)} in every batch" if len(few) <= 4 else ""
    return f"{policy.ages}, mean {policy.mean:g}, largest {policy.staleness} updates{listed}"


def _memory(e: Estimate) -> str:
    if e.parameters is None:
        return "unknown; give model.parameters=NUMBER, for instance 1.5e9"
    learner = f"{_bytes(e.learner_bytes)} for weights, gradients and AdamW before activations"
    beside = f"; {_bytes(e.engine_bytes)} of weights for generation" if e.engine_bytes else ""
    where = "on one device" if e.ranks == 1 else f"on each of {e.ranks} devices"
    return f"{_short(e.parameters)} parameters; {learner}, {where}{beside}"


def _evaluated(config: Config) -> str:
    """How often, on what and how."""
    evaluation, greedy = config.eval, " and greedily" if config.eval.greedy else ""
    often = "" if config.mode == "evaluate" else f"every {counted(evaluation.every, 'update')} "
    splits = f"the task's own splits (avg@{evaluation.samples}{greedy})"
    suites = [f"{name} (avg@{evaluation.suite_samples or BENCHMARKS[name].samples})" for name in evaluation.suites]
    return often + ", ".join([splits, *suites])


def _short(number: float) -> str:
    """1.54 G."""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.0f}"


def _bytes(number: float) -> str:
    return f"{_short(number)}B" if number >= 1e3 else f"{number:.0f} B"
