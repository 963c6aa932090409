"""A policy's model cut into slices by FSDP2, and the slices read from files of whole tensors."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from harness.errors import RunFailed, UserError
from harness.models.policy import Policy
from harness.ranks.summing import SUMS


def cut(policy: Policy, mesh: DeviceMesh, add: str) -> list[Any]:
    """Leaves this rank its slice of every parameter of a policy; layer by layer they come together to be computed with.

    mesh: the ranks.
    add: how gradients are added, "ordered" or "fast".
    Returns what adds them, one a layer and one for the rest.
    """
    # The scores are a view of what the head gives; nobody writes into them.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view")
    model: Any = policy.model
    sums = []
    for module in (*_layers(model), model):
        fully_shard(module, mesh=mesh, reshard_after_forward=True)
        module.set_gradient_divide_factor(1.0)  # the denominators are the mini-batch's, so gradients are summed
        module.set_force_sum_reduction_for_comms(True)
        sums.append(SUMS[add]())
        module.set_custom_reduce_scatter(sums[-1])
    policy.enter_through(_entrance)
    return sums


def _layers(model: nn.Module) -> list[nn.Module]:
    """The layers of a transformers model, under the name by which it says that they are not to be split."""
    names = getattr(model, "_no_split_modules", None) or ()
    return [module for module in model.modules() if type(module).__name__ in names]


def _entrance(module: nn.Module, compute: Callable[..., Any]) -> Callable[..., Any]:
    """A function that computes a module, with FSDP's hooks before and after it, as if it were module.forward."""
    module.entrance = compute  # type: ignore[assignment]
    register_fsdp_forward_method(module, "entrance")
    entrance: Callable[..., Any] = module.entrance  # type: ignore[assignment]
    return entrance


def named_once(module: nn.Module) -> dict[str, Tensor]:
    """A module's state dict in which tied tensors stand once, under the name that comes first."""
    names: dict[int, str] = {}
    state = module.state_dict(keep_vars=True)
    for name, tensor in state.items():
        names.setdefault(id(tensor), name)
    return {name: state[name] for name in names.values()}


class Slices:
    """Tensors of safetensors files, of which this rank reads its rows.

    files: that hold them.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        self._files: dict[str, Any] = {}
        for path in files:
            opened = safe_open(path, "pt")
            self._files |= dict.fromkeys(opened.keys(), opened)
        self.names = set(self._files)

    def fill(self, target: Tensor, name: str) -> None:
        """Copies the rows that `target` holds of a tensor, or all of it where `target` is no slice.

        Raises RunFailed for a tensor of another shape.
        """
        stored = self._files[name].get_slice(name)
        if tuple(stored.get_shape()) != tuple(target.shape):
            raise RunFailed(f"{name} has the shape {stored.get_shape()}; expected {list(target.shape)}")
        with torch.no_grad():
            if isinstance(target, DTensor):
                first, last = rows_of(target)
                target.to_local().copy_(stored[first:last])
            else:
                target.copy_(self._files[name].get_tensor(name))


def rows_of(tensor: DTensor) -> tuple[int, int]:
    """The first row of a tensor that this rank holds, and the one after its last: chunks as torch.chunk makes them."""
    mesh, rows = tensor.device_mesh, tensor.shape[0]
    size = -(-rows // mesh.size())
    first = min(mesh.get_local_rank() * size, rows)
    return first, min(first + size, rows)


def materialise(module: Any, files: Iterable[Path], path: str) -> None:
    """Gives a model that was cut on the meta device its memory and its weights, of which a rank reads its slices alone.

    module: a transformers model.
    files: its weights.
    path: of the model, for messages.
    Raises UserError for weights under names that the model does not have.
    """
    device, slices = next(iter(module.parameters())).device_mesh.device_type, Slices(files)
    state = {}
    for name, tensor in named_once(module).items():
        made = torch.empty_like(tensor, device=device, requires_grad=False)
        slices.fill(made, _stored_name(name, module.base_model_prefix, slices.names, path))
        if not torch.isfinite(made.to_local().sum() if isinstance(made, DTensor) else made.sum()):
            raise UserError(f"model.path={path}: {name} holds NaN or infinite values; give other weights")
        state[name] = made
    _assign(module, state)
    for owner in module.modules():
        if _computed_buffers(owner, device):
            module._init_weights(owner)  # what transformers itself does with what no file holds


def _assign(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Puts tensors in the places of a module's own; tied places get one tensor."""
    own = module.state_dict(keep_vars=True)
    made = {
        id(own[name]): nn.Parameter(tensor) for name, tensor in state.items() if isinstance(own[name], nn.Parameter)
    }
    module.load_state_dict({name: made.get(id(tensor), state.get(name)) for name, tensor in own.items()}, assign=True)


def _stored_name(name: str, prefix: str, stored: set[str], path: str) -> str:
    for candidate in (name, name.removeprefix(f"{prefix}.")):
        if candidate in stored:
            return candidate
    raise UserError(
        f"model.path={path}: its files have no tensor {name}, so ranks cannot read their slices; "
        "save the model once with save_pretrained, or use ranks=1"
    )


def _computed_buffers(owner: nn.Module, device: str) -> bool:
    """Gives the buffers of a module that no file holds their memory; whether there are any."""
    names = [name for name, buffer in owner.named_buffers(recurse=False) if buffer.is_meta]
    for name in names:
        setattr(owner, name, torch.empty_like(getattr(owner, name), device=device))
    return bool(names)
