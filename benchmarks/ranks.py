"""`make ranks`: one final hash for any number of ranks, over all that could move it; `--overhead`: what ranks cost.

Every combination of methods, precisions, activations kept or computed again, micro-batches and policies is run by one
process and by 2, 3 and 4 ranks. `--overhead` measures the CPU time of an update of 10 million parameters by one process
and by two ranks, with both ways of adding gradients.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks.rank_cases import Case, configured, everything, foreign_model, ran
from benchmarks.workbench import random_model
from harness import build
from harness.command.compose import set_project_root
from harness.types import GradedRollouts, Rollouts

PROMPTS, SAMPLES, PROMPT_TOKENS, RESPONSE_TOKENS = 16, 8, 16, 64
LEARNERS = {"one process": (1, "ordered"), "2 ranks, ordered": (2, "ordered"), "2 ranks, fast": (2, "fast")}


def hashes(case: Case, folder: Path, foreign: Path) -> tuple[str, str]:
    """Final hashes by one process, which is asked once, and by the case's ranks."""
    overrides = case.overrides(foreign)
    alone = ran(folder, *overrides)
    # A repeat for each: the number of ranks is no part of a run's identity.
    shared = ran(folder, *overrides, "driver=overlapped", f"ranks={case.ranks}", f"repeat={case.ranks}")
    return alone.sha256, shared.sha256


def compare() -> list[str]:
    """Runs every combination, and returns a line for each that differs and for all of them."""
    differing = []
    with tempfile.TemporaryDirectory(prefix="ranks-") as name:
        foreign = foreign_model(Path(name) / "model")
        for number, case in enumerate(everything()):
            alone, shared = hashes(case, Path(name), foreign)
            if alone != shared:
                differing.append(f"differs: {case}")
            print(f"{number + 1}/{len(everything())} {case}: {shared[:12]}", file=sys.stderr)
    return [*differing, f"{len(everything()) - len(differing)} of {len(everything())} runs end with one process's bits"]


# Overhead --------------------------------------------------------------------------------------------


def cpu_s() -> float:
    """CPU seconds of this process and of those that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def batch() -> GradedRollouts:
    """A rollout batch of random tokens and rewards."""
    torch.manual_seed(0)
    responses = PROMPTS * SAMPLES
    tokens = responses * RESPONSE_TOKENS
    logp = -torch.rand(tokens) - 2
    rollouts = Rollouts(
        prompt_ids=torch.randint(3, 12, (PROMPTS * PROMPT_TOKENS,), dtype=torch.int32),
        prompt_lengths=torch.full((PROMPTS,), PROMPT_TOKENS, dtype=torch.int32),
        group=torch.arange(PROMPTS, dtype=torch.int32).repeat_interleave(SAMPLES),
        response_ids=torch.randint(3, 12, (tokens,), dtype=torch.int32),
        response_lengths=torch.full((responses,), RESPONSE_TOKENS, dtype=torch.int32),
        logp_engine=logp,
        logp_behaviour=logp,
        version=torch.zeros(tokens, dtype=torch.int32),
        finished=torch.ones(responses, dtype=torch.bool),
    )
    rewards = torch.randint(0, 2, (responses,)).double()
    return GradedRollouts(rollouts, rewards, torch.ones(responses, dtype=torch.bool))


def learning_s(folder: Path, model: str, ranks: int, add: str, steps: int) -> float:
    """CPU seconds of so many steps of a learner, from its start to its end."""
    config = configured(
        folder, "algo=grpo", "driver=overlapped", f"model.path={model}", "updates_per_step=1", "staleness=0",
        f"rollout.group_size={SAMPLES}", f"rollout.prompts_per_step={PROMPTS}", "learner.micro_batch_tokens=2200",
        f"rollout.max_new_tokens={RESPONSE_TOKENS}", f"ranks={ranks}", f"learner.sum={add}",
    )  # fmt: skip
    started = cpu_s()
    shared = build.ranks(config)
    try:
        learner = build.learner(config, build.learner_model(config, shared), shared)
        for _ in range(steps):
            list(learner.step(batch()))
    finally:
        shared.close()
    return cpu_s() - started


def overhead(rounds: int, few: int = 1, many: int = 3) -> list[str]:
    """CPU seconds an update, by kind of learner: the difference of a long and a short one, medians of the rounds."""
    torch.set_num_threads(1)
    seconds: dict[str, list[float]] = {name: [] for name in LEARNERS}
    with tempfile.TemporaryDirectory(prefix="ranks-") as name:
        model = str(Path(name) / "model")
        random_model(Path(model), width=320, layers=8)
        for _ in range(rounds):
            for kind, (ranks, add) in LEARNERS.items():
                short, long = (learning_s(Path(name), model, ranks, add, steps) for steps in (few, many))
                seconds[kind].append((long - short) / (many - few))
    medians = {kind: statistics.median(values) for kind, values in seconds.items()}
    alone = medians["one process"]
    return [f"{kind}: {value:.2f} s of CPU time an update, {value / alone:.2f} ×" for kind, value in medians.items()]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ranks", description=__doc__)
    parser.add_argument("--overhead", action="store_true", help="measure CPU time instead")
    parser.add_argument("--rounds", type=int, default=3, help="of the measurement")
    options = parser.parse_args()
    set_project_root()
    lines = overhead(options.rounds) if options.overhead else compare()
    print("\n".join(lines))
    return int(any(line.startswith("differs") for line in lines))


if __name__ == "__main__":
    sys.exit(main())
