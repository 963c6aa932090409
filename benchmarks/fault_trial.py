"""One run of the fault campaign: struck, given again until it has finished, compared with one nobody disturbed."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from benchmarks import fault_files
from benchmarks.fault_damage import DAMAGE
from benchmarks.fault_files import FILE_CALLS
from benchmarks.fault_strike import GRADERS, OUTSIDE, Fault, Strike
from benchmarks.small_runs import Trace, config_of, line_of, prepare, run_py, trace, undisturbed, wait
from harness.command.plan import plan
from harness.config import Config
from harness.records.layout import CONFIG, ERROR, MANIFEST, TOKEN_PARTS
from harness.records.state import status_of

SIZES = (
    "rollout.prompts_per_step=4",
    "rollout.group_size=2",
    "rollout.max_new_tokens=8",
    "task.test_problems=4",
    "eval.every=8",
    "eval.samples=1",
    "checkpoint_every=4",
    "updates=16",
    "record.tokens=[5,12]",
)
CASES = (
    ("algo=grpo", "staleness=0", "driver=serial", "task.validation_problems=4"),
    ("algo=m2po", "staleness=4", "driver=serial", "task.validation_problems=4"),
    ("algo=m2po", "staleness=64", "driver=overlapped", "task.validation_problems=4"),
    ("algo=tis", "staleness=4", "driver=overlapped", "task.validation_problems=4"),
)
GRADED = ("task=gsm8k_small", "model=gsm8k_small", "algo=grpo", "staleness=4")  # in processes of its own
ATTEMPTS = 5


@dataclass(frozen=True)
class Problem:
    """What should not have happened. kind: lost, hung, traceback or other."""

    kind: str
    text: str


@dataclass
class Result:
    """What became of one run. struck: faults by kind · problems: what should not have happened."""

    case: str
    struck: list[str]
    problems: list[Problem]


@dataclass
class Reference:
    """The undisturbed run of a case: what it left, where it is, and its file calls by kind."""

    trace: Trace
    folder: Path
    calls: dict[int, int] = field(default_factory=dict)


def kinds() -> dict[str, tuple[Fault, int]]:
    """Every kind of fault with its weight."""
    return OUTSIDE | FILE_CALLS | DAMAGE | GRADERS


def reference(overrides: tuple[str, ...], scratch: Path, sizes: tuple[str, ...] = SIZES) -> Reference:
    """Runs a case undisturbed, and once more to count its file calls where they can be counted."""
    expected = undisturbed(overrides, scratch / "good", sizes)
    folder = config_of(overrides, scratch / "good", sizes).folder
    if not fault_files.is_loaded():
        return Reference(expected, folder)
    counted = fault_files.count(config_of(overrides, scratch / "counted", sizes), scratch / "calls.json")
    return Reference(expected, folder, counted)


def campaign(faults: int, seed: int, part: int, jobs: int) -> list[Result]:
    """Faults until so many have struck, one to three a run. The same seed plans the same faults.

    part: which of the `jobs` processes this is; each deals its own cards of the same deck.
    """
    dice = random.Random(f"{seed} {part}")
    deck = [name for name, (_, weight) in kinds().items() for _ in range(weight)]
    deck = [name for name in deck if fault_files.is_loaded() or name not in FILE_CALLS]
    random.Random(seed).shuffle(deck)
    turns: Counter[str] = Counter(dict.fromkeys(DAMAGE, 17 * part))
    order: list[str] = []
    results: list[Result] = []
    references: dict[tuple[str, ...], Reference] = {}
    prepare()
    with tempfile.TemporaryDirectory(prefix="faults-") as scratch:
        os.environ["LAGRANGE_CACHE"] = str(Path(scratch) / "cache")
        while sum(len(result.struck) for result in results) < faults:
            order = order or deck[part::jobs]
            names = [order.pop() for _ in range(min(dice.randint(1, 3), len(order)))]
            overrides = GRADED if set(names) & set(GRADERS) else CASES[len(results) % len(CASES)]
            if overrides not in references:
                references[overrides] = reference(overrides, Path(scratch) / f"reference-{len(references)}")
            runs = Path(scratch) / f"{len(results):04d}"
            line = line_of(overrides, runs, SIZES)
            result = trial(" ".join(overrides), line, names, references[overrides], random.Random(dice.random()), turns)
            results.append(result)
            shutil.rmtree(runs, ignore_errors=True)
            _report(results, names)
    return results


def _report(results: list[Result], names: list[str]) -> None:
    done = sum(len(result.struck) for result in results)
    print(f"{done:>4} faults, {len(results):>3} runs: {', '.join(names)}", flush=True)
    for problem in results[-1].problems:
        print(f"     !! {problem.kind}: {problem.text}", flush=True)


def trial(
    case: str, line: list[str], faults: list[str], expected: Reference, dice: random.Random, turns: Counter[str]
) -> Result:
    """Strikes one run with the faults in turn, lets it finish, and compares."""
    runs = Path(next(word for word in line if word.startswith("runs_dir=")).removeprefix("runs_dir="))
    (config,) = plan(line).cells
    log = runs.with_suffix(".log")
    result = Result(case, [], [])
    for name in faults:
        if status_of(config.folder) == "finished":
            break
        strike = Strike(config, line, dice, log, expected.folder, expected.calls, turns[name])
        turns[name] += 1
        _strike(name, strike, result)
    result.problems += _finish(config, line, log, may_refuse=bool(set(result.struck) & set(DAMAGE))) or _compare(
        config, expected
    )
    result.problems += _tracebacks(log)
    log.unlink(missing_ok=True)
    return result


def _strike(name: str, strike: Strike, result: Result) -> None:
    error = strike.folder / ERROR
    try:
        if kinds()[name][0](strike):
            result.struck.append(name)
    except TimeoutError as timeout:
        result.struck.append(name)
        result.problems.append(Problem("hung", f"{name}: {timeout}"))
    result.problems += [Problem("other", f"{name}: {note}") for note in strike.notes]
    if error.is_file():
        result.problems.append(Problem("traceback", f"{name}: {error.read_text().strip().splitlines()[-1][:200]}"))
        error.unlink()


def _finish(config: Config, line: list[str], log: Path, may_refuse: bool) -> list[Problem]:
    """The same command again until the run has finished.

    may_refuse: the folder was damaged: a manifest that the command refuses is moved away, as it says.
    """
    codes = []
    for _ in range(ATTEMPTS):
        before = log.stat().st_size if log.exists() else 0
        try:
            codes.append(wait(run_py(line, log=log)))
        except TimeoutError as error:
            return [Problem("hung", str(error))]
        if status_of(config.folder) == "finished":
            return []
        if may_refuse and codes[-1] == 2 and MANIFEST.encode() in log.read_bytes()[before:]:
            (config.folder / MANIFEST).unlink()
    return [Problem("lost", f"the run is {status_of(config.folder)} after attempts that exited {codes}")]


def _compare(config: Config, good: Reference) -> list[Problem]:
    folder, expected = config.folder, good.trace
    place = {"runs_dir": config.runs_dir, "driver": config.driver}
    try:
        found = trace(folder)
    except (OSError, ValueError, KeyError) as error:
        return [Problem("lost", f"the records cannot be read ({type(error).__name__}: {error})")]
    differences = [
        ("updates", found.updates != expected.updates),
        ("hash of the final weights", found.weights != expected.weights),
        ("records", found.records != expected.records),
        ("token rows", found.tokens != expected.tokens),
        ("config.yaml", _config(folder) != _config(good.folder) | place),
    ]
    left = [str(path.relative_to(folder)) for path in folder.rglob("*.partial")]
    left += [TOKEN_PARTS] if (folder / TOKEN_PARTS).exists() else []
    problems = [
        Problem("lost", f"{name}: not those of the undisturbed run") for name, differs in differences if differs
    ]
    return problems + [Problem("other", f"left over: {name}") for name in left]


def _config(folder: Path) -> dict[str, Any]:
    """As recorded, without the tracking server: with one that was down, too, a run may have come to its end."""
    return dict(yaml.safe_load((folder / CONFIG).read_text())) | {"tracking": None}


def _tracebacks(log: Path) -> list[Problem]:
    said = log.read_text(errors="replace") if log.exists() else ""
    if "Traceback" not in said and "Error executing job" not in said:
        return []
    lines = said.splitlines()
    errors = [text for text in lines if "Error" in text] or lines  # an exit or Ctrl-C is none
    return [Problem("traceback", " | ".join(errors[-3:])[:300])]
