"""`python -m benchmarks.faults`: a seeded campaign of faults against small runs, and the table of what became of them.

Each run is a process of its own, forked from this one so that nobody waits for imports, and struck from outside:
a real SIGKILL at a chosen byte of a record, a real limit on file sizes, real damage to files on disk. After each
fault the same configuration is run again until it finishes, and its weights and records are compared with those
of a run that nobody disturbed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.small_runs import RECORDS, TINY, Trace, config_of, finish, prepare, start, trace, undisturbed, wait
from harness.config import Config
from harness.records.files import is_held
from harness.records.layout import LOCK, MANIFEST
from harness.records.state import status_of

CASES = (
    ("algo=grpo", "staleness=0", "driver=serial"),
    ("algo=m2po", "staleness=4", "driver=serial"),
    ("algo=m2po", "staleness=64", "driver=serial"),
    ("algo=gspo", "staleness=64", "driver=overlapped"),
    ("algo=tis", "staleness=4", "driver=overlapped"),
)


# Faults ----------------------------------------------------------------------------------------------


@dataclass
class Strike:
    """One attempt on one run: where, and the dice."""

    config: Config
    dice: random.Random
    notes: list[str] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        return self.config.folder

    def size(self, name: str) -> int:
        path = self.folder / name
        return path.stat().st_size if path.is_file() else 0

    def kill(self, when: Callable[[], bool], number: int = signal.SIGKILL) -> bool:
        """Starts the run and signals it when the moment has come; False if it was over before."""
        child = start(self.config)
        if wait(child, when) is not None:
            return False
        os.kill(child, number)
        wait(child)
        return True

    def at(self, low: float, high: float) -> Callable[[], bool]:
        moment = time.monotonic() + self.dice.uniform(low, high)
        return lambda: time.monotonic() >= moment


Fault = Callable[[Strike], bool]  # True if it struck


def kill_any_time(strike: Strike) -> bool:
    return strike.kill(strike.at(0.0, 2.5))


def kill_in_warm_up(strike: Strike) -> bool:
    begun = strike.folder / "heartbeat"
    return strike.kill(lambda: (strike.folder / MANIFEST).is_file() and not begun.exists())


def kill_at_a_record(strike: Strike) -> bool:
    bytes_ = strike.dice.randint(1, 24 * 1000)
    return strike.kill(lambda: strike.size("metrics.jsonl") >= bytes_)


def kill_inside_a_save(strike: Strike) -> bool:
    expected_saves = strike.dice.randint(1, 3)
    seen: set[str] = set()
    delay = strike.dice.uniform(0, 0.03)

    def saving() -> bool:
        seen.update(p.name for p in (strike.folder / "checkpoints").glob(".0*.partial"))
        if len(seen) < expected_saves:
            return False
        time.sleep(delay)
        return True

    return strike.kill(saving)


def kill_inside_an_evaluation(strike: Strike) -> bool:
    rows = strike.dice.randint(0, 3) * 8
    delay = strike.dice.uniform(0, 0.1)

    def evaluating() -> bool:
        path = strike.folder / "metrics.jsonl"
        done = path.read_bytes().count(b"\n") if path.is_file() else -1
        if done < rows or done % 8:
            return False
        time.sleep(delay)
        return True

    return strike.kill(evaluating)


def terminate(strike: Strike) -> bool:
    begun = strike.folder / MANIFEST
    delay = strike.dice.uniform(0, 1.0)

    def running() -> bool:
        if not begun.is_file():
            return False
        time.sleep(delay)
        return True

    return strike.kill(running, strike.dice.choice((signal.SIGTERM, signal.SIGINT)))


def hang(strike: Strike) -> bool:
    """The process stands still; another launcher must leave it alone; then it dies."""
    child = start(strike.config)
    if wait(child, lambda: is_held(strike.folder / LOCK)) is not None:
        return False
    os.kill(child, signal.SIGSTOP)
    second = start(strike.config)
    _, ended = os.waitpid(second, 0)
    if os.waitstatus_to_exitcode(ended) != 3:
        strike.notes.append("a second launcher did not respect the lock")
    dies = strike.dice.random() < 0.5
    os.kill(child, signal.SIGKILL if dies else signal.SIGCONT)
    wait(child)
    return True


def file_limit(strike: Strike) -> bool:
    """Quota: no file may grow beyond a few kilobytes, wherever that hits."""
    limit = int(2 ** strike.dice.uniform(13, 19))

    def tighten() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    wait(start(strike.config, tighten))
    status = status_of(strike.folder)
    if status == "failed":
        reason = str(json.loads((strike.folder / MANIFEST).read_text())["error"])
        if "File too large" not in reason:
            strike.notes.append(f"unclear error: {reason[:80]}")
    return status != "finished"


def corrupt_checkpoint(strike: Strike) -> bool:
    if not strike.kill(lambda: len(list((strike.folder / "checkpoints").glob("0*"))) >= strike.dice.choice((1, 2))):
        return False
    if status_of(strike.folder) == "finished":
        return False
    newest = sorted((strike.folder / "checkpoints").glob("0*"))[-1]
    damage(strike.dice.choice(sorted(newest.iterdir())), strike.dice)
    return True


def corrupt_record(strike: Strike) -> bool:
    if not strike.kill(lambda: len(list((strike.folder / "checkpoints").glob("0*"))) >= 1):
        return False
    if status_of(strike.folder) == "finished":
        return False
    damage(strike.folder / strike.dice.choice(RECORDS), strike.dice)
    return True


def damage(path: Path, dice: random.Random) -> None:
    """Cuts a file short, flips a bit, empties it, removes it or appends rubbish."""
    content = bytearray(path.read_bytes())
    how = dice.choice(("cut", "flip", "empty", "remove", "append"))
    if how == "remove":
        path.unlink()
    elif how == "empty" or not content:
        path.write_bytes(b"")
    elif how == "cut":
        path.write_bytes(content[: dice.randrange(len(content))])
    elif how == "append":
        path.write_bytes(bytes(content) + dice.randbytes(dice.randint(1, 200)))
    else:
        content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
        path.write_bytes(content)


def clock_step(strike: Strike) -> bool:
    """The clock jumps hours to and fro while the run goes on, and then the run is killed."""
    real, jump = time.time, strike.dice.uniform(-7200, 7200)

    def step() -> None:
        began = real()
        time.time = lambda: real() + (jump if int(10 * (real() - began)) % 2 else 0.0)

    child = start(strike.config, step)
    if wait(child, strike.at(0.5, 2.0)) is None:
        os.kill(child, signal.SIGKILL)
        wait(child)
    return True


def mlflow_down(strike: Strike) -> bool:
    """The whole command with a tracking server that is not there, killed half-way or not at all."""
    config = strike.config
    down = replace(config, tracking=replace(config.tracking, backend="mlflow", uri="http://127.0.0.1:9"))

    def sync() -> None:
        from harness.tracking.background import mlflow_sync

        mlflow_sync(down.tracking, Path(down.runs_dir), [down.folder]).__enter__()

    child = start(down, sync)
    if strike.dice.random() < 0.5 and wait(child, strike.at(0.5, 2.0)) is None:
        os.kill(child, signal.SIGKILL)
    wait(child)
    return True


FAULTS: dict[str, tuple[Fault, int]] = {
    "kill -9 at any time": (kill_any_time, 4),
    "kill -9 in the warm-up": (kill_in_warm_up, 2),
    "kill -9 at a byte of a record": (kill_at_a_record, 4),
    "kill -9 inside a save": (kill_inside_a_save, 4),
    "kill -9 inside an evaluation": (kill_inside_an_evaluation, 3),
    "SIGTERM or Ctrl-C": (terminate, 3),
    "hang, second launcher": (hang, 2),
    "disk quota": (file_limit, 3),
    "checkpoint damaged": (corrupt_checkpoint, 4),
    "records damaged": (corrupt_record, 3),
    "clock stepped": (clock_step, 1),
    "MLflow down": (mlflow_down, 1),
}


# The campaign ----------------------------------------------------------------------------------------


@dataclass
class Result:
    """What became of one run. struck: faults by kind · problems: what should not have happened."""

    case: str
    struck: list[str]
    problems: list[str]


def campaign(count: int, seed: int, report: Callable[[str], None] = lambda _: None) -> list[Result]:
    """Faults until `count` have struck, one to three a run. The same seed plans the same faults."""
    dice = random.Random(seed)
    kinds = [name for name, (_, weight) in FAULTS.items() for _ in range(weight)]
    order: list[str] = []
    results: list[Result] = []
    references: dict[tuple[str, ...], Trace] = {}
    prepare()
    with tempfile.TemporaryDirectory(prefix="faults-") as scratch:
        while sum(len(result.struck) for result in results) < count:
            overrides = CASES[len(results) % len(CASES)]
            if overrides not in references:
                references[overrides] = undisturbed(overrides, Path(scratch) / "reference")
            config = config_of(overrides, Path(scratch) / f"{len(results):04d}")
            if not order:
                order = dice.sample(kinds, len(kinds))
            faults = [order.pop() for _ in range(min(dice.randint(1, 3), len(order)))]
            result = trial(" ".join(overrides), config, faults, references[overrides], random.Random(dice.random()))
            results.append(result)
            shutil.rmtree(config.runs_dir)
            done = sum(len(r.struck) for r in results)
            report(f"{done:>4} faults, {len(results):>3} runs: {', '.join(faults)}")
            for problem in result.problems:
                report(f"     !! {problem}")
    return results


def trial(case: str, config: Config, faults: list[str], expected: Trace, dice: random.Random) -> Result:
    """Strikes one run with the faults in turn, lets it finish, and compares."""
    struck: list[str] = []
    problems: list[str] = []
    for name in faults:
        if status_of(config.folder) == "finished":
            break
        strike = Strike(config, dice)
        try:
            hit = FAULTS[name][0](strike)
        except TimeoutError as error:
            problems.append(f"{name}: {error}")
            hit = True
        if hit:
            struck.append(name)
        problems += [f"{name}: {note}" for note in strike.notes]
    status = finish(config)
    if status != "finished":
        problems.append(f"lost: the run ended {status}")
        return Result(case, struck, problems)
    try:
        found = trace(config.folder)
    except (OSError, ValueError, KeyError) as error:
        return Result(case, struck, [*problems, f"lost: the records cannot be read ({type(error).__name__}: {error})"])
    if found.updates != expected.updates:
        problems.append(f"lost updates: {len(found.updates)} rows instead of {len(expected.updates)}")
    if found.weights != expected.weights:
        problems.append("wrong hash of the final weights")
    elif found.records != expected.records:
        problems.append("records differ from the undisturbed run's")
    return Result(case, struck, problems)


def table(results: list[Result], seed: int) -> str:
    """The campaign as Markdown."""
    tried = Counter(name for result in results for name in result.struck)
    bad = Counter(name for result in results if result.problems for name in set(result.struck))
    kinds = "\n".join(f"| {name} | {tried[name]} | {tried[name] - bad[name]} |" for name in FAULTS)
    problems = [f"{result.case}: {', '.join(result.struck)}: {p}" for result in results for p in result.problems]
    lost = sum("lost" in p for p in problems)
    wrong = sum("wrong hash" in p or "records differ" in p for p in problems)
    return f"""# The fault campaign

Written by `python -m benchmarks.faults --seed {seed}`: small real runs, each struck one to three times from outside,
run again until finished, and compared with a run that nobody disturbed.

**{sum(tried.values())} faults over {len(results)} runs: {lost} lost updates or runs, {wrong} wrong hashes, \
{len(problems) - lost - wrong} other problems.**

| fault | tried | survived |
|---|---:|---:|
{kinds}

Survived: the run finished with the same final-weights hash, the same records (timings aside) and each update once.
Runs: {", ".join(f"`{' '.join(case)}`" for case in CASES)}; {" ".join(f"`{key}`" for key in TINY)}.
""" + ("\n## Problems\n\n" + "\n".join(f"- {p}" for p in problems) + "\n" if problems else "")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="write the table there too")
    options = parser.parse_args()
    started = time.monotonic()
    results = campaign(options.faults, options.seed, lambda line: print(line, flush=True))
    text = table(results, options.seed)
    print(text)
    print(f"{time.monotonic() - started:.0f} s")
    if options.out:
        options.out.write_text(text, encoding="utf-8")
    return 1 if any(result.problems for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
