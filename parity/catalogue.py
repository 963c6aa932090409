"""Which peer has which method, with the arguments that make the two comparable."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import algorithms
from algorithms import Algorithm, TokenStats
from parity.peers import Inputs, Peer, liger, trl, verl, verl_reinforce


@dataclass(frozen=True)
class Match:
    """One row of the table: our method, and how each peer that has it is called (built when used).

    value: whether the peer publishes the same surrogate; where it is False only the gradients are compared, and
    `note` says why.
    """

    label: str
    name: str
    params: dict[str, Any]
    peers: dict[str, Callable[[], Peer]]
    value: bool = True
    note: str = ""
    main: bool = field(default=False)

    @property
    def method(self) -> Algorithm:
        """Our side."""
        return algorithms.make(self.name, **self.params)


def stats_of(x: Inputs) -> TokenStats:
    """The same mini-batch as TokenStats."""
    return TokenStats(x.logp, x.behaviour, x.advantages, x.mask, logp_proximal=x.proximal, logp_engine=x.engine)


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
]

REASONS = {
    "bapo": "no peer installed here has it",
    "gppo": "no peer installed here has it",
    "gspo_token": "equals gspo where the advantage is one a sequence, which is all the peers take",
    "m2_penalty": "prime-rl's default loss, which is not on the package index",
    "m2po": "AReaL and the authors' fork of verl have it, neither on the package index; see the tests' naive loop",
    "topr": "no peer installed here has it",
}
"""Why a registered method has no peer."""


def absent() -> dict[str, str]:
    """The registered methods without a peer, and why."""
    compared = {match.name for match in MATCHES}
    return {name: REASONS.get(name, "not compared yet") for name in algorithms.names() if name not in compared}
