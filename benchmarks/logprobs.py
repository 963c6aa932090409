"""Log-probs over a large vocabulary, chunked against `log_softmax` and `gather`.

    python benchmarks/logprobs.py [--check]

Each variant runs in a process of its own: seconds of forward and backward (best of --repeats), peak resident
memory above the inputs, and the gradients of both compared. `--check` exits 1 if a target is missed: at most 1/4
of the memory, at most 1.5 times the time, gradients equal to 1e-6 relative.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks import targets
from harness.models.logprobs import head_scores

TEMPERATURE = 1.0


def plain(hidden: Tensor, head: nn.Linear, targets: Tensor) -> Tensor:
    return torch.log_softmax(head(hidden).float() / TEMPERATURE, dim=-1).gather(-1, targets[:, None])[:, 0]


def chunked(hidden: Tensor, head: nn.Linear, targets: Tensor) -> Tensor:
    return head_scores(hidden, head, targets, TEMPERATURE).logp


VARIANTS: dict[str, Callable[[Tensor, nn.Linear, Tensor], Tensor]] = {"plain": plain, "chunked": chunked}


def inputs(tokens: int, vocabulary: int, hidden: int) -> tuple[Tensor, nn.Linear, Tensor]:
    torch.manual_seed(0)
    states = torch.randn(tokens, hidden).requires_grad_()
    head = nn.Linear(hidden, vocabulary, bias=False)
    return states, head, torch.randint(vocabulary, (tokens,))


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


class Peak:
    """Highest resident memory while the block runs, sampled every millisecond."""

    def __enter__(self) -> Peak:
        self.bytes, self._stop = resident(), threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._stop.wait(0.001):
            self.bytes = max(self.bytes, resident())

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def measure(variant: str, options: argparse.Namespace) -> dict[str, float]:
    torch.set_num_threads(options.threads)
    states, head, targets = inputs(options.tokens, options.vocabulary, options.hidden)
    before, seconds, peak = resident(), float("inf"), 0
    for _ in range(options.repeats):
        states.grad = head.weight.grad = None
        with Peak() as watch:
            started = time.perf_counter()
            VARIANTS[variant](states, head, targets).sum().backward()
            seconds = min(seconds, time.perf_counter() - started)
        peak = max(peak, watch.bytes - before)
    return {"seconds": seconds, "peak_mb": peak / 1e6}


def gradient_error(options: argparse.Namespace) -> float:
    """Largest relative error (in norm) of the chunked gradients, a quarter of the tokens, full vocabulary."""
    states, head, targets = inputs(options.tokens // 4, options.vocabulary, min(options.hidden, 128))
    gradients: list[torch.Tensor] = []
    for function in VARIANTS.values():
        states.grad = head.weight.grad = None
        (function(states, head, targets) * torch.linspace(-1, 1, len(targets))).sum().backward()
        assert states.grad is not None and head.weight.grad is not None
        gradients.append((states.grad.clone(), head.weight.grad.clone()))
    return max(((a - b).norm() / a.norm()).item() for a, b in zip(*gradients, strict=True))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--hidden", type=int, default=896)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--variant", choices=list(VARIANTS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.variant:
        print(json.dumps(measure(options.variant, options)))
        return 0
    found = {}
    for name in VARIANTS:
        arguments = [a for a in sys.argv[1:] if a != "--check"]
        command = [sys.executable, __file__, *arguments, "--variant", name]
        found[name] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(f"- {name}: {found[name]['seconds']:.2f} s, {found[name]['peak_mb']:.0f} MB above the inputs")
    memory = found["chunked"]["peak_mb"] / found["plain"]["peak_mb"]
    slowdown = found["chunked"]["seconds"] / found["plain"]["seconds"]
    error = gradient_error(options)
    print(f"- memory × {memory:.3f} · time × {slowdown:.2f} · gradients differ by {error:.1e}")
    rows = [
        targets.row(f"chunked log-probs, vocabulary of {options.vocabulary:,}: memory", [memory], "≤ 0.25", "×"),
        targets.row("chunked log-probs: time", [slowdown], "≤ 1.5", "×"),
        targets.row("chunked log-probs: relative error of the gradients", [error], "≤ 1e-6"),
    ]
    print(targets.table(rows))
    return int(options.check and not (memory <= 0.25 and slowdown <= 1.5 and error <= 1e-6))


if __name__ == "__main__":
    sys.exit(main())
