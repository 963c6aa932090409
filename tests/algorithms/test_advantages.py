"""Group-normalised advantages."""

import pytest
import torch

from algorithms.advantages import group_advantages, zero_variance_groups


def test_by_hand():
    rewards = torch.tensor([[1.0, 0.0, 0.0, 1.0], [3.0, 1.0, 1.0, 1.0]])
    std = torch.tensor([[(1 / 3) ** 0.5], [1.0]], dtype=torch.float64)
    centred = torch.tensor([[0.5, -0.5, -0.5, 0.5], [1.5, -0.5, -0.5, -0.5]], dtype=torch.float64)
    torch.testing.assert_close(group_advantages(rewards), centred / (std + 1e-6), rtol=1e-14, atol=0)
    torch.testing.assert_close(group_advantages(rewards, divide_by_std=False), centred, rtol=1e-14, atol=0)


def test_equal_rewards_give_exactly_zero():
    rewards = torch.full((3, 8), 0.1)
    naive = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-6)
    assert naive.abs().max() > 1e-3, "the trap that the test of equality avoids"
    assert not group_advantages(rewards).any()
    assert group_advantages(rewards).dtype == torch.float64


def test_group_of_one_and_wrong_shape():
    assert group_advantages(torch.tensor([[3.0]])).item() == 0
    with pytest.raises(ValueError, match="expected"):
        group_advantages(torch.tensor(1.0))


def test_zero_variance_groups():
    rewards = torch.tensor([[1.0, 1.0], [0.0, 1.0], [0.0, 0.0], [0.3, 0.3]])
    assert zero_variance_groups(rewards) == 0.75
