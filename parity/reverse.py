"""The table the other way round: what the peers have, what it is here, and why not where it is not."""

import inspect
import math
import pkgutil
import re
from collections.abc import Iterator

import torch

import algorithms
from algorithms import TokenStats

VERL = {
    "vanilla": "`grpo`",
    "dppo_tv": "`dppo`",
    "dppo_kl": "`dppo divergence=kl`",
    "gspo": "`gspo`",
    "sapo": "`sapo`",
    "gpg": "`reinforce`",
    "clip_cov": "no: it drops tokens drawn at random among those of high covariance; not a function of the batch",
    "kl_cov": "no: a KL term on the tokens of highest covariance, with a gradient that is no weight on log π",
    "geo_mean": "`gmpo`",
    "dro": "`reinforce beta=`",
    "cispo": "`cispo`, which has no floor",
    "bypass_mode": "the presets `verl_bypass_*`",
}
TRL = {
    "grpo": "`grpo aggregation=seq_mean_token_mean`",
    "dapo": "`grpo`",
    "dr_grpo": "`grpo aggregation=seq_mean_token_sum_norm`",
    "bnpo": "no: its denominator is that of a micro-batch, so the loss depends on how the mini-batch is cut",
    "luspo": "`gspo aggregation=seq_mean_token_sum`",
    "cispo": "`cispo`",
    "sapo": "`sapo`",
    "vespo": "`vespo`",
}
TRAINERS = {
    "a2po": "no: a regression on the implicit reward against an offline value, not a weight on A",
    "async_grpo": "`grpo`, on the log-probs that sampled; one token mean over the batch",
    "gmpo": "`gmpo`",
}
"""TRL's experimental trainers with a policy loss on rewards; `OTHER` has the rest of the folder."""
OTHER = {"bema_for_ref_model", "cpo", "harbor", "kto", "online_dpo", "openreward", "orpo", "tpo"} | {
    *("async_distillation", "distillation", "gkd", "gold", "iw_opd", "sdft", "sdpo", "server_distillation"),
}
"""Preferences, distillation and environments: nothing to compare with."""
REST = [
    ("TRL", "RLOOTrainer", "no: PPO's clip on Π r of the sequence; unclipped it is `tis level=sequence` without a cap"),
    ("TRL", "importance_sampling_level=sequence", "`gspo` with `aggregation=` of the loss type"),
    ("TRL", "delta", "`grpo dual_clip=`"),
    ("TRL", "off_policy_mask_threshold", "`opsm`"),
    ("TRL", "vllm_importance_sampling_mode", "`decoupled level=token|sequence mode=truncate|band`; no lower clamp"),
    ("TRL", "top_entropy_quantile", "no: a choice of tokens by entropy, not a stabiliser of stale data"),
    ("AReaL", "ppo_actor_loss_fn", "`decoupled`, `grpo`"),
    (
        "AReaL",
        "importance_sampling_level=sequence",
        "`gspo aggregation=token_mean`; around π_prox, `decoupled base=gspo`",
    ),
    ("AReaL", "prox_logp_method=loglinear", "`decoupled proximal=interpolated`"),
    (
        "AReaL",
        "rejection of kl_k1, kl_k2",
        "`reject policy=proximal metric=k1` (bounds as ratios, not nats), `metric=k2`",
    ),
    ("AReaL", "m2_threshold", "`m2po variant=areal`"),
    ("AReaL", "sapo_loss_fn", "`sapo aggregation=token_mean`"),
    ("AReaL", "rejection of kl_k3", "no: its k3 is of 1/r; `reject metric=k3` has verl's, of r"),
    (
        "AReaL",
        "rejection of ratio by sequence",
        "no: it rejects and weighs by the geometric mean; here w_b is the product",
    ),
    ("AReaL", "action=clamp with a lower bound", "no: `decoupled mode=truncate` has no lower clamp"),
]


def losses_of_trl() -> list[str]:
    """The loss types that GRPOTrainer compares `self.loss_type` with, read from its source."""
    from trl import GRPOTrainer

    branches = re.findall(r'self\.loss_type (?:==|in) (\[[^]]*\]|"\w+")', inspect.getsource(GRPOTrainer._compute_loss))
    return sorted({name for branch in branches for name in re.findall(r'"(\w+)"', branch)})


def trainers_of_trl() -> list[str]:
    """TRL's experimental trainers but those of `OTHER`."""
    import trl.experimental

    return sorted(m.name for m in pkgutil.iter_modules(trl.experimental.__path__) if m.ispkg and m.name not in OTHER)


def theirs() -> Iterator[tuple[str, str, str]]:
    """(peer, name, what it is here) of everything; KeyError for a loss of verl's or TRL's that the table lacks."""
    from verl.trainer.ppo.core_algos import POLICY_LOSS_REGISTRY
    from verl.trainer.ppo.rollout_corr_helper import SUPPORTED_ROLLOUT_RS_OPTIONS

    yield from (("verl", f"`{name}`", VERL[name]) for name in sorted(POLICY_LOSS_REGISTRY))
    for option in sorted(SUPPORTED_ROLLOUT_RS_OPTIONS):
        level, metric = option.rsplit("_", 1)
        algorithms.make("reject", metric=metric, level=level)
        yield "verl", f"`{option}`", f"`reject metric={metric} level={level}`"
    yield "verl", "`rollout_is_batch_normalize`", "`snis`, between two policies"
    yield "verl", "several rejection options at once", "`reject` around `reject`"
    yield from (("TRL, Liger", f"`{name}`", TRL[name]) for name in losses_of_trl())
    yield from (("TRL", f"`experimental.{name}`", TRAINERS[name]) for name in trainers_of_trl())
    yield from ((peer, f"`{name}`", here) for peer, name, here in REST)


def k1_bounds() -> list[list[str]]:
    """What verl and LagRange keep of some ratios under the bounds 0.6 and 1.4."""
    from verl.trainer.ppo.rollout_corr_helper import compute_rollout_rejection_mask

    ratios = [0.5, 0.6, 0.7, 0.75, 1.0, 1.3, 1.5, 1.6, 1.7]
    log_ratio, mask = torch.tensor([[math.log(r) for r in ratios]], dtype=torch.float64), torch.ones(1, len(ratios))
    kept, _ = compute_rollout_rejection_mask(log_ratio, mask, "token_k1", "0.6_1.4")
    stats = TokenStats(log_ratio, torch.zeros_like(log_ratio), torch.ones(1), mask.bool())
    rule = algorithms.make("reject", base="reinforce", metric="k1", level="token", ratio_low=0.6, ratio_high=1.4)
    ours = rule.weights(stats).kept
    words = {True: "kept", False: "rejected"}
    return [[f"{r:g}", words[bool(v)], words[bool(o)]] for r, v, o in zip(ratios, kept[0], ours[0], strict=True)]
