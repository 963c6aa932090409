"""What a checkpoint of the default costs, in milliseconds and bytes.

    python -m benchmarks.checkpoints [--repeats 15]

The state is the embedded model, its optimizer after one step, and a rollout queue of staleness/4 batches of
64 × 8 responses of 15 tokens, as the default run holds it; the records of the updates in between are synced with it.
The clock on the wall waits for the disk and for busy neighbours, CPU time does not.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from benchmarks import targets
from harness.command.plan import plan
from harness.models.loading import LoadedModel, load_model
from harness.models.memory import keep_freed_memory
from harness.records.checkpoint import Checkpoints, RunState
from harness.records.folder import RunFolder
from harness.types import Rollouts

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


def measure(staleness: int, repeats: int, every: int, path: Path) -> tuple[list[float], list[float], int]:
    """Seconds of each save (with the records' sync, and the pruning), on the wall and of the CPU, and the bytes of
    the last; `every` updates lie between them."""
    config = plan([f"runs_dir={path}", "tracking=none"]).cells[0]
    records = RunFolder(path, config)
    model: LoadedModel = load_model(config.model, "cpu")
    optimizer = torch.optim.AdamW(model.module.parameters(), fused=True)
    model.module(torch.zeros(1, 4, dtype=torch.long)).logits.sum().backward()
    optimizer.step()
    held, steps = staleness // UPDATES_A_STEP, every // UPDATES_A_STEP
    queue = {i: batch_of(i) for i in range(held)}
    writer = Checkpoints(records.checkpoints, model.describe)
    wall, cpu = [], []
    for n in range(1, repeats + 1):
        queue = {i: queue.get(i) or batch_of(i) for i in range(n * steps, n * steps + held)}
        for update in range((n - 1) * every, n * every):
            records.append("metrics.jsonl", {"update": update, **{f"metric_{i}": i / 3 for i in range(40)}})
        started = time.perf_counter(), time.process_time()
        counters = {"version": n * every, "records": records.marks()}
        writer.save(n * every, RunState(model.module.state_dict(), optimizer, queue, counters), best=-1)
        wall.append(time.perf_counter() - started[0])
        cpu.append(time.process_time() - started[1])
    records.close()
    files = (records.checkpoints / f"{repeats * every:06d}").iterdir()
    return wall, cpu, sum(path.stat().st_size for path in files)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--every", type=int, default=100, help="updates between checkpoints")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()  # as a run does
    print("| staleness | ms: median (quartiles) | slowest | ms of CPU | MB |\n|---|---|---|---|---|")
    for staleness in (0, 64, 256):
        with tempfile.TemporaryDirectory() as folder:
            wall, cpu, written = measure(staleness, options.repeats, options.every, Path(folder))
        ms, mb = [1000 * s for s in wall], written / 1e6
        print(
            f"| {staleness} | {targets.middle(ms)} | {max(ms):.0f} | {1000 * statistics.median(cpu):.0f} | {mb:.2f} |",
            flush=True,
        )
    waits = f"{1000 * statistics.median(cpu):.0f} ms of it are CPU time, the rest waits for the disk"
    rows = [
        targets.row("a checkpoint at s = 256", ms, "≤ 50", "ms", explained=waits),
        targets.row("a checkpoint at s = 256, size", [mb], "≤ 10", "MB"),
    ]
    print(targets.table(rows))


if __name__ == "__main__":
    main()
