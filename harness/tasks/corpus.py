"""`task=gsm8k`, `deepscaler`, `math` and any corpus of problems with reference answers, from the hub or a file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from harness.errors import UserError, printable, require
from harness.rewards.numbers import leading_number
from harness.rewards.reward import Reward
from harness.tasks.columns import VERL, is_text, is_verl, messages_of, read_answer, value_of
from harness.tasks.readable import comparable
from harness.tasks.sources import Source, load
from harness.tasks.splits import UNREADABLE, check_share, held_out, in_order, problem_id
from harness.types import Grade, Problem

ANSWER_FORMATS = ("plain", "gsm8k", "boxed")
OVERLAPS = ("refuse", "drop")
TYPED_NEWLINE = re.compile(r"\\n(?!(?:e|eq|eg|u|ot|i|abla|ewline|atural|parallel|mid|exists|leq|geq|in|orm)(?![a-z]))")
SPLITS: tuple[str, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class Loaded:
    """A corpus in memory.

    splits: problems of "train", "validation" and, if there is one, "test".
    provenance: revision, number of rows and content hash of each file or hub split, for the manifest.
    unreadable: a line about each problem whose answer could not be read.
    rows: how many were read.
    conflicts: a line about each problem that stands there again with another answer; the first counts.
    repeated: how many rows were left out because their problem and answer had been read before.
    """

    splits: dict[str, list[Problem]]
    provenance: dict[str, Any]
    unreadable: list[str]
    rows: int
    conflicts: list[str] = field(default_factory=list)
    repeated: int = 0


@dataclass(frozen=True)
class Layout:
    """Where a file has problems and answers.

    problem, answer: their columns.
    answer_format: how the second is read.
    """

    problem: str
    answer: str
    answer_format: str


@dataclass(frozen=True)
class Corpus:
    """A set of problems with reference answers.

    hub: name of a data set on the Hugging Face hub; "": there is none.
    subset: its configuration, if it has several.
    train_split: its split to train on.
    revision: a commit of the data set; null: the newest.
    path: a local training file, or folder of files, of the same columns, instead of the hub's.
    validation_path: a file of validation problems.
    validation_problems: where there is no such file, how many training problems, chosen by hash, validate instead.
    test_split: the hub's split to test on, if there is one.
    test_path: a file of test problems, instead of the hub's.
    test_problems: at most so many of the test problems; null: all.
    problem_column: column of the problem: text, or chat messages; a.b is the column b inside a.
    answer_column: column of the reference answer, likewise.
    answer_format: how that column is read: plain, gsm8k (after ####) or boxed (the last \\boxed{} of a solution).
    prompt: text given to the model, {problem} replaced.
    max_new_tokens: longest response, where rollout.max_new_tokens is null.
    max_prompt_tokens: longest prompt, where rollout.max_prompt_tokens is null.
    overlap: what becomes of training problems that are also evaluation problems: refuse the run, or drop them.
    max_dropped_share: share of problems that may be dropped (unreadable answer, long prompt, overlap).
    reward: verifier: math, gsm8k, exact, or a function of your own such as my_package.score.
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
            raise UserError("task.path: needed where task.hub is empty; give a file or folder of problems")
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

    def layout(self, row: dict[str, Any]) -> Layout:
        """Which columns a file has: those of the settings, else verl's."""
        if is_verl(row, (self.problem_column, self.answer_column)):
            how = "gsm8k" if "####" in str(value_of(row, VERL[1])) else "plain"
            return Layout(*VERL, how)
        return Layout(self.problem_column, self.answer_column, self.answer_format)

    def problem(self, row: dict[str, Any], layout: Layout, answer: str) -> Problem | None:
        """The problem in a row; None if its column holds neither text nor chat messages.

        Messages are the prompt as they stand; `prompt` goes around a text.
        """
        value = value_of(row, layout.problem)
        messages = messages_of(value)
        text = "\n\n".join(content for _, content in messages) if messages else value
        if not is_text(text):
            return None
        data = {"problem": text} | ({"messages": messages} if messages else {})
        prompt = text if messages else newlines(self.prompt).replace("{problem}", text)
        return Problem(problem_id(text), prompt, answer, data | ({"row": row} if self.has_own_reward else {}))

    @property
    def has_own_reward(self) -> bool:
        """Whether a function of the user's own grades."""
        return self._reward().is_own

    def check_own_reward(self, problem: Problem) -> None:
        """Raises UserError where the user's own function cannot grade an empty response, which any model may give."""
        (outcome,) = self._reward().outcomes([problem], [""])
        if outcome.failure:
            said = f"{outcome.failure}: {outcome.details.get('error', '')}".rstrip(": ")
            raise UserError(
                f"task.reward={self.reward}: fails on an empty response to the first problem ({printable(said)}); "
                "expected a number, or numbers by name; docs/tasks.md says what it may do"
            )

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
        columns = (self.problem_column,) if self.has_own_reward else (self.problem_column, self.answer_column)
        return Source(self.hub, split, columns, self.subset, self.revision, path, key, self.has_own_reward)


@lru_cache(maxsize=8)
def _load(corpus: Corpus) -> Loaded:
    splits: dict[str, list[Problem]] = {}
    provenance: dict[str, Any] = {}
    unreadable: list[str] = []
    count = repeated = 0
    conflicts: list[str] = []
    for name, source in corpus.sources().items():
        rows = load(source)
        provenance[name] = rows.provenance
        count += len(rows.rows)
        read = read_problems(rows.rows, corpus, name)
        splits[name] = read.problems
        unreadable += read.unreadable
        conflicts += read.conflicts
        repeated += read.repeated
    # Before validation problems are chosen: too few of them would be blamed on their number.
    check_share({UNREADABLE: unreadable}, count, corpus.max_dropped_share)
    if "validation" not in splits:
        splits["train"], splits["validation"] = held_out(splits["train"], corpus.validation_problems)
    if "test" in splits:
        splits["test"] = splits["test"][: corpus.test_problems]
    for name, problems in splits.items():
        if not problems:
            raise UserError(f"task: the {name} split is empty; give more rows or lower task.validation_problems")
    if corpus.has_own_reward:
        corpus.check_own_reward(splits["train"][0])
    ordered = {name: splits[name] for name in SPLITS if name in splits}
    return Loaded(ordered, provenance, unreadable, count, conflicts, repeated)


@dataclass
class Read:
    """What was read of a split.

    problems: each of them once.
    unreadable: a line about each row that is no problem with an answer.
    conflicts: a line about each problem that stands there again with another answer.
    repeated: how many rows hold a problem and an answer that were read before.
    """

    problems: list[Problem] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)
    repeated: int = 0


def read_problems(rows: Sequence[dict[str, Any]], corpus: Corpus, name: str) -> Read:
    """The problems that can be graded.

    rows: the records of a split.
    corpus: says which columns they have and how they are read; verl's layout is known.
    name: of the split, for messages.
    """
    layout = corpus.layout(rows[0])
    answers = [read_answer(value_of(row, layout.answer), layout.answer_format) for row in rows]
    usable = _comparable(answers, corpus)
    read = Read()
    seen: dict[str, str] = {}
    for number, (row, answer, good) in enumerate(zip(rows, answers, usable, strict=True), 1):
        problem = corpus.problem(row, layout, answer or "")
        if problem is None or not good:
            column = layout.problem if problem is None else layout.answer
            read.unreadable.append(f"{name} row {number}: {column}={str(value_of(row, column))[:60]!r}")
        elif problem.id not in seen:  # a problem that stands there twice is one problem
            read.problems.append(problem)
        elif seen[problem.id] != problem.answer:
            read.conflicts.append(f"{name} row {number}: {problem.answer[:30]!r} after {seen[problem.id][:30]!r}")
        else:
            read.repeated += 1
        if problem is not None and good:
            seen.setdefault(problem.id, problem.answer)
    return read


def _comparable(answers: Sequence[str | None], corpus: Corpus) -> list[bool]:
    """Whether the verifier can compare with each answer, found out in the grading processes, within their limit."""
    if corpus.has_own_reward:  # it may need no reference answer
        return [True] * len(answers)
    if corpus.reward == "math":
        return comparable(answers, corpus.reward_workers, corpus.reward_timeout_s)
    if corpus.reward == "gsm8k":
        return [answer is not None and leading_number(answer) is not None for answer in answers]
    return [answer is not None for answer in answers]


def newlines(prompt: str) -> str:
    """A prompt in which \\n, as a shell hands it over, is a line break; LaTeX such as \\neq stays."""
    return TYPED_NEWLINE.sub("\n", prompt)
