"""Evaluation: sampled accuracy avg@k, unbiased pass@k and greedy accuracy, split by split and suite by suite.

`Evaluator` is the one of a training run; `Evaluation` is `python run.py mode=evaluate checkpoint=FOLDER`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness import build, randomness
from harness.config import Config
from harness.drivers.generation import Generation
from harness.interrupts import result_of
from harness.models.digest import weights_sha256
from harness.models.loading import LoadedModel, longest_prompt, resolve_path
from harness.progress import Progress
from harness.records.checkpoint import MANIFEST
from harness.records.files import read_json
from harness.records.folder import RunFolder
from harness.rewards.grader import Grader
from harness.rollout.interface import batched
from harness.tasks.interface import Task
from harness.tasks.prepare import Prepared, prepare
from harness.tasks.prompts import PromptEncoder
from harness.tasks.suites import Suite
from harness.types import Problem, Request, Rollouts


@dataclass(frozen=True)
class _Split:
    """samples: k of avg@k · index: part of the samples' seeds."""

    problems: Sequence[Problem]
    prompts: list[list[int]]
    index: int
    samples: int
    grader: Grader


class Evaluator:
    """The same problems and the same seeds at every evaluation, so that differences are the policy's."""

    def __init__(
        self, config: Config, task: Task, encode: PromptEncoder, grader: Grader, suites: Sequence[Suite] = ()
    ) -> None:
        """grader: the task's, whose own splits come first."""
        self._config = config
        parts: dict[str, tuple[Sequence[Problem], int, Grader]] = {
            name: (task.split(name), config.eval.samples, grader) for name in task.evaluation_splits()
        }
        for suite in suites:
            own = replace(grader, task=suite)
            parts[suite.name] = (suite.problems, config.eval.suite_samples or suite.samples, own)
        self._splits = {
            name: _Split(problems, encode.all(problems), i, samples, own)
            for i, (name, (problems, samples, own)) in enumerate(parts.items())
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
            row, samples = self._accuracy(split, [result_of(f) for f in sampled[name]])
            if name in greedy:
                greedy_row, _ = self._accuracy(split, [result_of(f) for f in greedy[name]])
                row["greedy_accuracy"] = greedy_row["sampled_accuracy"]
            else:
                row["greedy_accuracy"] = None
            yield (
                {"update": version, "split": name, **row},
                [{"update": version, "split": name, **s} for s in samples],
            )

    def _submit(self, generation: Generation, split: _Split, version: int, *, greedy: bool) -> list[Future[Rollouts]]:
        count = 1 if greedy else split.samples
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
        return [generation.submit(part, version, urgent=True) for part in parts]

    def _accuracy(self, split: _Split, parts: Sequence[Rollouts]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        correct: list[np.ndarray] = []
        lengths: list[int] = []
        finished: list[bool] = []
        samples: list[dict[str, Any]] = []
        start = failures = 0
        for rollouts in parts:
            problems = split.problems[start : start + rollouts.n_prompts]
            start += rollouts.n_prompts
            grades, texts = split.grader.grades(problems, rollouts)
            failures += sum(bool(grade.failure) for grade in grades)
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
                        "finished": bool(rollouts.finished[k]),
                        "failure": grades[k].failure,
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
            "grader_failures": failures,
        }
        return row, samples


def report_data(data: Prepared, folder: RunFolder, progress: Progress) -> None:
    """Provenance of the data into the manifest; what had to be dropped, a line each."""
    if data.provenance:
        folder.update_manifest(data=data.provenance, dropped=data.notes)
    for note in data.notes:
        progress.warn(note)


def pass_at_k(right: np.ndarray, n: int, k: int) -> float:
    """Unbiased pass@k from n samples a problem, `right` of them correct (Chen et al. 2021, arXiv 2107.03374, eq. 1)."""
    return float(np.mean([1 - comb(n - int(c), k) / comb(n, k) for c in right]))


def _powers(n: int) -> list[int]:
    return [2**i for i in range(n.bit_length()) if 2**i <= n]


def printable(text: str, limit: int = 4000) -> str:
    """Text without control characters (an escape sequence in a response must not reach a terminal)."""
    return "".join(c if c in "\n\t" or unicodedata.category(c)[0] != "C" else "�" for c in text[:limit])


class Evaluation:
    """The evaluation of one folder of weights, in a run folder of its own. Started again it starts over."""

    def __init__(self, config: Config, folder: RunFolder, progress: Progress) -> None:
        self.folder = folder
        self.progress = progress
        torch.set_num_threads(config.torch_threads)
        progress.note("loading the model")
        self.model: LoadedModel = build.model(config)
        encode = PromptEncoder(self.model.tokenizer, config.model)
        data = prepare(config, build.task(config), encode, longest_prompt(config))
        report_data(data, folder, progress)
        grader = Grader(data.task, self.model.tokenizer, config.learner.truncated)
        self.evaluator = Evaluator(config, data.task, encode, grader, data.suites)
        self.version = version_of(str(config.checkpoint))
        self.accuracy: dict[str, float] = {}
        self.generation: Generation = build.generation(config, self.model)

    def run(self) -> str:
        """Evaluates every split and suite and returns the hash of the weights."""
        self.folder.rewind({})
        self.generation.publish(self.version, self.model.module.state_dict())
        for row, samples in self.evaluator.run(self.generation, self.version):
            self.folder.append("eval.jsonl", row)
            for sample in samples:
                self.folder.append("samples.jsonl", sample)
            self.progress.evaluated(row)
            self.accuracy[row["split"]] = row["sampled_accuracy"]
        return weights_sha256(self.model.module.state_dict())

    def outcome(self) -> str:
        return ", ".join(f"{split} {accuracy:.3f}" for split, accuracy in self.accuracy.items())

    def close(self) -> None:
        self.generation.close()


def version_of(checkpoint: str) -> int:
    """Updates behind a checkpoint's weights; 0 for a model that is none of ours."""
    manifest = Path(resolve_path(checkpoint)) / MANIFEST
    return int(read_json(manifest)["update"]) if manifest.is_file() else 0
