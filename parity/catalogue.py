"""Which peer has which method, with the arguments that make the two comparable."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import yaml

import algorithms
from algorithms import Algorithm, TokenStats
from parity.areal import areal
from parity.peers import Inputs, Peer, liger, trl, verl, verl_dro, verl_preset, verl_reinforce, verl_rejection


@dataclass(frozen=True)
class Match:
    """One row of the table: our method, and how each peer that has it is called (built when used).

    value: whether the peer publishes the same surrogate; where it is False only the gradients are compared, and
    `note` says why.
    drift: scale of the log-ratios, so that a threshold has tokens or sequences on both of its sides.
    """

    label: str
    name: str
    params: dict[str, Any]
    peers: dict[str, Callable[[], Peer]]
    value: bool = True
    note: str = ""
    main: bool = field(default=False)
    drift: float = 1.0

    @property
    def method(self) -> Algorithm:
        """Our side."""
        return algorithms.make(self.name, **self.params)


def stats_of(x: Inputs) -> TokenStats:
    """The same mini-batch as TokenStats."""
    return TokenStats(x.logp, x.behaviour, x.advantages, x.mask, logp_proximal=x.proximal, logp_engine=x.engine)


CONF = Path(__file__).resolve().parents[1] / "conf" / "algo"


def preset(name: str) -> tuple[str, dict[str, Any]]:
    """Method and parameters of a preset, as its file has them."""
    settings = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    kind = settings.pop("_target_").rpartition(".")[2]
    return next(n for n, method in algorithms.METHODS.items() if method.__name__ == kind), settings


SEQUENCE = {"aggregation": "seq_mean_token_mean"}
NORM = {"aggregation": "seq_mean_token_sum_norm"}
GSPO = {"clip_ratio": 3e-4, "clip_ratio_low": 3e-4, "clip_ratio_high": 4e-4}
EPSILON = {"epsilon_low": 3e-4, "epsilon_high": 4e-4}
OPSM = {"base": "grpo", "delta": 0.05, "base_parameters": SEQUENCE}
WEIGHTED_LIKELIHOOD = "verl's value is that of a weighted likelihood, with the same gradient"

MATCHES = [
    Match(
        "GRPO, token mean",
        "grpo",
        {},
        {"verl": lambda: verl("vanilla"), "TRL": lambda: trl("dapo"), "Liger": lambda: liger("dapo")},
        main=True,
    ),
    Match(
        "GRPO, sequence mean",
        "grpo",
        SEQUENCE,
        {
            "verl": lambda: verl("vanilla", "seq-mean-token-mean"),
            "TRL": lambda: trl("grpo"),
            "Liger": lambda: liger("grpo"),
        },
    ),
    Match(
        "GRPO, sequence sum / L_max (Dr. GRPO)",
        "grpo",
        NORM,
        {
            "verl": lambda: verl("vanilla", "seq-mean-token-sum-norm"),
            "TRL": lambda: trl("dr_grpo"),
            "Liger": lambda: liger("dr_grpo"),
        },
    ),
    Match(
        "GRPO, clip-higher and dual clip 3",
        "grpo",
        {"epsilon_high": 0.28, "dual_clip": 3.0},
        {
            "verl": lambda: verl("vanilla", clip_ratio_high=0.28, clip_ratio_c=3.0),
            "TRL": lambda: trl("dapo", epsilon_high=0.28, delta=3.0),
            "Liger": lambda: liger("dapo", epsilon_high=0.28, delta=3.0),
        },
    ),
    Match(
        "no trust region (ε = ∞)",
        "no_trust_region",
        {},
        {
            "verl": lambda: verl("vanilla", clip_ratio=1e9, clip_ratio_low=1e9, clip_ratio_high=1e9),
            "TRL": lambda: trl("dapo", epsilon_low=1e9, epsilon_high=1e9),
            "Liger": lambda: liger("dapo", epsilon_low=1e9, epsilon_high=1e9),
        },
        main=True,
    ),
    Match(
        "GSPO",
        "gspo",
        {},
        {
            "verl": lambda: verl("gspo", "seq-mean-token-mean", **GSPO),
            "TRL": lambda: trl("grpo", level="sequence", **EPSILON),
            "Liger": lambda: liger("grpo", level="sequence", **EPSILON),
        },
        main=True,
    ),
    Match(
        "CISPO, cap 1.2",
        "cispo",
        {"ratio_cap": 1.2},
        {
            "verl": lambda: verl("cispo", clip_ratio_low=1e9, clip_ratio_high=0.2),
            "TRL": lambda: trl("cispo", epsilon_high=1.2),
            "Liger": lambda: liger("cispo", epsilon_high=1.2),
        },
        main=True,
    ),
    Match("TIS, token, C = 2", "tis", {}, {"verl": lambda: verl_reinforce(2.0, "token")}, main=True),
    Match("TIS, sequence, C = 2", "tis", {"level": "sequence"}, {"verl": lambda: verl_reinforce(2.0, "sequence")}),
    Match("MIS, token, 0.5–5", "mis", {}, {"verl": lambda: verl_reinforce("0.5_5.0", "token")}, main=True),
    Match(
        "MIS, sequence, 0.5–5",
        "mis",
        {"level": "sequence"},
        {"verl": lambda: verl_reinforce("0.5_5.0", "sequence")},
    ),
    Match(
        "SAPO",
        "sapo",
        {},
        {
            "verl": lambda: verl("sapo", "seq-mean-token-mean", tau_pos=1.0, tau_neg=1.05),
            "TRL": lambda: trl("sapo"),
            "Liger": lambda: liger("sapo"),
        },
        main=True,
    ),
    Match(
        "DPPO, total variation",
        "dppo",
        {},
        {"verl": lambda: verl("dppo_tv", clip_ratio_c=1e9)},
        value=False,
        note=WEIGHTED_LIKELIHOOD,
        main=True,
    ),
    Match(
        "decoupled, truncate (TIS as published)",
        "decoupled",
        {"mode": "truncate"},
        {"verl": lambda: verl("vanilla", correct=("behaviour", "proximal", 2.0))},
        main=True,
    ),
    Match(
        "decoupled, band (IcePop as published)",
        "decoupled",
        {"mode": "band"},
        {"verl": lambda: verl("vanilla", correct=("behaviour", "proximal", "0.5_5.0"))},
    ),
    Match(
        "engine mismatch × GRPO, C = 2",
        "engine_mismatch",
        {},
        {"verl": lambda: verl("vanilla", correct=("engine", "behaviour", 2.0))},
        main=True,
    ),
    Match("OPSM × GRPO, δ = 0.05", "opsm", OPSM, {"TRL": lambda: trl("grpo", opsm=0.05)}, main=True),
    Match(
        "LUSPO",
        "gspo",
        {"aggregation": "seq_mean_token_sum"},
        {
            "TRL": lambda: trl("luspo", level="sequence", **EPSILON),
            "Liger": lambda: liger("luspo", level="sequence", **EPSILON),
        },
    ),
    Match("VESPO", "vespo", {}, {"TRL": lambda: trl("vespo"), "Liger": lambda: liger("vespo")}, main=True),
    Match(
        "GMPO (verl: geo_mean)",
        "gmpo",
        {},
        {
            "verl": lambda: verl("geo_mean", clip_ratio=0.4, clip_ratio_low=0.4, clip_ratio_high=0.4),
            "TRL": lambda: trl("gmpo", epsilon_low=0.4, epsilon_high=0.4),
        },
        main=True,
    ),
    Match(
        "DPPO, binary KL",
        "dppo",
        {"divergence": "kl", "delta_low": 0.05, "delta_high": 0.05},
        {"verl": lambda: verl("dppo_kl", clip_ratio_low=0.05, clip_ratio_high=0.05, clip_ratio_c=1e9)},
        value=False,
        note=WEIGHTED_LIKELIHOOD,
    ),
    Match("REINFORCE, w = 1 (verl: gpg)", "reinforce", {}, {"verl": lambda: verl("gpg")}, main=True),
    Match("REINFORCE with a pull (verl: dro), β = 0.1", "reinforce", {"beta": 0.1}, {"verl": lambda: verl_dro(0.1)}),
    Match(
        "SNIS, token, C = 2",
        "snis",
        {"ratio_cap": 2.0},
        {"verl": lambda: verl_reinforce(2.0, "token", True)},
        main=True,
    ),
    Match(
        "SNIS, sequence, C = 2",
        "snis",
        {"ratio_cap": 2.0, "level": "sequence"},
        {"verl": lambda: verl_reinforce(2.0, "sequence", True)},
    ),
    Match("naive proximal (AReaL without rejection)", "decoupled", {"mode": "none"}, {"AReaL": areal}, main=True),
    Match(
        "decoupled, mask (AReaL: ratio, token, 5)",
        "decoupled",
        {},
        {"AReaL": lambda: areal(rejection={"upper": 5.0})},
    ),
    Match(
        "decoupled, truncate (AReaL: clamp, token, 2)",
        "decoupled",
        {"mode": "truncate"},
        {"AReaL": lambda: areal(rejection={"action": "clamp", "upper": 2.0})},
    ),
    Match(
        "M2PO, variant areal, τ = 0.04",
        "m2po",
        {"variant": "areal"},
        {"AReaL": lambda: areal(m2_threshold=0.04, rejection={"upper": 5.0})},
        main=True,
        drift=0.7,
    ),
]

UNBOUNDED = {"mode": "truncate", "weight_cap": 1e9}
BOUNDS = {"ratio_low": 1 / 1.5, "ratio_high": 1.5}
DRIFT = {"token": 1.0, "seq_sum": 0.3, "seq_mean": 0.3, "seq_max": 0.3}
LIMITS = {"token": 0.05, "seq_sum": 0.2, "seq_mean": 0.01, "seq_max": 0.05}


def rejection(metric: str, level: str) -> Match:
    """One of verl's rejection options around REINFORCE with w = 1."""
    threshold = "0.6666666666666666_1.5" if metric == "k1" else str(LIMITS[level])
    if (metric, level) == ("k1", "seq_mean"):
        threshold, bounds = "0.98_1.02", {"ratio_low": 1 / 1.02, "ratio_high": 1 / 0.98}
    else:
        bounds = BOUNDS if metric == "k1" else {"limit": LIMITS[level]}
    params = {"base": "reinforce", "metric": metric, "level": level, "denominator": "kept", **bounds}
    peer = partial(verl_rejection, f"{level}_{metric}", threshold)
    main = (metric, level) == ("k1", "seq_sum")
    return Match(f"rejection, {level} {metric}", "reject", params, {"verl": peer}, main=main, drift=DRIFT[level])


def areal_rejection(metric: str, aggregate: str, limit: float, drift: float) -> Match:
    """One of AReaL's KL rejections, by sequence, around the decoupled weight without a bound."""
    params = {"base": "decoupled", "base_parameters": UNBOUNDED, "policy": "proximal", "limit": limit}
    settings = {"level": "sequence", "metric": f"kl_{metric}", "agg": aggregate, "upper": limit}
    label = f"rejection, proximal, seq_{aggregate} {metric}"
    params |= {"metric": metric, "level": f"seq_{aggregate}"}
    return Match(label, "reject", params, {"AReaL": lambda: areal(rejection=settings)}, drift=drift)


OPTIONS = [(metric, level) for level in DRIFT for metric in ("k1", "k2", "k3") if (metric, level) != ("k1", "seq_max")]
MATCHES += [rejection(metric, level) for metric, level in OPTIONS]
MATCHES += [
    areal_rejection("k2", aggregate, limit, 0.3) for aggregate, limit in (("mean", 0.01), ("sum", 0.2), ("max", 0.05))
]

VERL_PRESETS = sorted(file.stem.removeprefix("verl_") for file in CONF.glob("verl_*.yaml"))
MATCHES += [
    Match(
        f"verl's preset {name}",
        *preset(f"verl_{name}"),
        {"verl": partial(verl_preset, name)},
        drift=0.01 if "geo_rs" in name else 0.3 if "_rs" in name else 1.0,
    )
    for name in VERL_PRESETS
]

REASONS = {
    "bapo": "no peer installed here has it",
    "gppo": "no peer installed here has it",
    "gspo_token": "equals gspo where the advantage is one a sequence, which is all the peers take",
    "m2_penalty": "prime-rl's default loss, which is not on the package index",
    "per_decision": "no peer installed here has it",
    "topr": "no peer installed here has it",
}
"""Why a registered method has no peer."""


def absent() -> dict[str, str]:
    """The registered methods without a peer, and why."""
    compared = {match.name for match in MATCHES}
    return {name: REASONS.get(name, "not compared yet") for name in algorithms.names() if name not in compared}
