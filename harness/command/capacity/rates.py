"""How long things take: by arithmetic for a device of the table, checked against what was measured on an H200."""

from __future__ import annotations

import math
from dataclasses import dataclass

from harness import build
from harness.command.capacity.devices import Device
from harness.command.capacity.memory import (
    cache_tokens,
    checkpoint_bytes,
    compute_bytes,
    engine_devices,
    mini_batches,
)
from harness.config import Config
from harness.models import footprint
from harness.models.footprint import Shape

LEARNER_SHARE = 0.25  # of the product of matrices that a learner reaches
ENGINE_S = {"vllm": (15e-3, 15e-6), "torch": (20e-3, 25e-6)}  # a step beside its products, and for every sequence
SEQUENCES = 1024  # that vLLM samples at once, at most
PUBLISH_S = 0.25 / 1.54e9  # a parameter: weights, cache and probe
GRADE_S = 1e-3  # a response
DISK = 1e9  # bytes a second
POINTS = 16  # at which the running sequences of a chunk are looked at
SPREAD = 0.3  # standard deviation over mean of a duration, where none was measured


@dataclass(frozen=True)
class Rates:
    """Seconds of the parts of a run.

    update: an update.
    chunk: an engine's time for a chunk.
    publish: handing over the weights, after every step.
    evaluation_sampling, evaluation_grading: an evaluation, by one engine and in the learner's thread.
    checkpoint: writing one.
    spread: of chunk and update, standard deviation over mean.
    """

    update: float
    chunk: float
    publish: float
    evaluation_sampling: float
    evaluation_grading: float
    checkpoint: float
    spread: float = SPREAD


def estimated(config: Config, shape: Shape, device: Device, answers: int) -> Rates:
    """For engines and ranks on devices of a kind; a response is taken to be half as long as it may be.

    answers: responses of an evaluation.
    """
    rollout, size = config.rollout, footprint.parameters(shape)
    prompts, responses = rollout.prompts_per_step, rollout.prompts_per_step * rollout.group_size
    tokens = prompts * rollout.max_prompt_tokens / 2 + responses * rollout.max_new_tokens / 2
    chunk = sampling_s(config, shape, device, math.ceil(responses / rollout.chunks))
    if rollout.behaviour == "trainer":
        chunk += 2 * size * tokens / rollout.chunks / (LEARNER_SHARE * device.flops)
    rates = Rates(
        update=update_s(config, shape, device, tokens / mini_batches(config)),
        chunk=chunk,
        publish=PUBLISH_S * size,
        evaluation_sampling=evaluating_s(config, shape, device, answers),
        evaluation_grading=GRADE_S * answers,
        checkpoint=checkpoint_bytes(shape) / DISK,
    )
    return shared(rates, config) if config.driver == "overlapped" else rates


def update_s(config: Config, shape: Shape, device: Device, tokens: float) -> float:
    """Seconds of an update, k·N·tokens / (W·F·share).

    k = 6, + 2 with checkpointing, + 2 for the extra pass of a batch-scope method.
    """
    extra = extra_passes(config) if tokens > config.learner.micro_batch_tokens else 0.0
    passes = 6 + 2 * config.model.gradient_checkpointing + 2 * extra
    return passes * footprint.parameters(shape) * tokens / (config.ranks * device.flops * LEARNER_SHARE)


def extra_passes(config: Config) -> float:
    """How many an update makes for a method of batch scope: none in a step's first where its log-probs are at hand."""
    method = build.algorithm(config)
    if getattr(method, "scope", "token") != "batch":
        return 0.0
    fresh = str(config.staleness) == "0" and config.rollout.behaviour == "trainer" and "entropy" not in method.needs
    return 1 - fresh / config.updates_per_step


def sampling_s(config: Config, shape: Shape, device: Device, responses: int) -> float:
    """Seconds to sample the responses of a request, whose lengths are spread evenly up to the longest.

    As long as responses wait, one takes the place of each that ends; then ever fewer are running.
    """
    prompt, longest = config.rollout.max_prompt_tokens / 2, config.rollout.max_new_tokens
    running = at_once(config, shape, device, responses)
    full = (responses - running) * longest / 2 / running * step_s(config, shape, device, running, prompt + longest / 3)
    shares = [(point + 0.5) / POINTS for point in range(POINTS)]
    drained = [step_s(config, shape, device, running * (1 - share), prompt + longest * share) for share in shares]
    return full + longest * sum(drained) / POINTS


def at_once(config: Config, shape: Shape, device: Device, responses: int) -> float:
    """Responses of a request that run at once: as many as vLLM's limit and its cache allow; rollout=torch: all.

    Of responses in the middle of a request a third of the longest is there, on average over those that run.
    """
    if config.choices["rollout"] != "vllm":
        return responses
    rollout = config.rollout
    held = cache_tokens(config, shape, device) / (rollout.max_prompt_tokens / 2 + rollout.max_new_tokens / 3)
    return max(1.0, min(responses, rollout.vllm.max_num_seqs or SEQUENCES, held))


def evaluating_s(config: Config, shape: Shape, device: Device, answers: int) -> float:
    """Seconds to sample an evaluation, one request of eval.batch_prompts after the other."""
    request = min(answers, config.eval.batch_prompts * config.eval.samples)
    return answers / request * sampling_s(config, shape, device, request)


def step_s(config: Config, shape: Shape, device: Device, running: float, length: float) -> float:
    """Seconds in which every running sequence gets a token.

    max(bytes of weights and cache / copy, 4·N·b / flops) / tp, and what the engine takes beside its products.

    running: b, sequences. length: of each, in tokens.
    """
    ways = engine_devices(config)
    fixed, each = ENGINE_S.get(config.choices["rollout"], ENGINE_S["torch"])
    size, compute = footprint.parameters(shape), compute_bytes(config)
    moved = compute * size + running * length * footprint.cache_token_bytes(shape, compute)
    return max(moved / device.copy, 4 * size * running / device.flops) / ways + fixed + each * running


def shared(rates: Rates, config: Config) -> Rates:
    """Where learner and engine work on one device at once: each is slowed down until their times add up."""
    generating, learning = rates.chunk * config.rollout.chunks, rates.update * config.updates_per_step
    slower = (generating + learning) / max(generating, learning)
    return Rates(**{**vars(rates), "chunk": rates.chunk * slower, "update": rates.update * slower})
