"""`dry_run=true`: what a command would run, where, and what it would cost. Writes nothing, needs no model or data."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness import build
from harness.command.plan import Plan
from harness.config import Config
from harness.models.loading import resolve_path
from harness.tasks.suites import BENCHMARKS

MASTER_BYTES = 16  # a parameter: float32 weight, gradient and two AdamW moments
TOKEN_BYTES = 16  # a stored response token: id, two log-probs, version
TASK_SPLITS = 2  # validation and test; their sizes are known only with the data
GUESSED_PROBLEMS = 256  # a split
WIDTH = 100  # columns


@dataclass(frozen=True)
class Estimate:
    """Upper bounds for one cell: every response is taken to be as long as it may be. Bytes and tokens."""

    responses: int
    training_tokens: int
    evaluation_tokens: int
    micro_batches: int
    parameters: float | None
    learner_bytes: float
    engine_bytes: float
    line_bytes: float


def report(plan: Plan) -> str:
    """The lines that dry_run prints; each distinct estimate once."""
    lines = [f"dry run: {_some(len(plan.cells), 'cell')}, nothing is written"]
    groups: dict[tuple[str, ...], list[Config]] = {}
    for cell in plan.cells:
        groups.setdefault(tuple(_describe(cell)), []).append(cell)
    for estimate, cells in groups.items():
        lines += ["", *estimate]
        for cell in cells:
            lines.append(f"  {cell.choices['algo']} staleness={cell.staleness} seed={cell.seed} → {cell.folder}")
    return "\n".join(lines)


def estimate(config: Config) -> Estimate:
    rollout, per_step = config.rollout, config.updates_per_step
    responses = rollout.prompts_per_step * rollout.group_size
    longest = rollout.max_prompt_tokens + rollout.max_new_tokens
    padded = rollout.prompts_per_step * rollout.max_prompt_tokens + responses * rollout.max_new_tokens
    evaluations = config.updates // config.eval.every + 1 + (config.updates % config.eval.every > 0)
    if config.mode == "evaluate":
        evaluations = 1
    answers = TASK_SPLITS * GUESSED_PROBLEMS * (config.eval.samples + config.eval.greedy)
    for name in config.eval.suites:
        suite = BENCHMARKS[name]
        answers += suite.problems * ((config.eval.suite_samples or suite.samples) + config.eval.greedy)
    size = parameters(config)
    compute = 2 if config.model.dtype == "bfloat16" else 4
    known = size or 0.0
    beside = build.engine_class(config).holds_weights or config.driver != "serial"
    snapshots = 4 * known * build.staleness_policy(config).max_versions if config.driver != "serial" else 0
    return Estimate(
        responses=responses,
        training_tokens=config.batches * responses * rollout.max_new_tokens,
        evaluation_tokens=evaluations * answers * rollout.max_new_tokens,
        micro_batches=-(-padded // per_step // max(config.learner.micro_batch_tokens, longest)),
        parameters=size,
        learner_bytes=MASTER_BYTES * known + (compute * known if compute == 2 else 0),
        engine_bytes=(compute * known if beside else 0) + snapshots,
        line_bytes=(config.lag_steps + 1) * responses * rollout.max_new_tokens * TOKEN_BYTES,
    )


def parameters(config: Config) -> float | None:
    """model.parameters, else from the size of the weights where the folder is at hand, else None."""
    if config.model.parameters is not None:
        return config.model.parameters
    folder = Path(resolve_path(config.served_model.path))
    files = list(folder.glob("model*.safetensors")) if folder.is_dir() else []
    return sum(_count(file) for file in files) if files else None


def _count(file: Path) -> float:
    from safetensors import safe_open

    total = 0
    with safe_open(file, framework="numpy") as tensors:
        for name in tensors.keys():  # noqa: SIM118  (not a mapping)
            size = 1
            for width in tensors.get_slice(name).get_shape():
                size *= width
            total += size
    return total


def _describe(config: Config) -> Iterator[str]:
    engine = f"{config.choices['rollout']} engine on {config.device}"
    yield f"task {config.choices['task']} · model {config.served_model.path} · {engine}"
    for name, text in _facts(config, estimate(config)):
        yield textwrap.fill(f"{name:<12}{text}", WIDTH, initial_indent="  ", subsequent_indent=" " * 14)


def _facts(config: Config, e: Estimate) -> Iterator[tuple[str, str]]:
    rollout, per_step, ahead = config.rollout, config.updates_per_step, config.lag_steps + 1
    yield "tokens", f"prompt ≤ {rollout.max_prompt_tokens}, response ≤ {rollout.max_new_tokens}"
    yield "evaluation", f"{_evaluated(config)}; about ≤ {_count_of(e.evaluation_tokens)} tokens"
    if config.mode == "evaluate":
        return
    yield (
        "batch",
        f"{rollout.prompts_per_step} prompts × {rollout.group_size} = {e.responses} responses a step; "
        f"{_some(per_step, 'update')} of {e.responses // per_step}",
    )
    yield (
        "learner",
        f"{_some(config.updates, 'update')}, each in at most about {e.micro_batches} micro-batches of "
        f"{config.learner.micro_batch_tokens} tokens",
    )
    yield (
        "generation",
        f"{_some(config.batches, 'batch', 'batches')}, the first {ahead if ahead > 1 else 'one'} from the base model; "
        f"≤ {_count_of(e.training_tokens)} tokens to train on",
    )
    yield "delay line", f"{_some(ahead, 'batch', 'batches')}, ≤ {_bytes(e.line_bytes)} on the host"
    beside = f"; {_bytes(e.engine_bytes)} of weights for generation" if e.engine_bytes else ""
    yield (
        "memory",
        "unknown; give model.parameters=NUMBER, for instance 1.5e9"
        if e.parameters is None
        else f"{_count_of(e.parameters)} parameters; {_bytes(e.learner_bytes)} for weights, gradients and AdamW before "
        f"activations, on one device (the learner is not sharded){beside}",
    )


def _evaluated(config: Config) -> str:
    """How often, on what and how."""
    evaluation, greedy = config.eval, " and greedily" if config.eval.greedy else ""
    often = "" if config.mode == "evaluate" else f"every {_some(evaluation.every, 'update')} "
    splits = f"the task's own splits (avg@{evaluation.samples}{greedy})"
    suites = [f"{name} (avg@{evaluation.suite_samples or BENCHMARKS[name].samples})" for name in evaluation.suites]
    return often + ", ".join([splits, *suites])


def _some(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def _count_of(number: float) -> str:
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.0f}"


def _bytes(number: float) -> str:
    return f"{_count_of(number)}B" if number >= 1e3 else f"{number:.0f} B"
