"""Evaluation: sampled accuracy avg@k at the training temperature and greedy accuracy, split by split."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from math import comb
from typing import Any

import numpy as np

from harness import randomness
from harness.config import Config
from harness.drivers.generation import Generation
from harness.grading import Grader
from harness.models.sequences import Rollouts
from harness.rollout.interface import Request, batched
from harness.rollout.prompts import PromptEncoder
from harness.tasks.interface import Problem, Task


@dataclass(frozen=True)
class _Split:
    problems: Sequence[Problem]
    prompts: list[list[int]]
    index: int


class Evaluator:
    """The same problems and the same seeds at every evaluation, so that differences are the policy's."""

    def __init__(self, config: Config, task: Task, encode: PromptEncoder, grader: Grader) -> None:
        self._config = config
        self._grader = grader
        self._splits = {
            name: _Split(problems := task.split(name), encode.all(problems), i)
            for i, name in enumerate(task.evaluation_splits())
        }

    def run(self, generation: Generation, version: int) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
        """For each split its row for eval.jsonl and a few sample responses, all from `version`."""
        sampled = {name: self._submit(generation, split, version, greedy=False) for name, split in self._splits.items()}
        greedy = (
            {name: self._submit(generation, split, version, greedy=True) for name, split in self._splits.items()}
            if self._config.eval.greedy
            else {}
        )
        for name, split in self._splits.items():
            row, samples = self._accuracy(split, [f.result() for f in sampled[name]])
            if name in greedy:
                greedy_row, _ = self._accuracy(split, [f.result() for f in greedy[name]])
                row["greedy_accuracy"] = greedy_row["sampled_accuracy"]
            else:
                row["greedy_accuracy"] = None
            yield (
                {"update": version, "split": name, **row},
                [{"update": version, "split": name, **s} for s in samples],
            )

    def _submit(self, generation: Generation, split: _Split, version: int, *, greedy: bool) -> list[Future[Rollouts]]:
        count = 1 if greedy else self._config.eval.samples
        keys = randomness.keys(
            self._config.seed,
            "evaluation",
            split.index,
            np.arange(len(split.prompts))[:, None],
            np.arange(count),
        )
        temperature = 0.0 if greedy else self._config.eval.temperature
        request = Request(split.prompts, keys, temperature, self._config.rollout.max_new_tokens)
        parts = batched(request, self._config.eval.batch_prompts)
        return [generation.submit([part], version, urgent=True) for part in parts]

    def _accuracy(self, split: _Split, parts: Sequence[Rollouts]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        correct: list[np.ndarray] = []
        lengths: list[int] = []
        finished: list[bool] = []
        samples: list[dict[str, Any]] = []
        start = 0
        for rollouts in parts:
            problems = split.problems[start : start + rollouts.n_prompts]
            start += rollouts.n_prompts
            grades, texts = self._grader.grades(problems, rollouts)
            right = np.array([g.correct for g in grades]).reshape(rollouts.n_prompts, -1)
            correct.append(right)
            lengths += rollouts.response_lengths.tolist()
            finished += rollouts.finished.tolist()
            for i, problem in enumerate(problems[: max(self._config.eval.sample_responses - len(samples), 0)]):
                k = i * right.shape[1]
                samples.append(
                    {
                        "prompt": printable(problem.prompt),
                        "response": printable(texts[k]),
                        "reward": grades[k].reward,
                        "answer": printable(problem.answer),
                    }
                )
        table = np.concatenate(correct)
        k = table.shape[1]
        row = {
            "n": len(table),
            "k": k,
            "sampled_accuracy": float(table.mean()),
            "pass_at_k": {str(j): pass_at_k(table.sum(1), k, j) for j in _powers(k)},
            "response_length": float(np.mean(lengths)),
            "truncated_fraction": 1 - float(np.mean(finished)),
        }
        return row, samples


def pass_at_k(right: np.ndarray, n: int, k: int) -> float:
    """Unbiased pass@k from n samples a problem, `right` of them correct (Chen et al. 2021, arXiv 2107.03374, eq. 1)."""
    return float(np.mean([1 - comb(n - int(c), k) / comb(n, k) for c in right]))


def _powers(n: int) -> list[int]:
    return [2**i for i in range(n.bit_length()) if 2**i <= n]


def printable(text: str, limit: int = 4000) -> str:
    """Text without control characters (an escape sequence in a response must not reach a terminal)."""
    return "".join(c if c in "\n\t" or unicodedata.category(c)[0] != "C" else "�" for c in text[:limit])
