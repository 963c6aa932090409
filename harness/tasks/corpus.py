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
from harness.errors import UserError, require
from harness.rewards.pool import shared_pool
from harness.rewards.process import Job
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
    """A corpus in memory.

    splits: problems of "train", "validation" and, if there is one, "test".
    provenance: revision, number of rows and content hash of each file or hub split, for the manifest.
    unreadable: a line about each problem whose answer could not be read.
    rows: how many were read.
    """

    splits: dict[str, list[Problem]]
    provenance: dict[str, Any]
    unreadable: list[str]
    rows: int


@dataclass(frozen=True)
class Corpus:
    """A set of problems with reference answers.

    hub: name of a data set on the Hugging Face hub; "": there is none.
    subset: its configuration, if it has several.
    train_split: its split to train on.
    revision: a commit of the data set; null: the newest.
    path: a local training file of the same columns, instead of the hub's.
    validation_path: a file of validation problems.
    validation_problems: where there is no such file, how many training problems, chosen by hash, validate instead.
    test_split: the hub's split to test on, if there is one.
    test_path: a file of test problems, instead of the hub's.
    test_problems: at most so many of the test problems; null: all.
    problem_column: column of the problem's text.
    answer_column: column of the reference answer.
    answer_format: how that column is read: plain, gsm8k (after ####) or boxed (the last \\boxed{} of a solution).
    prompt: text given to the model, {problem} replaced.
    max_new_tokens: longest response, where rollout.max_new_tokens is null.
    max_prompt_tokens: longest prompt, where rollout.max_prompt_tokens is null.
    overlap: what becomes of training problems that are also evaluation problems: refuse the run, or drop them.
    max_dropped_share: share of problems that may be dropped (unreadable answer, long prompt, overlap).
    reward: verifier: math, gsm8k or exact.
    format_reward: added to 0 or 1 for an answer that stands where the prompt asks for it.
    reward_timeout_s: seconds of CPU time for grading one answer.
    reward_workers: grading processes.
    """

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
    max_new_tokens: int = 1024
    max_prompt_tokens: int = 1024
    overlap: str = "refuse"
    max_dropped_share: float = 0.01
    reward: str = "math"
    format_reward: float = 0.0
    reward_timeout_s: float = 5.0
    reward_workers: int = 2

    def __post_init__(self) -> None:
        for name, choices in (("answer_format", ANSWER_FORMATS), ("overlap", OVERLAPS)):
            value = getattr(self, name)
            require(value in choices, f"task.{name}", value, f"one of {', '.join(choices)}")
        share, held_out = self.max_dropped_share, self.validation_problems
        require(0 <= share <= 1, "task.max_dropped_share", share, "a share from 0 to 1")
        require(held_out >= 1, "task.validation_problems", held_out, "at least 1 problem")
        if "{problem}" not in self.prompt:
            raise UserError(f"task.prompt={self.prompt!r}: has no {{problem}} to be replaced; add it")
        if not self.hub and not self.path:
            raise UserError("task.path: needed where task.hub is empty; give a JSONL or Parquet file")
        self._reward()

    def load(self) -> Loaded:
        """Reads every split, once a process. Raises UserError."""
        return _load(self)

    def train(self, seed: int, indices: Sequence[int]) -> list[Problem]:
        """The training problems with these consumption indices."""
        return in_order(self.load().splits["train"], seed, indices)

    def split(self, name: str) -> list[Problem]:
        """All problems of a split."""
        return self.load().splits[name]

    def evaluation_splits(self) -> list[str]:
        """Names of the held-out splits, "validation" first."""
        return [name for name in self.load().splits if name != "train"]

    def grade(self, problems: Sequence[Problem], responses: Sequence[str]) -> list[Grade]:
        """One grade for each response."""
        return self._reward().grade(problems, responses)

    def _reward(self) -> Reward:
        return Reward(self.reward, self.format_reward, self.reward_timeout_s, self.reward_workers)

    def sources(self) -> dict[str, Source]:
        """Where the rows of each split come from; "validation" is missing if it is a part of the training set."""
        sources = {"train": self._source(self.train_split, self.path, "task.path")}
        if self.validation_path:
            sources["validation"] = self._source(self.train_split, self.validation_path, "task.validation_path")
        # Who brings a training file of their own is not tested on the hub's problems.
        if self.test_path or (self.test_split and not self.path):
            sources["test"] = self._source(self.test_split or "test", self.test_path, "task.test_path")
        return sources

    def _source(self, split: str, path: str | None, key: str) -> Source:
        columns = (self.problem_column, self.answer_column)
        return Source(self.hub, split, columns, self.subset, self.revision, path, key)


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
    """The problems that can be graded.

    rows: the records of a split.
    corpus: says which columns they have and how they are read.
    name: of the split, for messages.
    Returns the problems, each of them once, and a line about each row without a readable answer.
    """
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
    """The reference answer that a column holds.

    value: as read from the file; of a list (OlympiadBench) the first entry counts.
    how: plain, gsm8k (the number after ####) or boxed (the last \\boxed{} of a solution).
    Returns the answer, None if there is none.
    """
    if isinstance(value, list):
        value = value[0] if value else None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if value is None or isinstance(value, dict):
        return None
    text = str(value).strip()
    if how == "gsm8k":
        return gsm8k_answer(text)
    return (last_boxed(text) if how == "boxed" else UNESCAPED_DOLLAR.sub("", text)) or None


def _comparable(answers: Sequence[str | None], corpus: Corpus) -> list[bool]:
    """Whether the verifier can compare with each answer, found out in the grading processes, within their limit."""
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
    """The rest, and the `count` problems with the smallest ids: no seed and no order of rows can change which."""
    if count >= len(problems):
        raise UserError(
            f"task.validation_problems={count}: the training set has only {len(problems)} problems; "
            "lower it or give task.validation_path"
        )
    held = {problem.id for problem in sorted(problems, key=lambda p: p.id)[:count]}
    return [p for p in problems if p.id not in held], [p for p in problems if p.id in held]


def in_order(problems: Sequence[Problem], seed: int, indices: Sequence[int]) -> list[Problem]:
    """Training problems in the order of consumption: each epoch is a permutation that seed and epoch determine.

    problems: the training set.
    seed: of the run.
    indices: consumption indices, from 0 without end.
    Returns a problem an index.
    """
    size = len(problems)
    return [problems[_permutation(seed, index // size, size)[index % size]] for index in indices]


@lru_cache(maxsize=16)
def _permutation(seed: int, epoch: int, size: int) -> np.ndarray:
    return np.argsort(randomness.uniforms(randomness.keys(seed, "order of an epoch", epoch), size), kind="stable")
