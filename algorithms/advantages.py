"""Rewards to advantages, relative to the group of responses to one prompt."""

import torch
from torch import Tensor

STD_FLOOR = 1e-6
ESTIMATORS = ("group_normalised", "group_centred", "rloo", "none")


def advantages(rewards: Tensor, estimator: str = "group_normalised", shift: float = 0.0) -> Tensor:
    """A = the reward relative to its group, minus a shift.

    rewards: [..., n], one group of n responses along the last axis.
    estimator: group_normalised (GRPO) · group_centred (Dr. GRPO) · rloo, R − mean of the *other* rewards of the group
        = centred · n/(n − 1) (arXiv 2402.14740) · none, R itself.
    shift: δ, taken from every A, so that a group whose rewards are all equal has A = −δ; with group_centred
        A = R − (mean + δ), the baseline of AsymRE (arXiv 2506.20520).
    Returns the same shape in float64. Raises ValueError for another estimator, or rloo on groups of one.
    """
    if estimator not in ESTIMATORS:
        raise ValueError(f"unknown advantage {estimator!r}; valid: {', '.join(ESTIMATORS)}")
    if estimator == "none":
        found = rewards.detach().double()
    else:
        found = group_advantages(rewards, divide_by_std=estimator == "group_normalised")
    if estimator == "rloo":
        found = found * _leave_one_out(rewards.shape[-1])
    return found - shift if shift else found


def _leave_one_out(size: int) -> float:
    """n/(n − 1): R minus the mean of the others, over R minus the mean of all."""
    if size < 2:
        raise ValueError(
            "rloo compares a reward with the others of its group; expected at least 2 responses to a prompt"
        )
    return size / (size - 1)


def group_advantages(rewards: Tensor, *, divide_by_std: bool = True) -> Tensor:
    """A = (R − mean) / (std + 1e-6) within each group, std unbiased; GRPO (arXiv 2402.03300).

    rewards: [..., G], one group along the last axis, G ≥ 1.
    divide_by_std: False is Dr. GRPO (arXiv 2503.20783).

    Returns the same shape in float64, in which it is computed. A group whose rewards are all equal has A = 0 exactly:
    by the test max = min and not by arithmetic, since eight rewards of 0.1 in float32 would give −0.007.
    Raises ValueError on a wrong shape.
    """
    if rewards.dim() == 0 or rewards.shape[-1] == 0:
        raise ValueError(f"rewards have shape {tuple(rewards.shape)}; expected [..., G], G responses to one prompt")
    values = rewards.detach().to(torch.float64)
    centred = values - values.mean(dim=-1, keepdim=True)
    if divide_by_std and values.shape[-1] > 1:
        centred = centred / (values.std(dim=-1, keepdim=True) + STD_FLOOR)
    return centred.masked_fill(equal_groups(rewards)[..., None], 0.0)


def equal_groups(rewards: Tensor) -> Tensor:
    """[..., G] → [...] bool: groups whose rewards are all equal, which carry no gradient."""
    return rewards.amax(dim=-1) == rewards.amin(dim=-1)


def zero_variance_groups(rewards: Tensor) -> Tensor:
    """Share of the groups in rewards [..., G] whose rewards are all equal, 0-d float64."""
    return equal_groups(rewards).double().mean()
