"""The training programme on one page.

    task → prompts → engine.generate → trajectories → delay line → reward → advantages → learner → version + 1
         → weight store → engine

What is not here: the loss (algorithms/), how tokens are sampled (rollout/), who samples them and when
(drivers/), what staleness is allowed (lag/), how records are kept (records/).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from harness import build, interrupts, randomness
from harness.config import Config
from harness.drivers.delay_line import DelayLine
from harness.drivers.generation import Generation
from harness.errors import RunFailed
from harness.evaluation import Evaluator, report_data
from harness.grading import Grader
from harness.learner.learner import Learner, Update
from harness.models.loading import LoadedModel, longest_prompt
from harness.progress import Progress
from harness.records import checkpoint
from harness.records.folder import RunFolder
from harness.rollout.interface import Request
from harness.rollout.prompts import PromptEncoder
from harness.tasks.interface import Problem, Task
from harness.tasks.prepare import prepare
from harness.warmstart import weights_sha256


class Interrupted(RuntimeError):
    """The run stopped at a safe point on request, with a checkpoint."""


@dataclass
class Best:
    """The checkpoint chosen on validation."""

    update: int = -1
    accuracy: float = -1.0


class Training:
    """One run from its config: the parts, wired, and the loop over rollout batches."""

    def __init__(self, config: Config, folder: RunFolder, progress: Progress) -> None:
        self.config = config
        self.folder = folder
        self.progress = progress
        torch.set_num_threads(config.torch_threads)
        progress.note("loading the model")
        self.model: LoadedModel = build.model(config)
        self.encode = PromptEncoder(self.model.tokenizer, config.model)
        data = prepare(config, build.task(config), self.encode, longest_prompt(config))
        self.task: Task = data.task
        report_data(data, folder, progress)
        self.grader = Grader(self.task, self.model.tokenizer, config.learner.truncated)
        self.learner: Learner = build.learner(config, self.model)
        self.evaluator = Evaluator(config, self.task, self.encode, self.grader, data.suites)
        self.best = Best()
        self.refused_in_a_row = 0
        self.started = time.perf_counter()
        # Started last: an error above must not leave worker threads or actors behind.
        self.generation: Generation = build.generation(config, self.model)
        self.line = DelayLine(self.generation, build.staleness_policy(config), self.shards, config.batches)

    # The loop ----------------------------------------------------------------------------------------

    def run(self) -> str:
        """Trains to the end and returns the hash of the final weights.

        Raises Interrupted (after a checkpoint) and RunFailed.
        """
        self.resume()
        self.publish()
        if self.learner.version == 0:
            self.evaluate()
        while self.learner.version < self.config.updates:
            self.stop_if_asked()
            self.line.refill(self.learner.version)
            self.train_on(self.learner.version // self.config.updates_per_step)
            self.publish()
            self.keep_records()
        return weights_sha256(self.model.module.state_dict())

    def train_on(self, batch: int) -> None:
        """One rollout batch: pop, grade, learn, record."""
        waited = time.perf_counter()
        rollouts = self.line.pop(batch)
        waited = time.perf_counter() - waited
        graded, grading_metrics = self.grader(self.problems(batch), rollouts)
        for update in self.learner.step(graded):
            self.record(update, {**grading_metrics, "time/wait_s": waited / self.config.updates_per_step})

    def publish(self) -> None:
        """Makes the learner's weights the newest version."""
        self.generation.publish(self.learner.version, self.model.module.state_dict())

    def keep_records(self) -> None:
        """After a step: evaluation, checkpoint and heartbeat where they are due."""
        update, last = self.learner.version, self.learner.version == self.config.updates
        if update % self.config.eval.every == 0 or last:
            self.evaluate()
        if update % self.config.checkpoint_every == 0 or last or self.best.update == update:
            self.save()
        self.folder.flush()

    def stop_if_asked(self) -> None:
        signal = interrupts.requested()
        if signal:
            if self.learner.version:
                self.save()
            raise Interrupted(f"{signal} at update {self.learner.version}")

    # Where the data come from ------------------------------------------------------------------------

    def problems(self, batch: int) -> list[Problem]:
        """Prompts are keyed by consumption index: the same for every algorithm and staleness."""
        size = self.config.rollout.prompts_per_step
        return self.task.train(self.config.seed, range(batch * size, (batch + 1) * size))

    def shards(self, batch: int) -> list[Request]:
        rollout = self.config.rollout
        keys = randomness.keys(
            self.config.seed,
            "sample",
            batch,
            np.arange(rollout.prompts_per_step)[:, None],
            np.arange(rollout.group_size),
        )
        prompts = self.encode.all(self.problems(batch))
        return Request(prompts, keys, rollout.temperature, rollout.max_new_tokens).cut(rollout.shards)

    # Records -----------------------------------------------------------------------------------------

    def record(self, update: Update, more: dict[str, float]) -> None:
        row = update.metrics | more
        row["time/elapsed_s"] = time.perf_counter() - self.started
        self.folder.append("metrics.jsonl", row)
        self.progress.updated(row)
        if update.tokens is not None:
            text = [str(t) for t in self.model.tokenizer.convert_ids_to_tokens(update.tokens["token_id"].tolist())]
            self.folder.append_tokens(int(row["update"]), update.tokens, text)
        if update.refusal is None:
            self.refused_in_a_row = 0
            return
        evidence = self.folder.dump(int(row["update"]), update.refusal.reason, update.refusal.tensors)
        self.refused_in_a_row += 1
        if self.refused_in_a_row >= self.config.learner.max_refused_in_a_row:
            raise RunFailed(
                f"non-finite: {self.refused_in_a_row} updates refused in a row, the last because "
                f"{update.refusal.reason}; see {evidence}"
            )

    def evaluate(self) -> None:
        self.progress.note("evaluating")
        for row, samples in self.evaluator.run(self.generation, self.learner.version):
            self.folder.append("eval.jsonl", row)
            for sample in samples:
                self.folder.append("samples.jsonl", sample)
            self.progress.evaluated(row)
            if row["split"] == "validation" and row["sampled_accuracy"] > self.best.accuracy and row["update"] > 0:
                self.best = Best(row["update"], row["sampled_accuracy"])

    # Checkpoints -------------------------------------------------------------------------------------

    def save(self) -> None:
        counters: dict[str, Any] = {
            "version": self.learner.version,
            "best": vars(self.best),
            "refused_in_a_row": self.refused_in_a_row,
            "records": self.folder.offsets(),
        }
        checkpoint.save(
            self.folder.checkpoints,
            self.learner.version,
            self.model,
            checkpoint.optimizer_tensors(self.learner.optimizer),
            self.line.contents(),
            counters,
        )
        checkpoint.prune(self.folder.checkpoints, keep_also={self.best.update})

    def resume(self) -> None:
        """Carries on from the newest checkpoint that is whole, or from the start."""
        found, complaints = checkpoint.newest_good(self.folder.checkpoints)
        for complaint in complaints:
            self.progress.warn(complaint)
        self.folder.rewind({} if found is None else found.counters["records"])
        if found is None:
            return
        self.model.module.load_state_dict(found.weights, strict=False)
        self.model.module.tie_weights()
        checkpoint.restore_optimizer(self.learner.optimizer, found.optimizer)
        self.learner.version = found.counters["version"]
        self.best = Best(**found.counters["best"])
        self.refused_in_a_row = found.counters["refused_in_a_row"]
        self.line.restore(found.line, self.learner.version // self.config.updates_per_step)
        self.progress.first = self.learner.version

    def outcome(self) -> str:
        """One line about how it ended."""
        return f"validation best {self.best.accuracy:.3f} at {self.best.update}"

    def close(self) -> None:
        self.generation.close()
