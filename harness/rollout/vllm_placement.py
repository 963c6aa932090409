"""Can vLLM have the process and the GPUs that a run gives it? Without vLLM, and before anything is written."""

from __future__ import annotations

import torch

from harness.config import Config
from harness.errors import UserError
from harness.models.published import shape_at_hand


def check(config: Config) -> None:
    """Raises UserError for ranks, actors, parts of an engine and shares of a GPU that do not go together."""
    if config.ranks > 1 and config.driver == "overlapped" and config.mode == "train":
        raise UserError(
            f"rollout=vllm with ranks={config.ranks} and driver=overlapped: in a rank's process vLLM would wait for "
            "the other ranks to start one too; use driver=ray, whose actors are processes apart, or rollout=torch"
        )
    _check_heads(config)
    if torch.device(config.device).type == "cuda":
        _check_gpus(config)


def _check_heads(config: Config) -> None:
    """Every part of an engine computes as many of the attention's heads."""
    ways, shape = config.rollout.vllm.tensor_parallel_size, shape_at_hand(config.served_model.path)
    if shape is not None and shape.heads % ways:
        expected = ", ".join(str(n) for n in range(1, min(shape.heads, 8) + 1) if shape.heads % n == 0)
        raise UserError(
            f"rollout.vllm.tensor_parallel_size={ways}: {config.served_model.path} has {shape.heads} heads, of which "
            f"every GPU takes as many; expected a divisor ({expected})"
        )


def _check_gpus(config: Config) -> None:
    ways, share = config.rollout.vllm.tensor_parallel_size, config.ray.gpus_per_actor
    if config.driver == "ray":
        if 0 < share < ways and ways > 1:
            raise UserError(
                f"rollout.vllm.tensor_parallel_size={ways} with ray.gpus_per_actor={share:g}: an engine has the GPUs "
                f"of its actor; expected ray.gpus_per_actor={ways}"
            )
        _check_shares(config, share)
    elif not config.dry_run and ways > max(1, torch.cuda.device_count()):
        raise UserError(
            f"rollout.vllm.tensor_parallel_size={ways}: this machine has {torch.cuda.device_count()} GPUs; expected at "
            "most as many"
        )


def _check_shares(config: Config, share: float) -> None:
    """Actors that share a GPU must not ask for more memory than it has. share: of a GPU, an actor's."""
    together = min(config.ray.actors, int(1 / share + 1e-9)) if 0 < share < 1 else 1
    each = config.rollout.vllm.gpu_memory_utilization
    if together * each > 1 + 1e-9:
        raise UserError(
            f"ray.gpus_per_actor={share:g}: {together} engines share a GPU and each takes "
            f"rollout.vllm.gpu_memory_utilization={each:g} of its memory; expected at most {1 / together:.2g}"
        )
