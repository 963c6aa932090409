"""AReaL's actor loss behind the peers' signature.

The package is installed without its dependencies, so its modules cannot be imported. The functions needed are plain
torch: they are taken out of its files by name and run as they stand.
"""

import __future__

import ast
from dataclasses import dataclass
from functools import cache
from importlib.metadata import distribution
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from parity.peers import Inputs, Peer

FUNCTIONS = {
    "areal/utils/data.py": ("KLEstimator",),
    "areal/utils/functional/functional.py": (
        "RejectionSamplingResult",
        "_check_bounds",
        "apply_rejection_sampling",
        "ppo_actor_loss_fn",
    ),
    "areal/trainer/ppo/actor.py": ("_get_m2po_loss_mask", "_apply_m2po_masking"),
}


@cache
def functions() -> dict[str, Any]:
    """The functions by name, in one namespace."""
    names: dict[str, Any] = {"torch": torch, "dataclass": dataclass, "Any": Any}
    for path, chosen in FUNCTIONS.items():
        source = str(distribution("areal").locate_file(path))
        with open(source) as file:
            tree = ast.parse(file.read())
        tree.body = [node for node in tree.body if getattr(node, "name", None) in chosen]
        # Their annotations name types that are not there.
        exec(compile(tree, source, "exec", flags=__future__.annotations.compiler_flag), names)
    return names


def areal(*, m2_threshold: float | None = None, rejection: dict[str, Any] | None = None) -> Peer:
    """AReaL's `grpo_loss_fn` with use_decoupled_loss, ε = 0.2: M2PO's mask, then rejection, then PPO's clip.

    rejection: of RejectionSamplingConfig; what is not given is its default.
    """
    defaults = {"level": "token", "action": "mask", "metric": "ratio", "agg": "mean", "upper": 5.0, "lower": None}
    config = None if rejection is None else SimpleNamespace(**{**defaults, **rejection})

    def run(x: Inputs) -> Tensor:
        mask = x.mask
        if m2_threshold is not None:
            mask = functions()["_apply_m2po_masking"](x.behaviour, x.proximal, mask, m2_threshold)
        advantages = x.advantages[:, None].expand_as(x.logp)
        policies = {"logprobs": x.logp, "proximal_logprobs": x.proximal, "old_logprobs": x.behaviour}
        loss, _ = functions()["ppo_actor_loss_fn"](
            **policies, advantages=advantages, eps_clip=0.2, loss_mask=mask, rejection_sampling=config
        )
        return loss

    return run
