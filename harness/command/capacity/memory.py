"""Does it fit? The bytes of a learner's device and of an engine's, for a device of any size."""

from __future__ import annotations

import math
from dataclasses import dataclass

from harness import build
from harness.command.capacity.devices import Device
from harness.config import Config
from harness.models import footprint
from harness.models.footprint import FLOAT, MicroBatch, Shape

CHECKPOINT_BYTES = 12  # a parameter in a checkpoint: float32 weight and two moments


def compute_bytes(config: Config) -> int:
    """Bytes of a number in the type of computation."""
    return 2 if config.model.dtype == "bfloat16" else FLOAT


def engine_devices(config: Config) -> int:
    """Devices that share an engine."""
    return config.rollout.vllm.tensor_parallel_size if config.choices["rollout"] == "vllm" else 1


def mini_batches(config: Config) -> int:
    """Mini-batches that a rollout batch is cut into; with several epochs each makes several updates."""
    return config.updates_per_step // config.learner.max_epochs


def largest_micro_batch(config: Config) -> MicroBatch:
    """What fits into learner.micro_batch_tokens where every prompt and response is as long as it may be."""
    rollout = config.rollout
    prompt, response, group = rollout.max_prompt_tokens, rollout.max_new_tokens, rollout.group_size
    most = rollout.prompts_per_step * group // mini_batches(config)
    responses = min(most, group, max(1, (config.learner.micro_batch_tokens - prompt) // response))
    if responses == group:
        prompts = min(most // group, max(1, config.learner.micro_batch_tokens // (prompt + group * response)))
        return MicroBatch(prompts, prompt, prompts * group, response)
    return MicroBatch(1, prompt, responses, response)


def learner(config: Config, shape: Shape) -> footprint.Learner:
    """Bytes of a rank of the learner at its peak."""
    return footprint.learner(
        shape,
        largest_micro_batch(config),
        compute_bytes(config),
        checkpointing=config.model.gradient_checkpointing,
        ranks=config.ranks,
        on_cpu=config.device == "cpu",
    )


@dataclass(frozen=True)
class Verdict:
    """What a run needs on devices of one kind.

    learner, engine: bytes on the learner's device and on an engine's; one sum where they share it.
    sequences: of full length that the engine's cache holds at once.
    """

    device: Device
    learner: float
    engine: float
    sequences: int

    @property
    def fits(self) -> bool:
        return max(self.learner, self.engine) <= self.device.usable and self.sequences >= 1


def verdict(config: Config, shape: Shape, device: Device) -> Verdict:
    """Whether learner and engines fit on devices of a kind, each rank and each engine's part on one of them.

    serial: the engine is beside the learner; overlapped: so are a replica and the published versions; ray: replica and
    engine have a device of their own.
    """
    own, engine, sequences = learner(config, shape).total, *_engine(config, shape, device)
    engine += beside_bytes(config, footprint.parameters(shape))
    if config.driver == "ray":
        return Verdict(device, own, engine, sequences)
    return Verdict(device, own + engine, own + engine, sequences)


def engine_weight_bytes(config: Config, parameters: float) -> float:
    """Weights of its own that an engine has on each of its devices."""
    if not build.engine_class(config).holds_weights:
        return 0.0
    return footprint.engine_weight_bytes(parameters, compute_bytes(config), engine_devices(config))


def beside_bytes(config: Config, parameters: float) -> float:
    """What lies beside an engine that is not the learner's: a replica, if it asks for one; overlapped: the versions."""
    if config.driver == "serial":
        return 0.0
    replicas = int(build.engine_class(config).needs_replica(config))
    versions = build.staleness_policy(config).max_versions if config.driver == "overlapped" else 0
    return (replicas + versions) * footprint.replica_bytes(parameters)


def _engine(config: Config, shape: Shape, device: Device) -> tuple[float, int]:
    """Bytes of an engine on each of its devices, what lies beside it aside, and how many full sequences it holds.

    vLLM takes a share of the device, and its weights out of that; rollout=torch makes room for a whole chunk.
    """
    prompts, prompt_tokens, responses, tokens = _chunk(config)
    if config.choices["rollout"] == "torch":
        own = footprint.decoding_bytes(shape, prompts, prompt_tokens, responses, tokens, compute_bytes(config))
        return own, responses
    if config.choices["rollout"] != "vllm":
        return engine_weight_bytes(config, footprint.parameters(shape)), responses
    full = math.floor(cache_tokens(config, shape, device) / (prompt_tokens + tokens))
    return config.rollout.vllm.gpu_memory_utilization * device.usable, full


def cache_tokens(config: Config, shape: Shape, device: Device) -> float:
    """Tokens whose keys and values vLLM holds: in its share of the devices, beside its weights."""
    share = config.rollout.vllm.gpu_memory_utilization * device.usable
    free = share - engine_weight_bytes(config, footprint.parameters(shape))
    each = footprint.cache_token_bytes(shape, compute_bytes(config))
    return max(0.0, engine_devices(config) * free / each)


def _chunk(config: Config) -> tuple[int, int, int, int]:
    """Prompts, their tokens, responses, their tokens of a chunk."""
    rollout = config.rollout
    prompts = math.ceil(rollout.prompts_per_step / rollout.chunks)
    return prompts, rollout.max_prompt_tokens, prompts * rollout.group_size, rollout.max_new_tokens


def checkpoint_bytes(shape: Shape) -> float:
    """12·N: a checkpoint on the disk, weights and AdamW's moments."""
    return CHECKPOINT_BYTES * footprint.parameters(shape)
