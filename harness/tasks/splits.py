"""Which problems are the same, which are held out, in which order they come, and how many may be dropped."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from harness import randomness
from harness.errors import UserError
from harness.types import Problem

SHOWN = 3  # examples in a message
UNREADABLE = "rows could not be read"


def check_share(dropped: dict[str, list[str]], rows: int, most: float) -> list[str]:
    """A note for each reason to drop problems: how many, and three of them.

    dropped: reason → a line a problem.
    rows: how many were read.
    most: share of them that may be dropped.
    Raises UserError above it.
    """
    notes = [f"{len(bad)} {what}: {'; '.join(bad[:SHOWN])}" for what, bad in dropped.items() if bad]
    share = sum(map(len, dropped.values())) / rows
    if share > most:
        raise UserError(
            f"task: {share:.1%} of {rows} problems would be dropped ({' · '.join(notes)}); "
            f"at most task.max_dropped_share={most} is allowed: mend the file, name its columns "
            "(task.problem_column, task.answer_column, task.answer_format) or raise it"
        )
    return notes


def problem_id(text: str) -> str:
    """Hash of a problem's words: the same whatever its spacing, case or punctuation."""
    words = "".join(c if c.isalnum() else " " if c.isspace() else f" {c} " for c in text.lower()).split()
    return hashlib.sha256(" ".join(words).encode("utf-8", "replace")).hexdigest()[:16]


def held_out(problems: list[Problem], count: int) -> tuple[list[Problem], list[Problem]]:
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
