"""How far the default update is from what this machine's arithmetic and memory allow, and where the rest goes.

    python -m benchmarks.floor [--repeats 8]

Counted: floating-point operations of the linear layers (two a weight and token forward, four backward) for
sampling, the trainer's log-probs and learning; bytes that the steps between them must read and write once.
Measured: the best float32 product of the size of the widest layer, by the library that does it faster, and a
copy. The floor is the sum of the two times; nothing is assumed to overlap.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks import asked
from benchmarks.workbench import Workbench, workbench
from harness.models.kernels import HAS_ONEDNN, _onednn


def best(call: Callable[[], object], repeats: int = 200) -> float:
    """Seconds of the fastest of many calls: what the machine can do when it is left alone."""
    found = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        found = min(found, time.perf_counter() - started)
    return found


def ceilings() -> tuple[float, float]:
    """Floating-point operations a second of a product, bytes a second (read and written) of a copy."""
    x, weight = torch.randn(2000, 64), torch.randn(192, 64)
    products = [lambda: torch.nn.functional.linear(x, weight)]
    if HAS_ONEDNN:
        products.append(lambda: _onednn(x, weight))
    source = torch.randn(2000, 192)
    target = torch.empty_like(source)
    copied = best(lambda: target.copy_(source))
    return 2 * 2000 * 64 * 192 / min(best(p) for p in products), 2 * source.numel() * 4 / copied


def counts(bench: Workbench) -> tuple[float, float]:
    """Floating-point operations and bytes of one update with its share of a rollout batch."""
    config = bench.model.module.config
    weights = sum(p.numel() for p in bench.model.module.parameters() if p.dim() == 2)
    prompts, responses = len(bench.request.prompts), bench.request.keys.size
    prompt = sum(len(p) for p in bench.request.prompts) / prompts
    response = len(bench.engine.generate(bench.request).response_ids) / responses
    tokens = (prompts * prompt + responses * (response - 1)) / bench.config.updates_per_step
    flops = tokens * weights * 2 * (1 + 1 + 3)  # sampled, scored, learned
    # A layer's steps each read and write activations once: two norms, q, k, v, their norms and rotations,
    # attention in and out, two residual sums, the gated product; twice as much again backward.
    hidden, inner = config.hidden_size, config.intermediate_size
    layer = 2 * (2 * hidden) + 3 * (2 * hidden) * 2 + 4 * hidden + 2 * (3 * hidden) + 5 * inner
    activations = tokens * layer * config.num_hidden_layers * 4 * (1 + 1 + 3)
    # Sampling reads all keys and values so far at every step.
    cache = responses / bench.config.updates_per_step * response * (prompt / bench.request.samples + response / 2)
    keys = cache * 2 * config.num_key_value_heads * config.head_dim * config.num_hidden_layers * 4
    optimizer = 7 * 4 * sum(p.numel() for p in bench.model.module.parameters())
    return flops, activations + keys + optimizer


def measured(bench: Workbench, repeats: int) -> tuple[dict[str, list[float]], dict[str, float]]:
    """CPU seconds an update by part, and milliseconds an update by operator: of each call the fastest of all rounds."""
    graded = bench.graded()
    parts: dict[str, list[float]] = defaultdict(list)
    fastest: dict[tuple[str, int, str], float] = {}
    for number in range(repeats):
        for part, call in (
            ("generation", lambda: bench.engine.generate(bench.request)),
            ("learning", lambda: list(bench.learner.step(graded))),
        ):
            started = time.process_time()
            call()
            parts[part].append((time.process_time() - started) / bench.config.updates_per_step)
            with profile(activities=[ProfilerActivity.CPU]) as trace:
                call()
            for index, event in enumerate(_operators(trace) if number else []):
                key = (part, index, event.name)
                fastest[key] = min(fastest.get(key, float("inf")), event.self_cpu_time_total)
    operators: dict[str, float] = defaultdict(float)
    for (_, _, name), microseconds in fastest.items():
        operators[name] += microseconds / 1e3 / bench.config.updates_per_step
    return parts, operators


def _operators(trace: profile) -> list[Any]:
    return sorted(trace.events() or [], key=lambda event: float(event.time_range.start))


def report(repeats: int) -> tuple[list[str], float]:
    torch.set_num_threads(1)
    bench = workbench()
    speed, bandwidth = ceilings()
    flops, transferred = counts(bench)
    floor = flops / speed + transferred / bandwidth
    parts, operators = measured(bench, repeats)
    total = sum(statistics.median(p) for p in parts.values())
    quiet = sum(operators.values()) / 1e3
    lines = [
        f"{flops / 1e9:.2f} GFLOP at {speed / 1e9:.0f} GFLOP/s and {transferred / 1e6:.0f} MB at "
        f"{bandwidth / 1e9:.0f} GB/s: floor {1e3 * floor:.1f} ms. Measured {1e3 * total:.1f} ms of CPU time an update "
        f"({total / floor:.1f} × the floor; generation {1e3 * statistics.median(parts['generation']):.1f}, learning "
        f"{1e3 * statistics.median(parts['learning']):.1f}). The operators below are the profiler's, each call's "
        f"fastest; it lengthens short calls ({1e3 * quiet:.0f} ms in all), so read the shares.",
        "",
        "| operator | ms/update | share |",
        "|---|---|---|",
    ]
    top = sorted(operators.items(), key=lambda item: -item[1])[:16]
    lines += [f"| `{name}` | {ms:.2f} | {ms / quiet / 10:.0f} % |" for name, ms in top]
    rest = 1e3 * quiet - sum(ms for _, ms in top)
    lines.append(f"| all others | {rest:.2f} | {rest / quiet / 10:.0f} % |")
    return lines, total / floor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=8)
    lines, over = report(parser.parse_args().repeats)
    print("\n".join(lines))
    why = "layers 64 wide are many short calls; products are a third of the time, the profile has the rest"
    print(asked.table([asked.row("default update against the floor, CPU time", [over], "≤ 3", "×", explained=why)]))


if __name__ == "__main__":
    main()
