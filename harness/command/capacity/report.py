"""The capacity block of `dry_run`: does it fit, how long does it take, how stale will it be, and what cannot be."""

from __future__ import annotations

import math
from collections.abc import Iterator

from harness import build
from harness.command.capacity.devices import DEVICES, GIB
from harness.command.capacity.memory import (
    Verdict,
    checkpoint_bytes,
    engine_devices,
    largest_micro_batch,
    learner,
    mini_batches,
    verdict,
)
from harness.command.capacity.outlook import Outlook, can_be_simulated, engines, outlook
from harness.command.capacity.rates import Rates, estimated
from harness.config import Config
from harness.models.footprint import Shape, parameters
from harness.models.published import shape_at_hand

Fact = tuple[str, str]


def facts(config: Config, answers: int, measured: Rates | None) -> Iterator[Fact]:
    """Name and text of each line.

    answers: responses of an evaluation.
    measured: seconds of this machine; None: estimated for the devices of the table, where the run is on one.
    """
    shape = shape_at_hand(config.served_model.path)
    if shape is not None:
        yield "memory", _memory(config, shape)
    if shape is not None and config.device != "cpu":
        yield "fits", " · ".join(_verdict(verdict(config, shape, device)) for device in DEVICES)
    for where, rates in _rates(config, shape, answers, measured):
        yield where, _outlook(config, outlook(config, rates))
    if not can_be_simulated(config) and (config.calibrate or config.device != "cpu"):
        yield "seconds", f"not estimated for lag={config.choices['lag']} staleness={config.staleness}"
    if shape is not None:
        yield "checkpoint", f"{_size(checkpoint_bytes(shape))} on the disk"


def refusals(config: Config, answers: int, measured: Rates | None = None) -> list[str]:
    """What cannot be, or would leave ranks, engines or the learner without work: a line each, with the way out."""
    if config.mode == "evaluate":
        return []
    shape = shape_at_hand(config.served_model.path)
    found = [_idle_ranks(config), _idle_engines(config), _idle_gpus(config), _does_not_fit(config, shape)]
    expected = [outlook(config, rates) for _, rates in _rates(config, shape, answers, measured)]
    return [line for line in [*found, _bound(config, expected)] if line]


def run_seconds(config: Config, answers: int, measured: Rates | None = None) -> dict[str, float]:
    """Seconds of a whole run, by what it runs on. Parameters as `facts` takes them."""
    if config.mode == "evaluate":
        return {}
    shape = shape_at_hand(config.served_model.path)
    return {where: outlook(config, rates).run_s for where, rates in _rates(config, shape, answers, measured)}


def total(cells: list[dict[str, float]]) -> str:
    """Seconds of every cell, one after the other, in words; "" where nothing is known of one of them."""
    places = [where for where in cells[0] if all(where in cell for cell in cells)]
    return " · ".join(f"{where} {_time(sum(cell[where] for cell in cells))}" for where in places)


def micro_batches(config: Config) -> int:
    """Micro-batches of an update, at most: where every prompt and response is as long as it may be."""
    responses = config.rollout.prompts_per_step * config.rollout.group_size // mini_batches(config)
    return math.ceil(responses / largest_micro_batch(config).responses)


# Numbers -------------------------------------------------------------------------------------------------


def _rates(config: Config, shape: Shape | None, answers: int, measured: Rates | None) -> Iterator[tuple[str, Rates]]:
    """What the seconds are of, and the seconds."""
    if not can_be_simulated(config):
        return
    if measured is not None:
        yield "this machine", measured
    elif shape is not None and config.device != "cpu":
        for device in DEVICES:
            if verdict(config, shape, device).fits:
                yield (
                    f"on {device.name}s" if _devices(config) > 1 else f"on an {device.name}",
                    estimated(config, shape, device, answers),
                )


def _devices(config: Config) -> int:
    if config.driver != "ray":
        return config.ranks
    return config.ranks + engines(config) * engine_devices(config)


def _idle_ranks(config: Config) -> str | None:
    most = micro_batches(config)
    if config.ranks <= most:
        return None
    return (
        f"ranks={config.ranks}: an update has at most {most} micro-batches of {config.learner.micro_batch_tokens} "
        f"tokens, one a rank; expected ranks={most} or fewer, or a smaller learner.micro_batch_tokens"
    )


def _idle_engines(config: Config) -> str | None:
    """An engine serves one chunk at a time, and no more batches are under way than the staleness allows."""
    batches = build.staleness_policy(config).lag_steps + 1
    under_way = config.rollout.chunks * batches
    if engines(config) <= under_way:
        return None
    return (
        f"ray.actors={engines(config)}: at most {under_way} chunks are under way at staleness={config.staleness}; "
        f"expected rollout.chunks={math.ceil(engines(config) / batches)} or more, or fewer actors"
    )


def _idle_gpus(config: Config) -> str | None:
    used, given = engine_devices(config) if config.device != "cpu" else 0, config.ray.gpus_per_actor
    if config.driver != "ray" or given <= used:
        return None
    return (
        f"ray.gpus_per_actor={given:g}: an engine of rollout={config.choices['rollout']} uses {used} with "
        f"device={config.device}; expected ray.gpus_per_actor={used}"
    )


def _does_not_fit(config: Config, shape: Shape | None) -> str | None:
    if shape is None or config.device == "cpu":
        return None
    verdicts = [verdict(config, shape, device) for device in DEVICES]
    if any(one.fits for one in verdicts):
        return None
    last = verdicts[-1]
    return (
        f"model.path={config.served_model.path}: needs {_size(last.learner)} on a learner's device and "
        f"{_size(last.engine)} on an engine's, {last.device.name} has {last.device.gib}; expected more ranks with "
        "driver=ray, model.gradient_checkpointing=true or a smaller learner.micro_batch_tokens"
    )


def _bound(config: Config, expected: list[Outlook]) -> str | None:
    if not build.staleness_policy(config).free_running or not expected:
        return None
    least = min(one.unhindered for one in expected)
    if config.staleness >= least:
        return None
    return (
        f"staleness={config.staleness}: a chunk takes longer than that, so the learner would stand and wait; expected "
        f"at least {least}, or a larger rollout.chunks and more engines"
    )


# Words ---------------------------------------------------------------------------------------------------


def _memory(config: Config, shape: Shape) -> str:
    needed = learner(config, shape)
    parts = {
        "weights, gradients and AdamW": needed.master,
        "in bfloat16": needed.casts,
        "brought together": needed.gathered,
        "activations": needed.activations,
        "the head": needed.head,
    }
    text = ", ".join(f"{_size(value)} {name}" for name, value in parts.items() if value)
    where = "on one device" if config.ranks == 1 else f"on each of {config.ranks} devices"
    return f"{_count(parameters(shape))} parameters; learner {_size(needed.total)} {where}: {text}"


def _verdict(one: Verdict) -> str:
    needed = f"{one.device.gib} GB {'yes' if one.fits else 'no'} ({_size(max(one.learner, one.engine))})"
    return f"{needed}, no room for one sequence" if one.sequences < 1 else needed


def _outlook(config: Config, one: Outlook) -> str:
    waits = f"learner waits {one.learner_waits:.0%} of the time, engines {one.engines_idle:.0%}"
    text = f"{_time(one.step_s)} a step, {_time(one.run_s)} in all; {waits}"
    if not build.staleness_policy(config).free_running:
        return text
    return f"{text}; staleness {one.staleness:.0f} on average (9 of 10 updates: {one.low} to {one.high})"


def _count(number: float) -> str:
    return f"{number / 1e9:.3g} G" if number >= 1e9 else f"{number / 1e6:.3g} M"


def _size(number: float) -> str:
    """614 GiB, 5.5 GiB, 330 MiB."""
    for size, unit in ((GIB, "GiB"), (2**20, "MiB")):
        if number >= size:
            return f"{number / size:.0f} {unit}" if number >= 10 * size else f"{number / size:.2g} {unit}"
    return f"{number / 2**10:.0f} KiB"


def _time(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"
