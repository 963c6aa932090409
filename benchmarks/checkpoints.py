"""What a checkpoint of the default costs, in milliseconds and bytes.

    python -m benchmarks.checkpoints [--repeats 15]

The state is the embedded model, its optimizer after one step, and a delay line of staleness/4 batches of
64 × 8 responses of 15 tokens, as the default run holds it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch

from benchmarks import asked
from harness.config import ModelConfig
from harness.models.loading import LoadedModel, load_model
from harness.models.sequences import Rollouts
from harness.records import checkpoint

PROMPTS, GROUP, PROMPT_TOKENS, TOKENS, UPDATES_A_STEP = 64, 8, 15, 15, 4


def batch_of(number: int) -> Rollouts:
    """Random rollouts in the shape of the default's: incompressible where the real ones are."""
    generator = torch.Generator().manual_seed(number)
    n = PROMPTS * GROUP * TOKENS
    logp = -torch.rand(n, generator=generator)
    return Rollouts(
        prompt_ids=torch.randint(0, 16, (PROMPTS * PROMPT_TOKENS,), generator=generator, dtype=torch.int32),
        prompt_lengths=torch.full((PROMPTS,), PROMPT_TOKENS, dtype=torch.int32),
        group=torch.arange(PROMPTS, dtype=torch.int32).repeat_interleave(GROUP),
        response_ids=torch.randint(0, 16, (n,), generator=generator, dtype=torch.int32),
        response_lengths=torch.full((PROMPTS * GROUP,), TOKENS, dtype=torch.int32),
        logp_engine=logp,
        logp_behaviour=logp.clone(),
        version=torch.full((n,), number * UPDATES_A_STEP, dtype=torch.int32),
        finished=torch.ones(PROMPTS * GROUP, dtype=torch.bool),
    )


def measure(staleness: int, repeats: int, every: int, folder: Path) -> tuple[list[float], int]:
    """Seconds of each save (and prune) and the bytes of the last, `every` updates apart."""
    model: LoadedModel = load_model(ModelConfig(), "cpu")
    optimizer = torch.optim.AdamW(model.module.parameters(), fused=True)
    model.module(torch.zeros(1, 4, dtype=torch.long)).logits.sum().backward()
    optimizer.step()
    held, steps = staleness // UPDATES_A_STEP, every // UPDATES_A_STEP
    line = {i: batch_of(i) for i in range(held)}
    writer = checkpoint.Checkpoints(folder, model)
    seconds = []
    for n in range(1, repeats + 1):
        line = {i: line.get(i) or batch_of(i) for i in range(n * steps, n * steps + held)}
        started = time.perf_counter()
        state = checkpoint.optimizer_tensors(optimizer)
        writer.save(n * every, state, line, {"version": n * every}, keep_also=set())
        seconds.append(time.perf_counter() - started)
    return seconds, checkpoint.size(folder / f"{repeats * every:06d}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--every", type=int, default=100, help="updates between checkpoints")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| staleness | ms: median (quartiles) | slowest | MB |\n|---|---|---|---|")
    for staleness in (0, 64, 256):
        with tempfile.TemporaryDirectory() as folder:
            seconds, size = measure(staleness, options.repeats, options.every, Path(folder))
        ms, mb = [1000 * s for s in seconds], size / 1e6
        print(f"| {staleness} | {asked.middle(ms)} | {max(ms):.0f} | {mb:.2f} |", flush=True)
    rows = [
        asked.row("a checkpoint at s = 256", ms, "≤ 50", "ms"),
        asked.row("a checkpoint at s = 256, size", [mb], "≤ 10", "MB"),
    ]
    print(asked.table(rows))


if __name__ == "__main__":
    main()
