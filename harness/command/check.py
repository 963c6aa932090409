"""Is this config a run that can be made? Values first, then what each part says of it. Raises UserError."""

from __future__ import annotations

import math
import operator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from algorithms import Algorithm
from harness import build
from harness.command.dependencies import check_unchanged
from harness.command.validate import check_data
from harness.config import Config, schema
from harness.errors import UserError, first_line
from harness.learner.shadow import Shadows
from harness.models.checks import check_model, resolve_path
from harness.models.tokens import load_tokenizer, named_ends
from harness.records import fork
from harness.records.checkpoint import check_kept, check_whole
from harness.records.folder import check_folder
from harness.schema import Key, check_multiple, lookup

BOUNDS = (
    ("low", "at least", operator.ge),
    ("above", "a number above", operator.gt),
    ("high", "at most", operator.le),
    ("below", "a number below", operator.lt),
)


def check(config: Config, *, elsewhere: bool = False) -> None:
    """Raises UserError, in one line, for the first thing that is wrong with a config. Writes nothing.

    elsewhere: the run will be on another machine, which checks its devices itself.

    What cannot go together is refused by the part that it is about: the staleness policy, the engine, the driver.
    A dry run needs neither model nor data.
    """
    check_values(config)
    _check_engine_logp(config, build.algorithm(config), build.shadows(config))
    build.task(config)
    build.staleness_policy(config).check(config)
    build.engine_class(config).check(config)
    build.check_driver(replace(config, dry_run=True) if elsewhere else config)
    _check_deterministic(config)
    check_kept(config)
    fork.check(config)
    if not config.dry_run:
        if not elsewhere:
            _check_device(config)
        check_data(config)
        _check_reference(config)
    check_folder(config)
    check_unchanged(config)


def check_values(config: Config) -> None:
    """Every value on its own, then those that must go with another. Raises UserError."""
    _check_mode(config)
    for name, key in schema().items():
        value = lookup(config, name)
        expected = None if value is None else _expected(key, value)
        if expected:
            raise UserError(f"{name}={value}: expected {expected}")
    for name, key in schema().items():
        if key.multiple_of and lookup(config, name) is not None:
            check_multiple(config, name, key.multiple_of)
    check_multiple(config, "updates_per_step", "learner.max_epochs")
    prompts, chunks = config.rollout.prompts_per_step, config.rollout.chunks
    named_ends(config.model)
    if chunks > prompts:
        raise UserError(f"rollout.chunks={chunks}: more chunks than the {prompts} prompts of a step")
    shares = config.eval.top_p
    if not all(0 < share < 1 for share in shares) or len(set(shares)) < len(shares):
        raise UserError(f"eval.top_p={shares}: expected different shares above 0 and below 1, for instance [0.7]")
    window = config.record.tokens
    if window is not None and not (len(window) == 2 and 0 <= window[0] <= window[1]):
        raise UserError(f"record.tokens={window}: expected [first, last] updates, for instance [800,1200]")


def _expected(key: Key, value: Any) -> str | None:
    """What a value should have been; None if it is that."""
    if key.choices and value not in key.choices:
        return f"one of {', '.join(key.choices)}"
    if isinstance(value, float) and not math.isfinite(value):
        return f"a finite number ({key.meaning})"
    for name, words, fits in BOUNDS:
        bound = getattr(key, name)
        if bound is not None and not fits(value, bound):
            return f"{words} {bound:g} ({key.meaning})"
    return None


def _check_deterministic(config: Config) -> None:
    """torch has one switch a process, and sampling must not run while it is on."""
    if config.deterministic and config.device != "cpu" and config.driver == "overlapped":
        raise UserError(
            f"deterministic=true with driver=overlapped and device={config.device}: one process cannot sample while "
            "it learns deterministically; use driver=serial or driver=ray"
        )


def _check_engine_logp(config: Config, method: Algorithm, shadows: Shadows) -> None:
    """A method that reads the engine's log-probs must be given them, one that is only asked too."""
    if config.rollout.vllm.logprobs:
        return
    methods = {f"algo={config.choices['algo']}": method}
    methods |= {f"record.shadow={name}": shadow for name, shadow in shadows.methods.items()}
    for name, one in methods.items():
        if "logp_engine" in one.needs:
            raise UserError(f"rollout.vllm.logprobs=false: {name} needs the engine's log-probs; expected true")


def _check_mode(config: Config) -> None:
    if config.mode == "evaluate" and not config.checkpoint:
        raise UserError("mode=evaluate: needs checkpoint=PATH, a run folder, a checkpoint or a model")
    if config.checkpoint and config.mode != "evaluate":
        raise UserError(f"checkpoint={config.checkpoint}: only mode=evaluate reads it; add mode=evaluate or drop it")
    if config.checkpoint:
        check_whole(Path(resolve_path(config.checkpoint)), weights=False)


def _check_reference(config: Config) -> None:
    """A reference policy must be a model with the tokens of the run's own."""
    if config.learner.kl_coefficient == 0 or config.learner.reference == "initial":
        return
    model = build.reference_model(config)
    check_model(model)
    if load_tokenizer(model).get_vocab() != load_tokenizer(config.model).get_vocab():
        raise UserError(f"learner.reference={model.path}: other tokens than {config.model.path}; expected the same")


def _check_device(config: Config) -> None:
    if config.device == "cpu":
        return
    try:
        torch.empty(1, device=config.device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"device={config.device}: not usable here ({first_line(error)}); expected cpu or a present accelerator"
        ) from error
