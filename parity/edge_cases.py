"""What the peers, and LagRange, do with inputs that a sweep will meet."""

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

import algorithms
from parity.catalogue import stats_of
from parity.peers import Inputs, Peer, liger, trl, verl

TOKEN = (1, 0)
Contender = Callable[[Inputs], tuple[Tensor, Tensor]]
Situation = Callable[[Inputs], Inputs]


def plain() -> Inputs:
    """3 responses of at most 4 tokens; nothing is clipped."""
    behaviour = torch.full((3, 4), -1.0)
    mask = torch.tensor([[True] * 4, [True] * 3 + [False], [True] * 2 + [False] * 2])
    A = torch.tensor([1.0, -2.0, 0.5])
    return Inputs(behaviour + 0.05, behaviour, A, mask)


def at(x: Inputs, value: float, index: tuple[int, int] = TOKEN) -> Inputs:
    """The current log-prob replaced at one token."""
    logp = x.logp.clone()
    logp[index] = value
    return replace(x, logp=logp)


def row_masked(x: Inputs) -> Inputs:
    mask = x.mask.clone()
    mask[2] = False
    return replace(x, mask=mask)


def signed(x: Inputs, sign: float) -> Inputs:
    A = x.advantages.clone()
    A[TOKEN[0]] = sign
    return replace(x, advantages=A)


SITUATIONS: dict[str, Situation] = {
    "an empty row, token mean": row_masked,
    "an empty row, sequence mean": row_masked,
    "no valid token at all": lambda x: replace(x, mask=torch.zeros_like(x.mask)),
    "NaN at a masked place": lambda x: at(x, math.nan, (2, 3)),
    "NaN at a valid place": lambda x: at(x, math.nan),
    "a current log-prob of −Inf": lambda x: at(x, -math.inf),
    "log-ratio +100, A > 0": lambda x: signed(at(x, 99.0), 1.0),
    "log-ratio +100, A < 0": lambda x: signed(at(x, 99.0), -1.0),
    "log-ratio −100, A > 0": lambda x: signed(at(x, -101.0), 1.0),
    "log-ratio −100, A < 0": lambda x: signed(at(x, -101.0), -1.0),
    "all advantages 0": lambda x: replace(x, advantages=torch.zeros_like(x.advantages)),
}


def ours(mode: str) -> Contender:
    def run(x: Inputs) -> tuple[Tensor, Tensor]:
        out = algorithms.make("grpo", aggregation=mode)(stats_of(x))
        out.loss.backward()
        # What refuses an update is the loss itself.
        value = out.metrics["surrogate"] if out.loss.isfinite() else out.loss.detach()
        return value, _gradient(x)

    return run


def theirs(peer: Peer) -> Contender:
    def run(x: Inputs) -> tuple[Tensor, Tensor]:
        loss = peer(x)
        loss.backward()
        return loss.detach(), _gradient(x)

    return run


def contenders(mode: str) -> dict[str, Contender]:
    """GRPO, ε = 0.2, no dual clip, everywhere."""
    if mode == "sequence":
        peers = {
            "verl": verl("vanilla", "seq-mean-token-mean"),
            "TRL": trl("grpo"),
            "Liger": liger("grpo"),
        }
    else:
        peers = {"verl": verl("vanilla"), "TRL": trl("dapo"), "Liger": liger("dapo")}
    name = "seq_mean_token_mean" if mode == "sequence" else "token_mean"
    return {"LagRange": ours(name), **{key: theirs(peer) for key, peer in peers.items()}}


def table() -> dict[str, dict[str, str]]:
    """situation → contender → what it did, in words."""
    rows = {}
    for situation, change in SITUATIONS.items():
        mode = "sequence" if "sequence" in situation else "token"
        rows[situation] = {name: describe(situation, run, change) for name, run in contenders(mode).items()}
    return rows


def describe(situation: str, run: Contender, change: Situation) -> str:
    """One cell: what came out."""
    x = change(plain())
    try:
        loss, gradient = run(replace(x, logp=x.logp.detach().clone().requires_grad_()))
    except Exception as error:  # a peer may raise anything, and that is the finding
        return f"raises {type(error).__name__}"
    if not loss.isfinite():
        return "loss NaN" if loss.isnan() else "loss infinite"
    if not gradient.isfinite().all():
        return "loss finite, gradient not"
    loss, gradient = loss + 0.0, gradient + 0.0  # no −0
    if "empty row" in situation:
        filled = x.mask.any(dim=1)
        without = replace(x, **{n: getattr(x, n)[filled] for n in ("logp", "behaviour", "advantages", "mask")})
        alone, _ = run(replace(without, logp=without.logp.detach().clone().requires_grad_()))
        share = float(loss / alone)
        return "left out" if abs(share - 1) < 1e-6 else f"counted: loss × {share:.3g}"
    there = f"there {float(gradient[TOKEN]):.3g}" if "log-ratio" in situation else "finite"
    return f"loss {float(loss):.3g}, gradient {there if gradient.any() else '0'}"


def _gradient(x: Inputs) -> Tensor:
    assert x.logp.grad is not None
    return x.logp.grad
