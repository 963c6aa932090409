"""Evaluation: accuracy avg@k under each decoding and unbiased pass@k, split by split and suite by suite.

`Evaluator` serves a training run; `Evaluation` is `python run.py mode=evaluate checkpoint=FOLDER`.
"""

from __future__ import annotations

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
from harness.errors import printable
from harness.interrupts import result_of
from harness.models.checks import resolve_path
from harness.models.digest import weights_sha256
from harness.models.loading import LoadedModel, longest_prompt
from harness.progress import Progress
from harness.records.checkpoint import check_whole
from harness.records.files import read_json
from harness.records.folder import RunFolder
from harness.records.layout import CHECKPOINT
from harness.records.recorder import Recorder
from harness.rewards.grader import Grader
from harness.rollout.interface import batched
from harness.tasks.interface import Task
from harness.tasks.prepare import prepare
from harness.tasks.prompts import PromptEncoder
from harness.tasks.suites import Suite
from harness.types import Grade, Problem, Request, Rollouts, concatenate

LONGEST_SAMPLE = 4000  # characters of a prompt, response or answer in samples.jsonl

Row = dict[str, Any]


@dataclass(frozen=True)
class Split:
    """What is evaluated at once.

    problems, prompts: in order.
    index: of the split, part of the samples' seeds.
    samples: k of avg@k.
    grader: of its task or suite.
    """

    problems: Sequence[Problem]
    prompts: list[list[int]]
    index: int
    samples: int
    grader: Grader


@dataclass(frozen=True)
class Decoding:
    """One way to answer, and its two names in eval.jsonl.

    accuracy: share of right answers. right: right answers of each problem, in the order of the split.
    top_p: share of the distribution sampled from.
    """

    accuracy: str
    right: str
    top_p: float = 1.0


SAMPLED = Decoding("sampled_accuracy", "right")
GREEDY = Decoding("greedy_accuracy", "greedy_right")


def decodings(greedy: bool, top_p: Sequence[float]) -> list[Decoding]:
    """What an evaluation records: plain samples first, then greedy and truncated ones where they are asked for."""
    truncated = [Decoding(f"accuracy_top_p_{share:g}", f"right_top_p_{share:g}", share) for share in top_p]
    return [SAMPLED, *[GREEDY] * greedy, *truncated]


@dataclass(frozen=True)
class Graded:
    """The answers to a split, [problems · samples], and `right`: bool [problems, samples]."""

    rollouts: Rollouts
    grades: Sequence[Grade]
    texts: Sequence[str]
    right: np.ndarray


class Evaluator:
    """The same problems and the same seeds at every evaluation, so that differences are the policy's.

    config: of the run.
    task: whose evaluation splits come first.
    encode: problems → prompts.
    grader: of the task.
    suites: benchmarks beside the task's own splits.
    """

    def __init__(
        self, config: Config, task: Task, encode: PromptEncoder, grader: Grader, suites: Sequence[Suite] = ()
    ) -> None:
        self._config = config
        self._decodings = decodings(config.eval.greedy, config.eval.top_p)
        only = config.eval.validation_only
        parts: dict[str, tuple[Sequence[Problem], int, Grader]] = {
            name: (task.split(name), config.eval.samples, grader)
            for name in task.evaluation_splits()[: 1 if only else None]
        }
        for suite in () if only else suites:
            samples = config.eval.suite_samples or suite.samples
            parts[suite.name] = (suite.problems, samples, replace(grader, task=suite))
        self._splits = {
            name: Split(problems, encode.all(problems), index, samples, own)
            for index, (name, (problems, samples, own)) in enumerate(parts.items())
        }

    def run(self, generation: Generation, version: int) -> Iterator[tuple[Row, list[Row]]]:
        """Evaluates every split.

        generation: has the version.
        version: whose policy answers.
        Returns, split by split, the row for eval.jsonl and those for samples.jsonl. Raises Interrupted.
        """
        submitted = {decoding: self._submit(generation, version, decoding) for decoding in self._decodings}
        for name, split in self._splits.items():
            row, samples = self._evaluated(split, submitted[SAMPLED][name])
            row[GREEDY.accuracy] = None
            for decoding in self._decodings[1:]:
                right = self._graded(split, submitted[decoding][name]).right
                row |= {decoding.accuracy: float(right.mean()), decoding.right: right.sum(1).tolist()}
            about = {"update": version, "split": name}
            yield about | row, [about | sample for sample in samples]

    def warnings(self, row: Row) -> list[str]:
        """What somebody should look at, a line each: a split whose responses were all cut off.

        row: of a split, as `run` gives it.
        """
        if row["truncated_fraction"] < 1:
            return []
        limit = self._config.rollout.max_new_tokens
        return [
            f"{row['split']}, update {row['update']}: every response was cut off at rollout.max_new_tokens={limit}; "
            "raise it, choose another model.template, or name the token that ends an answer in model.end_token"
        ]

    def _submit(self, generation: Generation, version: int, decoding: Decoding) -> dict[str, list[Future[Rollouts]]]:
        """Rollouts of every split, by its name, in parts."""
        requests = {name: self._request(split, decoding) for name, split in self._splits.items()}
        return {
            name: [
                generation.submit(part, version, urgent=True)
                for part in batched(request, self._config.eval.batch_prompts)
            ]
            for name, request in requests.items()
        }

    def _request(self, split: Split, decoding: Decoding) -> Request:
        greedy = decoding is GREEDY
        problems, samples = np.arange(len(split.prompts)), np.arange(1 if greedy else split.samples)
        keys = randomness.keys(self._config.seed, "evaluation", split.index, problems[:, None], samples)
        temperature = 0.0 if greedy else self._config.eval.temperature
        limit = self._config.rollout.max_new_tokens
        return Request(split.prompts, keys, temperature, limit, decoding.top_p, logprobs=False)

    def _graded(self, split: Split, parts: Sequence[Future[Rollouts]]) -> Graded:
        rollouts = concatenate([result_of(part) for part in parts])
        grades, texts = split.grader.grades(split.problems, rollouts)
        right = np.array([grade.correct for grade in grades]).reshape(rollouts.n_prompts, -1)
        return Graded(rollouts, grades, texts, right)

    def _evaluated(self, split: Split, parts: Sequence[Future[Rollouts]]) -> tuple[Row, list[Row]]:
        """Accuracy of a split's rollouts, and a few of them."""
        graded = self._graded(split, parts)
        rollouts, grades, right = graded.rollouts, graded.grades, graded.right
        k = right.shape[1]
        row = {
            "n": len(right),
            "k": k,
            SAMPLED.accuracy: float(right.mean()),
            SAMPLED.right: right.sum(1).tolist(),
            "pass_at_k": {str(j): pass_at_k(right.sum(1), k, j) for j in _powers_of_two(k)},
            "response_length": rollouts.response_lengths.double().mean().item(),
            "truncated_fraction": 1 - rollouts.finished.double().mean().item(),
            "grader_failures": sum(bool(grade.failure) for grade in grades),
        }
        samples = [
            {
                "prompt": _sample(problem.prompt),
                "response": _sample(graded.texts[i * k]),
                "reward": grades[i * k].reward,
                "finished": bool(rollouts.finished[i * k]),
                "failure": grades[i * k].failure,
                "answer": _sample(problem.answer),
            }
            for i, problem in enumerate(split.problems[: self._config.eval.sample_responses])
        ]
        return row, samples


def pass_at_k(right: np.ndarray, n: int, k: int) -> float:
    """Unbiased pass@k from n samples a problem (Chen et al. 2021, arXiv 2107.03374, eq. 1).

    right: [problems] int, correct samples of each.
    """
    return float(np.mean([1 - comb(n - int(c), k) / comb(n, k) for c in right]))


def _powers_of_two(n: int) -> list[int]:
    return [2**i for i in range(n.bit_length()) if 2**i <= n]


def _sample(text: str) -> str:
    return printable(text[:LONGEST_SAMPLE])


class Evaluation:
    """The evaluation of one folder of weights, in a run folder of its own. Started again it starts over.

    config, folder, progress: as Training's.
    """

    def __init__(self, config: Config, folder: RunFolder, progress: Progress) -> None:
        torch.set_num_threads(config.torch_threads)
        check_whole(Path(resolve_path(str(config.checkpoint))), weights=True)
        progress.note("loading the model")
        self.model: LoadedModel = build.model(config)
        encode = PromptEncoder(self.model.tokenizer, config.model)
        data = prepare(config, build.task(config), encode, longest_prompt(config))
        self.recorder = Recorder(folder, progress, self.model.token_text, config.learner.max_refused_in_a_row)
        progress.say(data.opening)
        self.recorder.data(data.provenance, data.notes)
        grader = Grader(data.task, self.model.tokenizer, config.learner.truncated)
        self.evaluator = Evaluator(config, data.task, encode, grader, data.suites)
        self.version = version_of(str(config.checkpoint))
        self.accuracy: dict[str, float] = {}
        self.generation: Generation = build.generation(config, self.model)

    def run(self) -> str:
        """Evaluates every split and suite and returns the hash of the weights."""
        self.recorder.restart()
        self.generation.publish(self.version, self.model.module.state_dict())
        self.recorder.note("evaluating")
        for row, samples in self.evaluator.run(self.generation, self.version):
            self.recorder.evaluation(row, samples)
            for warning in self.evaluator.warnings(row):
                self.recorder.warn(warning)
            self.accuracy[row["split"]] = row["sampled_accuracy"]
        return weights_sha256(self.model.module.state_dict())

    def outcome(self) -> str:
        """One line about how it ended."""
        return ", ".join(f"{split} {accuracy:.3f}" for split, accuracy in self.accuracy.items())

    def close(self) -> None:
        """Stops generation."""
        self.generation.close()


def version_of(checkpoint: str) -> int:
    """Updates behind a checkpoint's weights; 0 for a model that is none of ours."""
    manifest = Path(resolve_path(checkpoint)) / CHECKPOINT
    return int(read_json(manifest)["update"]) if manifest.is_file() else 0
