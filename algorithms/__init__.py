"""Stabilisers of off-policy RL: each a function from token statistics to per-token weights."""

from algorithms.aggregation import AGGREGATIONS
from algorithms.bapo import BAPO
from algorithms.cispo import CISPO
from algorithms.decoupled import Decoupled
from algorithms.diagnostics import diagnose
from algorithms.dppo import DPPO
from algorithms.engine_mismatch import EngineMismatch
from algorithms.gmpo import GMPO
from algorithms.gppo import GPPO
from algorithms.grpo import GRPO
from algorithms.gspo import GSPO
from algorithms.gspo_token import GSPOToken
from algorithms.interface import Algorithm, LossOutput, TokenStats, TokenWeights, compose, measure, number, weigh
from algorithms.m2_penalty import M2Penalty
from algorithms.m2po import M2PO
from algorithms.mis import MIS
from algorithms.no_trust_region import NoTrustRegion
from algorithms.opsm import OPSM
from algorithms.per_decision import PerDecision
from algorithms.registry import METHODS, make, names, parameters
from algorithms.reinforce import Reinforce
from algorithms.reject import Reject
from algorithms.sapo import SAPO
from algorithms.snis import SNIS
from algorithms.tis import TIS
from algorithms.topr import TOPR
from algorithms.vespo import VESPO

METHODS |= {
    "bapo": BAPO,
    "cispo": CISPO,
    "decoupled": Decoupled,
    "dppo": DPPO,
    "engine_mismatch": EngineMismatch,
    "gmpo": GMPO,
    "gppo": GPPO,
    "grpo": GRPO,
    "gspo": GSPO,
    "gspo_token": GSPOToken,
    "m2_penalty": M2Penalty,
    "m2po": M2PO,
    "mis": MIS,
    "no_trust_region": NoTrustRegion,
    "opsm": OPSM,
    "per_decision": PerDecision,
    "reinforce": Reinforce,
    "reject": Reject,
    "sapo": SAPO,
    "snis": SNIS,
    "tis": TIS,
    "topr": TOPR,
    "vespo": VESPO,
}

__all__ = [
    "AGGREGATIONS",
    "METHODS",
    "Algorithm",
    "LossOutput",
    "TokenStats",
    "TokenWeights",
    "compose",
    "diagnose",
    "make",
    "measure",
    "names",
    "number",
    "parameters",
    "weigh",
]
