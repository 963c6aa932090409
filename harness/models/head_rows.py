"""Some rows of the output head: scores from their logits, and the gradient of the logits computed again.

What a row costs beside its products is element-wise work on V numbers, ten passes over memory when each operation is a
kernel of its own. On CUDA `torch.compile` makes one kernel of them, where it works; the plain functions are what it
is compared with, and what runs everywhere else.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.errors import first_line

CUDA_ROWS = 2048  # a chunk on CUDA where the logits stay bfloat16: 0.6 GB at V = 152k, and products of full speed
UNFUSED_ROWS = 1024  # where float32 copies of them lie beside


def scores(logits: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """Log-prob, entropy and log-normaliser [n] float32 (nats) of rows under softmax(logits / temperature).

    logits: [n, V], overwritten where they are float32.
    targets: int64 [n].
    temperature: above 0.
    """
    logits = logits.float().div_(temperature)
    normaliser = logits.logsumexp(-1)
    logp = logits.gather(-1, targets[:, None])[:, 0] - normaliser
    expected = torch.linalg.vecdot(logits, (logits - normaliser[:, None]).exp_())
    return logp, normaliser - expected, normaliser


def gradient(
    logits: Tensor,
    targets: Tensor,
    normaliser: Tensor,
    grad_logp: Tensor,
    entropy: tuple[Tensor, Tensor] | None,
    temperature: float,
) -> Tensor:
    """Gradient of the logits [n, V] in their type: ∂logp/∂z = onehot − p, ∂entropy/∂z = −p·(log p + entropy).

    z = logits / temperature.
    logits, targets, temperature: as `scores` takes them.
    normaliser, grad_logp: float32 [n].
    entropy: of the rows and its gradient, float32 [n] each; None: it has none.
    """
    scale = grad_logp[:, None] / temperature
    log_probs = logits.float().div_(temperature).sub_(normaliser[:, None])
    pull = scale
    if entropy is not None:
        pull = scale + (log_probs + entropy[0][:, None]) * entropy[1][:, None] / temperature
    grad_logits = log_probs.exp_().mul_(-pull)
    if torch.compiler.is_compiling():  # a comparison joins the kernel, an index would end it
        hit = torch.arange(logits.shape[1], device=logits.device) == targets[:, None]
        grad_logits = torch.where(hit, grad_logits + scale, grad_logits)
    else:
        grad_logits[torch.arange(len(targets), device=targets.device), targets] += scale[:, 0]
    return grad_logits.to(logits.dtype)


@dataclass(frozen=True)
class Chunks:
    """How many rows are computed at once, and by which functions.

    rows: of a chunk.
    padded: the last chunk is filled up with zeros to the same shape, as compiled functions want it.
    scores, gradient: the functions above, or what was compiled of them.
    """

    rows: int
    padded: bool = False
    scores: Callable[..., tuple[Tensor, Tensor, Tensor]] = scores
    gradient: Callable[..., Tensor] = gradient

    def slices(self, tokens: int) -> Iterator[slice]:
        """The rows of each chunk of so many tokens."""
        return (slice(start, start + self.rows) for start in range(0, tokens, self.rows))

    def filled(self, rows: Tensor) -> Tensor:
        """The rows [n, …] of a chunk, [rows, …] where all are to have one shape."""
        if not self.padded or len(rows) == self.rows:
            return rows
        return F.pad(rows, (0, 0) * (rows.ndim - 1) + (0, self.rows - len(rows)))


def chunks_of(weight: Tensor, elements: int) -> Chunks:
    """The chunks that a head is applied in.

    weight: [V, H], of the head.
    elements: logits of a chunk where it is no GPU that computes them.
    """
    if weight.device.type != "cuda":
        return Chunks(max(elements // len(weight), 1))
    compiled = fused()
    if compiled is None:
        return Chunks(UNFUSED_ROWS)
    return Chunks(CUDA_ROWS, True, *compiled)


@functools.cache
def fused() -> tuple[Callable[..., tuple[Tensor, Tensor, Tensor]], Callable[..., Tensor]] | None:
    """Both functions through torch.compile, tried once in each process; None, with a warning, where it fails."""
    fast_scores = torch.compile(scores, dynamic=False, fullgraph=True)
    fast_gradient = torch.compile(gradient, dynamic=False, fullgraph=True)
    try:
        row = torch.zeros(2, device="cuda")
        fast_scores(torch.zeros(2, 8, device="cuda"), row.long(), 1.0)
        fast_gradient(torch.zeros(2, 8, device="cuda"), row.long(), row, row, None, 1.0)
    except Exception as error:  # whatever a compiler or its tool chain may raise: the plain functions do the same
        warnings.warn(f"torch.compile fails ({first_line(error)}): the output head runs unfused", stacklevel=2)
        return None
    return fast_scores, fast_gradient
