"""How far the default update is from what this machine's arithmetic and memory allow, and where the rest goes.

    python -m benchmarks.floor [--repeats 8]

Counted: floating-point operations of the linear layers (two a weight and token forward, four backward) for
sampling, the trainer's log-probs and learning; bytes that the steps between them must read and write once.
Measured: the best float32 product of the size of the widest layer, and a copy. The floor is the sum of the two
times; nothing is assumed to overlap. The profile's own cost is spread over its operators; so their times are shares
of the profile, scaled to the update as it is without one.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks import targets
from benchmarks.workbench import Workbench, workbench


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
    source = torch.randn(2000, 192)
    target = torch.empty_like(source)
    copied = best(lambda: target.copy_(source))
    return 2 * 2000 * 64 * 192 / best(lambda: torch.nn.functional.linear(x, weight)), 2 * source.numel() * 4 / copied


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


def measured(bench: Workbench, repeats: int) -> tuple[dict[str, float], dict[str, float]]:
    """CPU seconds an update by part, the fastest round after one to warm up, and each operator's share of a profile
    (median of the rounds)."""
    graded = bench.graded()
    parts: dict[str, list[float]] = defaultdict(list)
    shares: dict[str, list[float]] = defaultdict(list)
    for _ in range(repeats + 1):
        microseconds: dict[str, float] = defaultdict(float)
        for part, call in (
            ("generation", lambda: bench.engine.generate(bench.request)),
            ("learning", lambda: list(bench.learner.step(graded))),
        ):
            started = time.process_time()
            call()
            parts[part].append((time.process_time() - started) / bench.config.updates_per_step)
            os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # the profiler's own news
            with profile(activities=[ProfilerActivity.CPU]) as trace:
                call()
            for event in trace.key_averages():
                microseconds[event.key] += event.self_cpu_time_total
        for name, took in microseconds.items():
            shares[name].append(took / sum(microseconds.values()))
    fastest = {part: min(seconds[1:]) for part, seconds in parts.items()}
    return fastest, {name: statistics.median(values[1:] or values) for name, values in shares.items()}


def report(repeats: int) -> tuple[list[str], float]:
    torch.set_num_threads(1)
    bench = workbench()
    speed, bandwidth = ceilings()
    flops, transferred = counts(bench)
    floor = flops / speed + transferred / bandwidth
    parts, shares = measured(bench, repeats)
    total = sum(parts.values())
    lines = [
        f"{flops / 1e9:.2f} GFLOP at {speed / 1e9:.0f} GFLOP/s and {transferred / 1e6:.0f} MB at "
        f"{bandwidth / 1e9:.0f} GB/s: floor {1e3 * floor:.1f} ms. Measured {1e3 * total:.1f} ms of CPU time an update "
        f"in the fastest of {repeats} rounds: {total / floor:.1f} × the floor; generation "
        f"{1e3 * parts['generation']:.1f} ms, learning {1e3 * parts['learning']:.1f} ms.",
        "",
        "| operator | ms/update | share |",
        "|---|---|---|",
    ]
    top = sorted(shares.items(), key=lambda item: -item[1])[:16]
    top.append(("all others", sum(shares.values()) - sum(share for _, share in top)))
    lines += [f"| `{name}` | {1e3 * total * share:.2f} | {share:.0%} |" for name, share in top]
    return lines, total / floor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=8)
    lines, over = report(parser.parse_args().repeats)
    print("\n".join(lines))
    why = "layers 64 wide are many short calls; products are a third of the time, the profile has the rest"
    print(targets.table([targets.row("default update against the floor, CPU time", [over], "≤ 3", "×", explained=why)]))


if __name__ == "__main__":
    main()
