"""The training programme on one page.

    task → prompts → engine.generate → trajectories → delay line → reward → advantages → learner → version + 1
         → weight store → engine

What is not here: the loss (algorithms/), how tokens are sampled (rollout/), who samples them and when
(drivers/), what staleness is allowed (lag/), how records are kept (records/).
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from harness import build, interrupts, randomness
from harness.config import Config
from harness.drivers.generation import Generation
from harness.drivers.queue import RolloutQueue
from harness.errors import RunFailed
from harness.evaluation import Evaluator, report_data
from harness.interrupts import Interrupted
from harness.lag import realised, schedule
from harness.learner.learner import Learner, Update
from harness.models.digest import weights_sha256
from harness.models.loading import LoadedModel, longest_prompt
from harness.models.memory import keep_freed_memory
from harness.progress import Progress
from harness.records import checkpoint
from harness.records.folder import RunFolder
from harness.rewards.grader import Grader
from harness.tasks.interface import Task
from harness.tasks.prepare import prepare
from harness.tasks.prompts import PromptEncoder
from harness.types import Batch, Chunk, GradedRollouts, Problem, Request, concatenate, part


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
        keep_freed_memory()
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
        self.checkpoints = checkpoint.Checkpoints(folder.checkpoints, self.model)
        # Started last: an error above must not leave worker threads or actors behind.
        self.generation: Generation = build.generation(config, self.model)
        self.line: RolloutQueue = build.rollout_queue(config, self.generation, self.request)

    # The loop ----------------------------------------------------------------------------------------

    def run(self) -> str:
        """Trains to the end and returns the hash of the final weights.

        Raises Interrupted (after a checkpoint) and RunFailed.
        """
        self.resume()
        self.publish()
        if self.learner.version == 0:
            self.open_schedule()
            self.evaluate()
        while self.learner.version < self.config.updates:
            self.stop_if_asked()
            self.line.refill(self.learner.version)
            self.train_on(self.learner.version // self.config.updates_per_step)
            self.publish()
            self.keep_records()
        return weights_sha256(self.model.module.state_dict())

    def train_on(self, number: int) -> None:
        """One rollout batch: pop, grade, learn, record."""
        waited = time.perf_counter()
        batch = self.line.pop(number, self.wait_for_rollouts)
        waited = time.perf_counter() - waited
        graded, more = self.grade(batch.chunks)
        more |= self.lag_records(number, batch, graded)
        more["time/wait_s"] = waited / self.config.updates_per_step
        more["time/generator_idle_s"] = self.generation.idle_s() / self.config.updates_per_step
        for update in self.learner.step(graded):
            self.record(update, more)

    def wait_for_rollouts(self) -> None:
        self.line.wait(seconds=0.1)
        self.stop_if_asked()

    def grade(self, chunks: list[Chunk]) -> tuple[GradedRollouts, dict[str, Any]]:
        """The chunks as one batch with its rewards; those masked for their staleness are not trained on."""
        problems = [problem for chunk in chunks for problem in self.problems(chunk.index)]
        graded, metrics = self.grader(problems, concatenate([chunk.rollouts for chunk in chunks]))
        fresh = torch.cat([torch.full((chunk.rollouts.n_responses,), chunk.trained) for chunk in chunks])
        return replace(graded, trained=graded.trained & fresh), metrics

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

    def places(self, chunk: int) -> tuple[int, range]:
        """The batch a chunk is numbered in, and which of the batch's prompts are its own."""
        rollout = self.config.rollout
        batch, index = divmod(chunk, rollout.chunks)
        return batch, part(rollout.prompts_per_step, rollout.chunks, index)

    def problems(self, chunk: int) -> list[Problem]:
        """Prompts are keyed by the order of asking, which under an exact lag is that of consumption: the same
        for every algorithm and staleness."""
        batch, prompts = self.places(chunk)
        first = batch * self.config.rollout.prompts_per_step
        return self.task.train(self.config.seed, range(first + prompts.start, first + prompts.stop))

    def request(self, chunk: int) -> Request:
        rollout = self.config.rollout
        batch, prompts = self.places(chunk)
        keys = randomness.keys(
            self.config.seed,
            "sample",
            batch,
            np.arange(prompts.start, prompts.stop)[:, None],
            np.arange(rollout.group_size),
        )
        return Request(self.encode.all(self.problems(chunk)), keys, rollout.temperature, rollout.max_new_tokens)

    # Records -----------------------------------------------------------------------------------------

    def record(self, update: Update, more: dict[str, Any]) -> None:
        row: dict[str, Any] = {**update.metrics, **more}
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

    def open_schedule(self) -> None:
        if self.line.policy.free_running:
            self.folder.append("schedule.jsonl", {"identity": schedule.identity(self.config)})

    def lag_records(self, number: int, batch: Batch, graded: GradedRollouts) -> dict[str, Any]:
        """Metrics of how the batch came about; under a bounded lag also what was too stale, and the schedule."""
        metrics: dict[str, Any] = realised.timing(batch)
        if not self.line.policy.free_running:
            return metrics
        seconds = time.perf_counter() - self.started
        self.folder.append("schedule.jsonl", schedule.row(number, batch.chunks, seconds))
        masked = [chunk for chunk in batch.chunks if not chunk.trained]
        return metrics | realised.losses([self.grade([chunk])[0] for chunk in [*batch.dropped, *masked]])

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
        line = self.line.rollouts()
        counters: dict[str, Any] = {
            "version": self.learner.version,
            "line": self.line.counters(),
            "best": vars(self.best),
            "refused_in_a_row": self.refused_in_a_row,
            "records": self.folder.marks(),
        }
        state = checkpoint.optimizer_tensors(self.learner.optimizer)
        self.checkpoints.save(self.learner.version, state, line, counters, keep_also={self.best.update})

    def resume(self) -> None:
        """Carries on from the newest checkpoint that is whole, or from the start."""
        found, complaints = checkpoint.newest_good(self.folder.checkpoints, self.folder.damage)
        for complaint in complaints:
            self.progress.warn(complaint)
        self.folder.rewind({} if found is None else found.counters["records"])
        if found is None:
            return
        checkpoint.restore_weights(self.model, found.weights)
        checkpoint.restore_optimizer(self.learner.optimizer, found.optimizer)
        self.learner.version = found.counters["version"]
        self.best = Best(**found.counters["best"])
        self.refused_in_a_row = found.counters["refused_in_a_row"]
        self.line.restore(found.line, found.counters["line"])
        self.progress.first = self.learner.version

    def outcome(self) -> str:
        """One line about how it ended."""
        return f"validation best {self.best.accuracy:.3f} at {self.best.update}"

    def close(self) -> None:
        self.generation.close()
