"""Is this config a run that can be made? Values first, then what each part says of it. Raises UserError."""

from __future__ import annotations

import math
import operator
from typing import Any

import torch

from harness.command import validate
from harness.config import Config, schema
from harness.errors import UserError, first_line
from harness.schema import Key, check_multiple, lookup

BOUNDS = (
    ("low", "at least", operator.ge),
    ("above", "a number above", operator.gt),
    ("high", "at most", operator.le),
    ("below", "a number below", operator.lt),
)


def check(config: Config) -> None:
    """Raises UserError, in one line, for the first thing that is wrong with a config. Writes nothing."""
    check_values(config)
    _check_combinations(config)
    _check_mode(config)
    _check_device(config)
    validate.parts(config)


def check_values(config: Config) -> None:
    """Every value on its own, then those that must be multiples of another. Raises UserError."""
    for name, key in schema().items():
        value = lookup(config, name)
        expected = None if value is None else _expected(key, value)
        if expected:
            raise UserError(f"{name}={value}: expected {expected}")
    for name, key in schema().items():
        if key.multiple_of and lookup(config, name) is not None:
            check_multiple(config, name, key.multiple_of)
    prompts, chunks = config.rollout.prompts_per_step, config.rollout.chunks
    if chunks > prompts:
        raise UserError(f"rollout.chunks={chunks}: more chunks than the {prompts} prompts of a step")


def _expected(key: Key, value: Any) -> str | None:
    """What a value should have been; None if it is that."""
    if key.valid and not key.valid[0](value):
        return key.valid[1]
    if key.choices and value not in key.choices:
        return f"one of {', '.join(key.choices)}"
    if isinstance(value, float) and not math.isfinite(value):
        return f"a finite number ({key.meaning})"
    for name, words, fits in BOUNDS:
        bound = getattr(key, name)
        if bound is not None and not fits(value, bound):
            return f"{words} {bound:g} ({key.meaning})"
    return None


def _check_mode(config: Config) -> None:
    if config.mode == "evaluate" and not config.checkpoint:
        raise UserError("mode=evaluate: needs checkpoint=PATH, a checkpoint or model folder")
    if config.checkpoint and config.mode != "evaluate":
        raise UserError(f"checkpoint={config.checkpoint}: only mode=evaluate reads it; add mode=evaluate or drop it")


def _check_device(config: Config) -> None:
    if config.device == "cpu" or config.dry_run:
        return
    try:
        torch.empty(1, device=config.device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"device={config.device}: not usable here ({first_line(error)}); expected cpu or a present accelerator"
        ) from error


def _check_combinations(config: Config) -> None:
    if config.on_excess not in ("wait", "drop", "mask"):
        raise UserError(f"lag.on_excess={config.on_excess}: expected one of wait, drop, mask")
    if config.max_versions < 1:
        raise UserError(f"lag.max_versions={config.max_versions}: expected at least 1 (weight snapshots alive)")
    if config.lag_name == "bounded":
        _check_bounded(config)
    else:
        check_multiple(config, "staleness")
    if config.lag_name != "bounded" and config.rollout.inflight != "drain":
        raise UserError(
            f"rollout.inflight={config.rollout.inflight} with lag={config.lag_name}: "
            "a version per batch is exact only with drain"
        )
    if config.rollout.inflight != "drain" and config.engine_name != "vllm":
        raise UserError(f"rollout.inflight={config.rollout.inflight}: only rollout=vllm can update in flight")
    if config.lag_name == "replay" and not config.schedule:
        raise UserError("lag=replay: needs lag.schedule=PATH, the schedule.jsonl that a bounded run wrote")


def _check_bounded(config: Config) -> None:
    if config.driver == "serial":
        raise UserError(
            "lag=bounded with driver=serial: nothing runs free where generation waits for training; "
            "use driver=overlapped or driver=ray, or lag=exact"
        )
    if config.staleness < config.updates_per_step - 1:
        raise UserError(
            f"staleness={config.staleness} with lag=bounded: the last of {config.updates_per_step} updates of a step "
            f"is {config.updates_per_step - 1} updates stale by construction; expected at least that"
        )
    if config.driver == "ray" and config.rollout.inflight != "drain":
        raise UserError(
            f"rollout.inflight={config.rollout.inflight} with driver=ray: an actor takes weights between chunks only; "
            "use driver=overlapped, or rollout.inflight=drain"
        )
    prompts, chunks = config.rollout.prompts_per_step, config.rollout.chunks
    if config.on_excess != "wait" and prompts % chunks:
        raise UserError(
            f"on_excess={config.on_excess}: a batch is any {chunks} chunks, so they must be of one size; "
            f"rollout.prompts_per_step={prompts} is not divisible by rollout.chunks={chunks}"
        )
