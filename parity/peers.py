"""The peers' losses behind one signature: Inputs → 0-d loss, differentiable in Inputs.logp.

Their code is imported and called, never copied. Each adapter only arranges arguments: what a peer's defaults would
change (dual clip, KL, importance correction) is set to the method compared. Called on one CPU process, offline.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Inputs:
    """One mini-batch: logp [B,T] requires grad; behaviour, proximal, engine [B,T]; advantages [B]; mask bool."""

    logp: Tensor
    behaviour: Tensor
    advantages: Tensor
    mask: Tensor
    proximal: Tensor | None = None
    engine: Tensor | None = None

    @property
    def valid(self) -> Tensor:
        """The mask as numbers, which is what every peer multiplies by."""
        return self.mask.to(self.logp.dtype)


Peer = Callable[[Inputs], Tensor]


def verl(name: str, mode: str = "token-mean", *, correct: Any = None, **options: Any) -> Peer:
    """A loss of verl's registry. correct: (old, new, threshold) names two policies and a cap or a band.

    The weight new/old, bounded by the threshold, then multiplies the loss, as its rollout correction does; the
    PPO ratio is taken against `new`, the policy in the middle.
    """
    from verl.trainer.ppo.core_algos import get_policy_loss_fn
    from verl.trainer.ppo.rollout_corr_helper import compute_rollout_correction_weights

    settings = {"clip_ratio": 0.2, "clip_ratio_low": 0.2, "clip_ratio_high": 0.2, "clip_ratio_c": 1e9}
    config = actor_config(**{**settings, **options})
    loss_fn = get_policy_loss_fn(name)

    def run(x: Inputs) -> Tensor:
        weights, reference = None, x.behaviour
        if correct is not None:
            old, new, threshold = correct
            reference = getattr(x, new)
            gap = reference - getattr(x, old)
            weights, _ = compute_rollout_correction_weights(gap, x.valid, "token", threshold)
        advantages = x.advantages[:, None].expand_as(x.logp)
        return loss_fn(reference, x.logp, advantages, x.valid, mode, config, rollout_is_weights=weights)[0]

    return run


def actor_config(**options: Any) -> Any:
    """verl's configuration of an actor."""
    from verl.workers.config import ActorConfig

    return ActorConfig(strategy="fsdp", rollout_n=1, use_dynamic_bsz=True, **options)


def verl_dro(beta: float) -> Peer:
    """verl's `dro`."""
    from verl.workers.config.actor import PolicyLossConfig

    return verl("dro", policy_loss=PolicyLossConfig(loss_mode="dro", dro_beta=beta))


def verl_correction(correction: Any, dual_clip: float = 3.0) -> Peer:
    """A whole rollout correction of verl, a RolloutCorrectionConfig: weights, rejection and loss, as its trainer does.

    Two policies in bypass mode, else three: then weights and rejection are of the proximal policy over the rollout's.
    """
    from verl.trainer.ppo.core_algos import get_policy_loss_fn
    from verl.trainer.ppo.rollout_corr_helper import compute_rollout_correction_and_rejection_mask
    from verl.workers.config.actor import PolicyLossConfig

    policy_loss = PolicyLossConfig(rollout_correction=correction)
    clip = {"clip_ratio": 0.2, "clip_ratio_low": 0.2, "clip_ratio_high": 0.2, "clip_ratio_c": dual_clip}
    config = actor_config(policy_loss=policy_loss, **clip)
    keys = ("rollout_is", "rollout_is_threshold", "rollout_is_batch_normalize", "rollout_rs", "rollout_rs_threshold")
    settings = {key: getattr(correction, key) for key in keys}

    def run(x: Inputs) -> Tensor:
        advantages = x.advantages[:, None].expand_as(x.logp)
        if correction.bypass_mode:
            loss = get_policy_loss_fn("bypass_mode")
            return loss(x.behaviour, x.logp, advantages, x.valid, "token-mean", config)[0]
        proto, mask, _ = compute_rollout_correction_and_rejection_mask(x.proximal, x.behaviour, x.valid, **settings)
        weights = None if proto is None else proto.batch["rollout_is_weights"]
        loss = get_policy_loss_fn("vanilla")
        return loss(x.proximal, x.logp, advantages, mask, "token-mean", config, rollout_is_weights=weights)[0]

    return run


def verl_preset(name: str) -> Peer:
    """A preset of verl's rollout correction."""
    from verl.trainer.config.algorithm import RolloutCorrectionConfig

    return verl_correction(getattr(RolloutCorrectionConfig, name)())


def verl_rejection(option: str, threshold: str) -> Peer:
    """verl's REINFORCE on what one of its rejection options leaves."""
    from verl.trainer.config.algorithm import RolloutCorrectionConfig

    settings = {"rollout_is": None, "rollout_rs": option, "rollout_rs_threshold": threshold}
    return verl_correction(RolloutCorrectionConfig(bypass_mode=True, loss_type="reinforce", **settings))


def verl_reinforce(threshold: float | str, level: str, normalise: bool = False) -> Peer:
    """verl's REINFORCE with the importance weights of its rollout correction; normalise: to a mean of 1."""
    from verl.trainer.ppo.core_algos import compute_policy_loss_reinforce
    from verl.trainer.ppo.rollout_corr_helper import compute_rollout_correction_weights

    config = actor_config()

    def run(x: Inputs) -> Tensor:
        gap = x.logp.detach() - x.behaviour
        weights, _ = compute_rollout_correction_weights(gap, x.valid, level, threshold, normalise)
        advantages = x.advantages[:, None].expand_as(x.logp)
        arguments = (x.behaviour, x.logp, advantages, x.valid, "token-mean", config)
        return compute_policy_loss_reinforce(*arguments, rollout_is_weights=weights)[0]

    return run


def trl(loss_type: str, *, level: str = "token", opsm: float | None = None, **options: Any) -> Peer:
    """TRL's GRPOTrainer._compute_loss ("gmpo": GMPOTrainer's), unbound, on a stand-in that returns given log-probs."""
    from trl import GRPOTrainer
    from trl.experimental.gmpo import GMPOTrainer

    trainer = GMPOTrainer if loss_type == "gmpo" else GRPOTrainer

    settings = {"epsilon_low": 0.2, "epsilon_high": 0.2, "delta": None, **options}
    args = SimpleNamespace(
        delta=settings["delta"],
        steps_per_generation=1,
        sapo_temperature_pos=1.0,
        sapo_temperature_neg=1.05,
        vespo_k_pos=2.0,
        vespo_lambda_pos=3.0,
        vespo_k_neg=3.0,
        vespo_lambda_neg=2.0,
    )
    accelerator = SimpleNamespace(
        num_processes=1,
        gather=lambda value: value,
        gather_for_metrics=lambda value: value,
        reduce=lambda value, reduction: value,
    )

    def run(x: Inputs) -> Tensor:
        rows, width = x.logp.shape
        stand_in = SimpleNamespace(
            _get_per_token_logps_and_entropies=lambda *_, **__: (x.logp, torch.zeros_like(x.logp), None),
            get_off_policy_mask=GRPOTrainer.get_off_policy_mask,
            get_gamma_weights=GRPOTrainer.get_gamma_weights,
            _metrics={"train": defaultdict(list)},
            _entropy_bonus_enabled=False,
            aux_loss_enabled=False,
            top_entropy_quantile=1.0,
            off_policy_mask_threshold=opsm,
            importance_sampling_level=level,
            beta=0.0,
            loss_type=loss_type,
            epsilon_low=settings["epsilon_low"],
            epsilon_high=settings["epsilon_high"],
            use_vllm=False,
            vllm_importance_sampling_correction=False,
            model=SimpleNamespace(training=True),
            current_gradient_accumulation_steps=1,
            max_completion_length=width,
            accelerator=accelerator,
            args=args,
        )
        tokens = torch.zeros(rows, width, dtype=torch.long)
        batch = {
            "prompt_ids": tokens[:, :1],
            "prompt_mask": torch.ones(rows, 1),
            "completion_ids": tokens,
            "completion_mask": x.valid,
            "advantages": x.advantages,
            "old_per_token_logps": x.behaviour,
            "num_items_in_batch": x.valid.sum(),
        }
        return trainer._compute_loss(stand_in, None, batch)

    return run


def liger(loss_type: str, *, level: str = "token", **options: Any) -> Peer:
    """Liger's chunked GRPO loss, its pure-torch part."""
    from liger_kernel.chunked_loss.grpo_loss import LigerFusedLinearGRPOFunction

    def run(x: Inputs) -> Tensor:
        loss, _ = LigerFusedLinearGRPOFunction.ppo_loss_fn(
            x.logp,
            x.valid,
            x.advantages,
            x.valid,
            old_per_token_logps=x.behaviour,
            beta=0.0,
            loss_type=loss_type,
            importance_sampling_level=level,
            max_completion_length=x.logp.shape[1],
            **options,
        )
        return loss

    return run
