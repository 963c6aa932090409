"""Tokens a second of the rollout engines against transformers' `generate`, round by round in turn.

    python -m benchmarks.generate [--repeats 10]

The default's rollout batch: 64 prompts, 8 samples each, temperature 1, 24 new tokens at most, one thread, CPU time.
All return sampled tokens; the engines also return their log-probs, and where it says so the trainer's as well.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch

from benchmarks import targets
from benchmarks.workbench import Workbench, interleaved, ratios, workbench
from harness.command.plan import plan
from harness.errors import UserError
from harness.models.policy import _left_pad
from harness.rollout import vllm_engine
from harness.rollout.torch_engine import pad_prompts, sampled

PEER = "transformers generate"
ENGINE = "torch engine"
ENGINE_SCORED = "torch engine, trainer log-probs too"


def contenders(bench: Workbench) -> dict[str, Callable[[], object]]:
    return {
        PEER: peer(bench),
        ENGINE: lambda: sampled(bench.model.policy, bench.engine.end_tokens, bench.request),
        ENGINE_SCORED: lambda: bench.engine.generate(bench.request),
    }


def peer(bench: Workbench) -> Callable[[], object]:
    generate: Any = bench.model.module.generate  # a mixin's method, which the checker takes for a tensor
    request = bench.request
    ids, mask = _left_pad(*pad_prompts(request.prompts, "cpu"))

    def call() -> None:
        with torch.no_grad():
            generate(
                input_ids=ids.repeat_interleave(request.samples, 0),
                attention_mask=mask.long().repeat_interleave(request.samples, 0),
                do_sample=True,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                max_new_tokens=request.max_new_tokens,
                pad_token_id=bench.model.tokenizer.pad_token_id,
            )

    return call


def vllm(bench: Workbench, closing: ExitStack) -> Callable[[], object]:
    """Raises UserError where vLLM is not installed."""
    vllm_engine.check_installed()
    config = plan(["rollout=vllm", "rollout.behaviour=engine", "tracking=none"]).cells[0]
    engine = vllm_engine.VllmEngine(config, bench.model)
    closing.callback(engine.close)
    return lambda: engine.generate(bench.request)


def measured(
    repeats: int, bench: Workbench, calls: dict[str, Callable[[], object]]
) -> tuple[list[str], dict[str, list[float]]]:
    """The table, and of each contender the rounds' ratios to `generate`."""
    tokens = len(bench.engine.generate(bench.request).response_ids)
    seconds = interleaved(calls, repeats)
    faster = {name: ratios(seconds, PEER, name) for name in seconds}
    lines = ["| engine | tokens/s | × generate: median (quartiles) |", "|---|---|---|"]
    for name, values in seconds.items():
        lines.append(f"| {name} | {tokens / statistics.median(values):,.0f} | {targets.middle(faster[name])} |")
    return lines, faster


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with ExitStack() as closing:
        bench = workbench()
        calls, missing = contenders(bench), []
        try:
            calls["vLLM engine"] = vllm(bench, closing)
        except UserError as error:
            missing = [f"| vLLM engine | – | {error} |"]
        lines, faster = measured(options.repeats, bench, calls)
        print("\n".join(lines + missing))
    print(targets.table([targets.row("tokens/s of the torch engine against `generate`", faster[ENGINE], "≥ 2", "×")]))


if __name__ == "__main__":
    main()
