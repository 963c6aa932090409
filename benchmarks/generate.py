"""Tokens a second of the torch engine against transformers' `generate`, round by round in turn.

    python -m benchmarks.generate [--repeats 10]

The default's rollout batch: 64 prompts, 8 samples each, temperature 1, 24 new tokens at most. Both return
sampled tokens; the engine also returns their log-probs, and in its second row the trainer's as well.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

import torch

from benchmarks.workbench import interleaved, ratio, workbench
from harness.models.policy import _left_pad
from harness.rollout.torch_engine import TorchEngine, pad_prompts


def report(repeats: int) -> tuple[list[str], dict[str, float]]:
    torch.set_num_threads(1)
    bench = workbench()
    model, tokenizer, request = bench.model.module, bench.model.tokenizer, bench.request
    generate: Any = model.generate  # a mixin's method, which the checker takes for a tensor
    ids, mask = _left_pad(*pad_prompts(request.prompts, "cpu"))
    sampler = TorchEngine(bench.model.policy, tokenizer.eos_token_id, trainer_logp=False)
    tokens = len(sampler.generate(request).response_ids)

    def peer() -> None:
        with torch.no_grad():
            generate(
                input_ids=ids.repeat_interleave(request.samples, 0),
                attention_mask=mask.long().repeat_interleave(request.samples, 0),
                do_sample=True,
                temperature=1.0,
                top_k=0,
                top_p=1.0,
                max_new_tokens=request.max_new_tokens,
                pad_token_id=tokenizer.pad_token_id,
            )

    seconds = interleaved(
        {
            "transformers generate": peer,
            "torch engine": lambda: sampler.generate(request),
            "torch engine, trainer log-probs too": lambda: bench.engine.generate(request),
        },
        repeats,
    )
    lines = ["| engine | tokens/s | × generate |", "|---|---|---|"]
    ratios = {name: ratio(seconds, "transformers generate", name) for name in seconds}
    for name, values in seconds.items():
        lines.append(f"| {name} | {tokens / statistics.median(values):,.0f} | {ratios[name]:.2f} |")
    return lines, ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=10)
    print("\n".join(report(parser.parse_args().repeats)[0]))


if __name__ == "__main__":
    main()
