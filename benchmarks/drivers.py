"""What the drivers cost and gain: ratios of runs measured side by side, in turns, so that a noisy machine hits both.

    python -m benchmarks.drivers [--rounds 5] [--only overlap overhead ray vllm]

One torch thread in each worker. Speeds are updates a second of the median step, without start and evaluation. "Ten
times" is a model of about ten times the embedded one's parameters, random weights.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from benchmarks import targets
from benchmarks.workbench import random_model
from harness.build import load_model
from harness.command.plan import plan
from harness.config import Config
from harness.errors import UserError
from harness.progress import Progress
from harness.records.folder import RunFolder
from harness.rollout.vllm_engine import VllmEngine, check_installed
from harness.training import Training
from harness.types import concatenate

SETTING = ("tracking=none", "eval.every=100000", "checkpoint_every=100000", "staleness=4", "updates=100000")
STEPS = 4  # of a turn, after one to warm up


@contextmanager
def training(*overrides: str) -> Iterator[Training]:
    with tempfile.TemporaryDirectory() as folder:
        config = plan([*SETTING, f"runs_dir={folder}", *overrides]).cells[0]
        made = Training(config, RunFolder(config.folder, config), Progress(""))
        made.publish()
        try:
            yield made
        finally:
            made.close()


def step(run: Training) -> None:
    """One turn of the loop of harness/training.py."""
    run.queue.refill(run.learner.version)
    run.train_on(run.learner.version // run.config.updates_per_step)
    run.publish()


def bare_step(run: Training) -> None:
    """The same work with no driver: generate, grade, learn."""
    config = run.config
    first = run.learner.version // config.updates_per_step * config.rollout.chunks
    requests = [run.requests.request(first + k) for k in range(config.rollout.chunks)]
    rollouts = concatenate([run.generation._engine.generate(request) for request in requests])  # type: ignore[attr-defined]
    problems = [problem for k in range(config.rollout.chunks) for problem in run.requests.problems(first + k)]
    for _ in run.learner.step(run.grader(problems, rollouts)[0]):
        pass
    run.publish()


def seconds(
    run: Training,
    turn: Callable[[Training], object],
    steps: int = STEPS,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Median seconds of a step."""
    turn(run)
    times = []
    for _ in range(steps):
        started = clock()
        turn(run)
        times.append(clock() - started)
    return statistics.median(times)


def overlap(rounds: int) -> list[str]:
    rows = []
    for name, more in (("default model", ()), ("ten times", large_model())):
        with training("driver=serial", *more) as serial, training("driver=overlapped", *more) as overlapped:
            gains = [seconds(serial, step) / seconds(overlapped, step) for _ in range(rounds)]
            share = generation_share(serial)
        possible = f"generation is {share:.0%} of a step, so a perfect overlap would give {bound(share):.2f}"
        rows.append(targets.row(f"overlapped against serial, {name}", gains, "≥ 1.6", "×", explained=possible))
    return rows


def bound(share: float) -> float:
    """What a perfect overlap of two parts of a step would gain."""
    return 1 / max(share, 1 - share)


def generation_share(run: Training) -> float:
    """Of a serial step."""
    generate = seconds(run, lambda r: r.generation.submit(r.requests.request(0), None))
    return generate / seconds(run, step)


def overhead(rounds: int) -> list[str]:
    with training("driver=serial", "staleness=0") as driven, training("driver=serial", "staleness=0") as bare:
        # Both work in this thread alone, so CPU time is the same quantity with less noise.
        costs = [
            seconds(driven, step, clock=time.process_time) / seconds(bare, bare_step, clock=time.process_time)
            for _ in range(2 * rounds)
        ]
    return [targets.row("serial driver against a bare loop, CPU time", costs, "≤ 1.03", "×")]


def ray(rounds: int) -> list[str]:
    more = large_model()
    with training("driver=overlapped", *more) as overlapped, training("driver=ray", *more) as actors:
        speeds = [seconds(overlapped, step) / seconds(actors, step) for _ in range(rounds)]
    return [targets.row("Ray, one local actor, against overlapped, ten times", speeds, "≥ 0.9", "×")]


def vllm(rounds: int) -> list[str]:
    try:
        check_installed()
    except UserError as error:
        return [f"| publication to vLLM in process | ≤ 100 ms | – | not measured: {error} |"]
    config: Config = plan(["tracking=none", "rollout=vllm"]).cells[0]
    engine = VllmEngine(config, load_model(config.served_model, "cpu"))
    weights = {name: t.clone() for name, t in load_model(config.served_model, "cpu").module.state_dict().items()}
    publications: dict[str, Callable[[int], None]] = {
        "weights": lambda version: engine._reload(engine.to_trainer(version, weights)),
        "weights, cache and probe": lambda version: engine.load(version, weights),
    }
    times: dict[str, list[float]] = {name: [] for name in publications}
    for version in range(5 * rounds):
        for name, publish in publications.items():
            started = time.perf_counter()
            publish(version)
            times[name].append(1e3 * (time.perf_counter() - started))
    engine.close()
    return [
        targets.row(f"publication to vLLM in process, embedded model: {name}", t, limit, "ms")
        for (name, t), limit in zip(times.items(), ("≤ 100", "–"), strict=True)
    ]


def large_model() -> tuple[str, ...]:
    """A folder with a model of about ten times the embedded one's parameters, random weights."""
    folder = Path(tempfile.gettempdir()) / "lagrange-benchmark-model"
    return (f"model.path={folder if folder.exists() else random_model(folder, 192, 2)}",)


PARTS: dict[str, Callable[[int], list[str]]] = {
    "overlap": overlap,
    "overhead": overhead,
    "ray": ray,
    "vllm": vllm,
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.drivers", description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=5, help="turns of each pair")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    print(targets.HEAD)
    for name in options.only:
        print("\n".join(PARTS[name](options.rounds)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
