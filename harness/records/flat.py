"""A run's state as flat named tensors for safetensors files, and back into the model, the optimizer and the queue.

Nothing is copied on the way out; on the way in, one tensor at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from harness.errors import RunFailed
from harness.types import Rollouts

# Integers are stored in the smallest of these that holds them, and come back as int32.
INTEGERS = (torch.uint8, torch.int16, torch.int32)


def stored_once(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict in which tied tensors stand once, under the name that comes first, as save_pretrained does."""
    first: dict[tuple[int, torch.Size], str] = {}
    for name, tensor in weights.items():
        first.setdefault((tensor.data_ptr(), tensor.shape), name)
    return {name: weights[name] for name in first.values()}


def restore_weights(weights: Mapping[str, Tensor], stored: Iterable[tuple[str, Tensor]]) -> None:
    """Copies stored tensors into a model's state dict; tied ones are filled by the one that stands for them.

    Raises RunFailed for a tensor that the model does not have, or has in another shape, and for a missing one.
    """
    filled = set()
    for name, tensor in stored:
        if name not in weights or weights[name].shape != tensor.shape:
            raise _other_model(name)
        weights[name].copy_(tensor)
        filled.add(weights[name].data_ptr())
    for name, tensor in weights.items():
        if tensor.data_ptr() not in filled:
            raise _other_model(name)


def _other_model(name: str) -> RunFailed:
    return RunFailed(f"the checkpoint's weights are not this model's: {name}; move the run folder away")


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimizer's state: "3.exp_avg" is the first moment of parameter 3. Hyperparameters come from the config."""
    state = optimizer.state_dict()["state"]
    return {f"{index}.{name}": tensor for index, own in state.items() for name, tensor in own.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, stored: Mapping[str, Tensor]) -> None:
    """Makes the stored tensors, on the device of the parameters, the state of an optimizer, without a copy."""
    optimizer.load_state_dict({"state": _nested(stored), "param_groups": optimizer.state_dict()["param_groups"]})


def rollout_tensors(rollouts: Mapping[int, Rollouts]) -> dict[str, Tensor]:
    """The rollout queue by index of chunk: "7.response_ids" belongs to chunk 7."""
    return {f"{index}.{name}": tensor for index, own in rollouts.items() for name, tensor in own.tensors().items()}


def narrowest(tensors: Mapping[str, Tensor]) -> dict[str, torch.dtype]:
    """The smallest type for each int32 tensor that holds its values."""
    return {name: _narrowest(tensor) for name, tensor in tensors.items() if tensor.dtype == torch.int32}


def _narrowest(tensor: Tensor) -> torch.dtype:
    low, high = map(int, tensor.aminmax()) if len(tensor) else (0, 0)
    return next(dtype for dtype in INTEGERS if torch.iinfo(dtype).min <= low and high <= torch.iinfo(dtype).max)


def stored_rollouts(stored: Mapping[str, Tensor]) -> dict[int, Rollouts]:
    """The rollout queue again from what `rollout_tensors` made of it."""
    widened = {name: tensor.int() if tensor.dtype in INTEGERS else tensor for name, tensor in stored.items()}
    return {index: Rollouts(**own) for index, own in _nested(widened).items()}


def _nested(flat: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    nested: dict[int, dict[str, Tensor]] = {}
    for key, tensor in flat.items():
        index, name = key.split(".", 1)
        nested.setdefault(int(index), {})[name] = tensor
    return nested
