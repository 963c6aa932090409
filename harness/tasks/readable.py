"""Can the verifier compare with each reference answer? Found out once for each content, and remembered on the disk."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from harness.progress import Progress
from harness.records.layout import cache_folder
from harness.rewards import answers as reading
from harness.rewards import numbers, verifiers
from harness.rewards.pool import shared_pool
from harness.rewards.process import Job

AT_ONCE = 256  # answers between two looks at the clock
PATIENCE_S = 5.0  # after which a line is said even where nobody watches


def comparable(answers: Sequence[str | None], workers: int, timeout_s: float) -> list[bool]:
    """Whether math-verify can compare with each reference answer.

    answers: the texts; None: there is none.
    workers, timeout_s: of the grading processes that try it.
    Returns a flag an answer. Where the same answers have been tried before with the same code, from the disk.
    """
    different = sorted({answer for answer in answers if answer})
    good = _tried(tuple(different), workers, timeout_s) if different else frozenset()
    return [answer in good for answer in answers]


@lru_cache(maxsize=16)
def _tried(answers: tuple[str, ...], workers: int, timeout_s: float) -> frozenset[str]:
    file = cache_folder() / "answers" / f"{_key(answers)}.json"
    with suppress(OSError, ValueError):  # no cache, or half of one: it is tried
        flags = json.loads(file.read_bytes())
        if len(flags) == len(answers):
            return frozenset(answer for answer, flag in zip(answers, flags, strict=True) if flag)
    flags = _try(answers, workers, timeout_s)
    with suppress(OSError):  # a cache that cannot be written costs time, nothing else
        _write(file, flags)
    return frozenset(answer for answer, flag in zip(answers, flags, strict=True) if flag)


def _try(answers: Sequence[str], workers: int, timeout_s: float) -> list[bool]:
    pool, progress, started = shared_pool(workers, timeout_s), Progress("task"), time.monotonic()
    flags: list[bool] = []
    is_said = False
    for first in range(0, len(answers), AT_ONCE):
        progress.note(f"checking reference answers, {first} of {len(answers)}")
        outcomes = pool.run([Job("math_parses", {"answer": one}) for one in answers[first : first + AT_ONCE]])
        flags += [outcome.score == 1 for outcome in outcomes]
        if not is_said and time.monotonic() - started > PATIENCE_S and len(flags) < len(answers):
            progress.warn(f"checking {len(answers)} reference answers, once for these contents")
            is_said = True
    progress.note("")
    return flags


def _key(answers: Sequence[str]) -> str:
    """Hash of the answers and of the code that reads them."""
    digest = hashlib.sha256(importlib.metadata.version("math-verify").encode())
    for module in (verifiers, reading, numbers):
        digest.update(Path(str(module.__file__)).read_bytes())
    digest.update(json.dumps(answers).encode())
    return digest.hexdigest()


def _write(file: Path, flags: list[bool]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False) as partial:
        json.dump(flags, partial)
    Path(partial.name).replace(file)
