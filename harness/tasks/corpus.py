"""`task=gsm8k`, `deepscaler`, `math` and any corpus of problems with reference answers, from the hub or a file."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from harness import randomness
from harness.errors import UserError
from harness.rewards.pool import Job, shared_pool
from harness.rewards.reward import Reward
from harness.rewards.verifiers import gsm8k_answer, last_boxed
from harness.tasks.sources import Source, load
from harness.types import Grade, Problem

ANSWER_FORMATS = ("plain", "gsm8k", "boxed")
OVERLAPS = ("refuse", "drop")
SPLITS: tuple[str, ...] = ("train", "validation", "test")
UNESCAPED_DOLLAR = re.compile(r"(?<!\\)\$")  # a formula's delimiters, not an amount of money


@dataclass(frozen=True)
class Loaded:
    """A corpus in memory. splits: "train", "validation", … · provenance: of each file or hub split, for the manifest
    · unreadable: how each problem whose answer could not be read is to be shown · rows: how many were read."""

    splits: dict[str, list[Problem]]
    provenance: dict[str, Any]
    unreadable: list[str]
    rows: int


@dataclass(frozen=True)
class Corpus:
    """hub, subset, train_split, revision: the training set on the hub; path: a local file of the same columns instead.
    validation_path, or validation_problems problems of the training set chosen by hash: they are never trained on.
    test_path or test_split: a test set, if there is one; test_problems: at most so many of it (null: all).
    answer_format: how the answer column is read: plain, gsm8k (after ####) or boxed (last \\boxed{} of a solution).
    prompt: the text given to the model, `{problem}` replaced. overlap: refuse or drop training problems that are
    also evaluation problems. max_dropped_share: share of problems that may be dropped (unreadable answer, prompt
    too long, overlap) before the run is refused. The rest: see harness/rewards/grading.py."""

    hub: str = ""
    subset: str | None = None
    train_split: str = "train"
    revision: str | None = None
    path: str | None = None
    validation_path: str | None = None
    validation_problems: int = 256
    test_split: str | None = None
    test_path: str | None = None
    test_problems: int | None = None
    problem_column: str = "problem"
    answer_column: str = "answer"
    answer_format: str = "plain"
    prompt: str = "{problem}"
    overlap: str = "refuse"
    max_dropped_share: float = 0.01
    reward: str = "math"
    format_reward: float = 0.0
    reward_timeout_s: float = 5.0
    reward_workers: int = 2

    def __post_init__(self) -> None:
        if self.answer_format not in ANSWER_FORMATS:
            raise UserError(f"task.answer_format={self.answer_format}: expected one of {', '.join(ANSWER_FORMATS)}")
        if self.overlap not in OVERLAPS:
            raise UserError(f"task.overlap={self.overlap}: expected one of {', '.join(OVERLAPS)}")
        if not 0 <= self.max_dropped_share <= 1:
            raise UserError(f"task.max_dropped_share={self.max_dropped_share}: expected a share from 0 to 1")
        if "{problem}" not in self.prompt:
            raise UserError(f"task.prompt={self.prompt!r}: has no {{problem}} to be replaced; add it")
        if not self.hub and not self.path:
            raise UserError("task.path: needed where task.hub is empty; give a JSONL or Parquet file")
        if self.validation_problems < 1:
            raise UserError(f"task.validation_problems={self.validation_problems}: expected at least 1 problem")
        self._reward()

    def load(self) -> Loaded:
        """Reads every split; the same corpus is read once a process. Raises UserError."""
        return _load(self)

    def train(self, seed: int, indices: Sequence[int]) -> list[Problem]:
        return in_order(self.load().splits["train"], seed, indices)

    def split(self, name: str) -> list[Problem]:
        return self.load().splits[name]

    def evaluation_splits(self) -> list[str]:
        return [name for name in self.load().splits if name != "train"]

    def grade(self, problems: Sequence[Problem], responses: Sequence[str]) -> list[Grade]:
        return self._reward().grade(problems, responses)

    def _reward(self) -> Reward:
        return Reward(self.reward, self.format_reward, self.reward_timeout_s, self.reward_workers)

    def sources(self) -> dict[str, Source]:
        """Where each split that has a place of its own comes from."""
        columns = (self.problem_column, self.answer_column)

        def source(split: str, path: str | None, key: str) -> Source:
            return Source(self.hub, split, columns, self.subset, self.revision, path, key)

        found = {"train": source(self.train_split, self.path, "task.path")}
        if self.validation_path:
            found["validation"] = source(self.train_split, self.validation_path, "task.validation_path")
        # A local training file cuts the tie to the hub: its test set is a local file too, or there is none.
        if self.test_path or (self.test_split and not self.path):
            found["test"] = source(self.test_split or "test", self.test_path, "task.test_path")
        return found


@lru_cache(maxsize=8)
def _load(corpus: Corpus) -> Loaded:
    splits: dict[str, list[Problem]] = {}
    provenance: dict[str, Any] = {}
    unreadable: list[str] = []
    count = 0
    for name, source in corpus.sources().items():
        rows = load(source)
        provenance[name] = rows.provenance
        count += len(rows.rows)
        splits[name], bad = read_problems(rows.rows, corpus, name)
        unreadable += bad
    if "validation" not in splits:
        splits["train"], splits["validation"] = _held_out(splits["train"], corpus.validation_problems)
    if "test" in splits:
        splits["test"] = splits["test"][: corpus.test_problems]
    for name, problems in splits.items():
        if not problems:
            raise UserError(f"task: the {name} split is empty; give more rows or lower task.validation_problems")
    ordered = {name: splits[name] for name in SPLITS if name in splits}
    return Loaded(ordered, provenance, unreadable, count)


def read_problems(rows: Sequence[dict[str, Any]], corpus: Corpus, name: str) -> tuple[list[Problem], list[str]]:
    """Problems with readable answers, and a line about each of the others."""
    answers = [read_answer(row.get(corpus.answer_column), corpus.answer_format) for row in rows]
    usable = _comparable(answers, corpus)
    problems, bad = [], []
    seen: set[str] = set()
    for number, (row, answer, good) in enumerate(zip(rows, answers, usable, strict=True), 1):
        text = row.get(corpus.problem_column)
        if not isinstance(text, str) or not text.strip() or answer is None or not good:
            bad.append(f"{name} row {number}: {str(row.get(corpus.answer_column))[:60]!r}")
            continue
        identity = problem_id(text)
        if identity not in seen:  # a problem that stands there twice is one problem
            seen.add(identity)
            problems.append(Problem(identity, corpus.prompt.replace("{problem}", text), answer, {"problem": text}))
    return problems, bad


def read_answer(value: Any, how: str) -> str | None:
    """The reference answer in a column, None if there is none. A list (OlympiadBench) stands for its first entry."""
    if isinstance(value, list):
        value = value[0] if value else None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if value is None or isinstance(value, dict):
        return None
    text = str(value).strip()
    found = {
        "plain": lambda: UNESCAPED_DOLLAR.sub("", text),
        "gsm8k": lambda: gsm8k_answer(text),
        "boxed": lambda: last_boxed(text),
    }
    return found[how]() or None


def _comparable(answers: Sequence[str | None], corpus: Corpus) -> list[bool]:
    """Whether the verifier can compare with each answer; asked in the grading processes, with their limit."""
    if corpus.reward != "math":
        return [answer is not None for answer in answers]
    jobs = [Job("math_parses", {"answer": answer or ""}) for answer in answers]
    outcomes = shared_pool(corpus.reward_workers, corpus.reward_timeout_s).run(jobs)
    return [answer is not None and outcome.score == 1 for answer, outcome in zip(answers, outcomes, strict=True)]


def problem_id(text: str) -> str:
    """Hash of a problem's words: the same whatever its spacing, case or punctuation."""
    words = "".join(c if c.isalnum() else " " if c.isspace() else f" {c} " for c in text.lower()).split()
    return hashlib.sha256(" ".join(words).encode("utf-8", "replace")).hexdigest()[:16]


def _held_out(problems: list[Problem], count: int) -> tuple[list[Problem], list[Problem]]:
    """The `count` problems with the smallest ids apart from the rest: no seed, no order of rows can change them."""
    if count >= len(problems):
        raise UserError(
            f"task.validation_problems={count}: the training set has only {len(problems)} problems; "
            "lower it or give task.validation_path"
        )
    held = {problem.id for problem in sorted(problems, key=lambda p: p.id)[:count]}
    return [p for p in problems if p.id not in held], [p for p in problems if p.id in held]


def in_order(problems: Sequence[Problem], seed: int, indices: Sequence[int]) -> list[Problem]:
    """The problems with these consumption indices: each epoch is a permutation that seed and epoch determine."""
    size = len(problems)
    return [problems[_permutation(seed, index // size, size)[index % size]] for index in indices]


@lru_cache(maxsize=16)
def _permutation(seed: int, epoch: int, size: int) -> np.ndarray:
    return np.argsort(randomness.uniforms(randomness.keys(seed, "order of an epoch", epoch), size), kind="stable")
