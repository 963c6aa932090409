"""Evaluation suites: the eight benchmarks of the M2PO paper (arXiv 2510.01161), graded by math-verify.

`eval.suites=[math500,aime24]`; `eval.suites_path=FOLDER` reads `FOLDER/<name>.jsonl` or `.parquet` instead of the hub.
The columns are those that docs/tasks.md gives with their source; a file of one's own may spell them either way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from harness.errors import UserError, nearest
from harness.paths import bases
from harness.rewards.reward import Reward
from harness.tasks.columns import is_text, read_answer
from harness.tasks.files import NAMES
from harness.tasks.sources import Source, load
from harness.tasks.splits import problem_id
from harness.types import Grade, Problem

INSTRUCTION = "\n\nReason step by step and put the final answer in \\boxed{}."
PROBLEM, ANSWER = "problem|question|Question|Problem", "answer|final_answer|Answer"


@dataclass(frozen=True)
class Benchmark:
    """Where a benchmark is found, and how it is sampled.

    hub: name of the data set on the hub.
    split: its split.
    samples: responses a problem, the k of the paper's avg@k.
    problems: how many there are, for the estimates of dry_run.
    """

    hub: str
    split: str
    samples: int
    problems: int


BENCHMARKS = {
    "math500": Benchmark("HuggingFaceH4/MATH-500", "test", 4, 500),
    "aime24": Benchmark("HuggingFaceH4/aime_2024", "train", 16, 30),
    "aime25": Benchmark("yentinglin/aime_2025", "train", 16, 30),
    "amc23": Benchmark("math-ai/amc23", "test", 4, 40),
    "amc24": Benchmark("rawsh/2024_AMC12", "train", 4, 45),
    "minerva": Benchmark("math-ai/minervamath", "test", 4, 272),
    "gaokao2023en": Benchmark("MARIO-Math-Reasoning/Gaokao2023-Math-En", "train", 4, 385),
    "olympiadbench": Benchmark("math-ai/olympiadbench", "test", 4, 674),
}


@dataclass(frozen=True)
class Suite:
    """A benchmark in memory; grades like a task.

    name: of the benchmark.
    samples: responses a problem, the k of the paper's avg@k.
    problems: those with a readable answer.
    provenance: revision, number of rows and content hash, for the manifest.
    unreadable: a line about each problem whose answer could not be read.
    """

    name: str
    samples: int
    problems: list[Problem]
    provenance: dict[str, Any]
    unreadable: list[str]

    def grade(self, problems: Sequence[Problem], responses: Sequence[str]) -> list[Grade]:
        """One grade for each response, by math-verify."""
        return Reward("math").grade(problems, responses)


def check_names(names: Sequence[str]) -> None:
    """Raises UserError for a name that is no benchmark's or stands there twice.

    names: those of `eval.suites`.
    """
    for name in names:
        if name not in BENCHMARKS:
            raise UserError(f"eval.suites: {name}: no such suite; {nearest(name, BENCHMARKS)}")
    if len(set(names)) < len(names):
        raise UserError(f"eval.suites={list(names)}: a suite stands there twice; drop one")


@lru_cache(maxsize=16)
def suite(name: str, folder: str | None) -> Suite:
    """Loads one benchmark, once a process.

    name: in BENCHMARKS.
    folder: holds `name`.jsonl or .parquet; None: the hub.
    Raises UserError if it cannot be read or has no problem with a readable answer.
    """
    benchmark = BENCHMARKS[name]
    path = None if folder is None else _file(name, folder)
    rows = load(Source(benchmark.hub, benchmark.split, (PROBLEM, ANSWER), path=path, key="eval.suites_path"))
    problems, unreadable = [], []
    for number, row in enumerate(rows.rows, 1):
        text, answer = _first(row, PROBLEM), read_answer(_first(row, ANSWER), "plain")
        if not is_text(text) or answer is None:
            unreadable.append(f"{name} row {number}: {str(_first(row, ANSWER))[:60]!r}")
        else:
            problems.append(Problem(problem_id(text), text + INSTRUCTION, answer, {"problem": text}))
    if not problems:
        raise UserError(f"eval.suites: {name} has no problem with a readable answer")
    return Suite(name, benchmark.samples, problems, rows.provenance, unreadable)


def _first(row: dict[str, Any], columns: str) -> Any:
    return next((row[c] for c in columns.split("|") if row.get(c) is not None), None)


def _file(name: str, folder: str) -> str:
    for base in bases():
        for ending in (*NAMES, *(f"{one}.gz" for one in NAMES), ""):
            file = base / folder / f"{name}{ending}"
            if file.exists():
                return str(file)
    raise UserError(f"eval.suites_path={folder}: no {name}.jsonl, {name}.parquet or the like in it")
