"""The training programme on one page.

    task → prompts → engine → rollouts → queue → reward → advantages → learner → version + 1 → weight store → engine

What is not here: the loss (algorithms/), how tokens are sampled (rollout/), who samples them and when
(drivers/), what staleness is allowed (lag/), how records are kept (records/).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import torch

from harness import build, interrupts
from harness.config import Config
from harness.drivers.generation import Generation
from harness.drivers.queue import RolloutQueue
from harness.evaluation import Evaluator
from harness.interrupts import Interrupted, Paused
from harness.lag import realised, schedule
from harness.learner.fidelity import Halves
from harness.learner.learner import Learner
from harness.learner.state import LearnerState
from harness.models.digest import weights_sha256
from harness.models.loading import LoadedModel, longest_prompt
from harness.models.memory import keep_freed_memory
from harness.progress import Progress
from harness.ranks.alone import Alone
from harness.records import fork
from harness.records.checkpoint import Checkpoints, RunState, newest_good
from harness.records.folder import RunFolder
from harness.records.recorder import Recorder
from harness.rewards.grader import Grader
from harness.tasks.prepare import prepare
from harness.tasks.prompts import PromptEncoder
from harness.tasks.requests import Requests
from harness.types import Batch, Chunk, GradedRollouts, concatenate


class Training:
    """One run from its config: the parts, wired, and the loop over rollout batches.

    config: what to run.
    folder: where its records and checkpoints go.
    progress: what is said of the run.
    ranks: that share the learner; this process is the first of them.
    """

    def __init__(self, config: Config, folder: RunFolder, progress: Progress, ranks: Alone | None = None) -> None:
        self.config = config
        self.folder = folder
        torch.set_num_threads(config.torch_threads)
        keep_freed_memory()
        progress.note("loading the model")
        ranks = ranks or Alone()
        self.model: LoadedModel = build.learner_model(config, ranks)
        encode = PromptEncoder(self.model.tokenizer, config.model)
        data = prepare(config, build.task(config), encode, longest_prompt(config))
        self.recorder = Recorder(folder, progress, self.model.token_text, config.learner.max_refused_in_a_row)
        progress.say(data.opening)
        self.recorder.data(data.provenance, data.notes)
        self.requests = Requests(config, data.task, encode)
        self.warned_of_failures = False
        self.grader = Grader(data.task, self.model.tokenizer, config.learner.truncated)
        self.learner: Learner = build.learner(config, self.model, ranks)
        self.state = LearnerState(self.learner, ranks)
        self.evaluator = Evaluator(config, data.task, encode, self.grader, data.suites)
        self.checkpoints = Checkpoints(
            folder.checkpoints, self.model.describe, config.record.keep_checkpoints, config.sha256()
        )
        folder.update_manifest(**build.staleness_policy(config).facts)
        # Started last: an error above must not leave worker threads or actors behind.
        self.generation: Generation = build.generation(config, self.model)
        self.queue: RolloutQueue = build.rollout_queue(config, self.generation, self.requests)

    # The loop ----------------------------------------------------------------------------------------

    def run(self) -> str:
        """Trains to the end and returns the hash of the final weights.

        Raises Interrupted and Paused (after a checkpoint), and RunFailed.
        """
        self.resume()
        self.recorder.note("")
        self.publish()
        if self.learner.version == fork.start(self.config):
            self.open_schedule()
            self.evaluate()
        while self.learner.version < self.config.updates:
            self.stop_if_asked()
            self.pause_if_due()
            self.queue.refill(self.learner.version)
            self.train_on(self.learner.version // self.config.updates_per_step)
            self.publish()
            self.keep_records()
        self.folder.update_manifest(acted_updates=self.recorder.acted_updates)
        return weights_sha256(self.state.weights())

    def train_on(self, number: int) -> None:
        """One rollout batch: pop, grade, step, record."""
        started = time.perf_counter()
        batch = self.queue.pop(number, self.wait_for_rollouts)
        metrics = self.timing(batch, waited_s=time.perf_counter() - started)
        graded, rewards = self.grade(batch)
        self.record_schedule(number, batch)
        for update in self.learner.step(graded, self.fresh(batch)):
            self.recorder.update(update, metrics | rewards)

    def wait_for_rollouts(self) -> None:
        self.queue.wait(seconds=0.1)
        self.stop_if_asked()

    def timing(self, batch: Batch, waited_s: float) -> dict[str, float]:
        """Metrics of how a batch came about; seconds are those of the batch, divided among its updates."""
        updates = self.config.updates_per_step
        seconds = {"wait": waited_s, "generator_idle": self.generation.idle_s(), **self.generation.seconds()}
        return realised.timing(batch) | {f"time/{what}_s": value / updates for what, value in seconds.items()}

    def publish(self) -> None:
        """Makes the learner's weights the newest version."""
        self.generation.publish(self.learner.version, self.state.weights())

    def keep_records(self) -> None:
        """After a step: evaluation, checkpoint and heartbeat where they are due."""
        update, last = self.learner.version, self.learner.version == self.config.updates
        if update % self.config.eval.every == 0 or last:
            self.evaluate()
        wanted = update in {self.recorder.best.update, *self.checkpoints.listed}
        if update % self.config.checkpoint_every == 0 or last or wanted:
            self.save()
        self.recorder.flush()

    def evaluate(self) -> None:
        """Records every split's accuracy under the newest version."""
        self.recorder.note("evaluating")
        for row, samples in self.evaluator.run(self.generation, self.learner.version):
            self.recorder.evaluation(row, samples)
            for warning in self.evaluator.warnings(row) if self.learner.version == 0 else ():
                self.recorder.warn(warning)
        self.recorder.note("")

    def stop_if_asked(self) -> None:
        """Raises Interrupted, after a checkpoint, once a signal has asked the run to stop."""
        signal = interrupts.requested()
        if signal:
            if self.learner.version:
                self.save()
            raise Interrupted(f"{signal} at update {self.learner.version}")

    def pause_if_due(self) -> None:
        """Raises Paused, after a checkpoint, at `stop_at`."""
        stop_at = self.config.stop_at
        if stop_at is not None and self.learner.version >= stop_at:
            self.save()
            raise Paused(f"update {self.learner.version}")

    # Rewards -----------------------------------------------------------------------------------------

    def grade(self, batch: Batch) -> tuple[GradedRollouts, dict[str, float]]:
        """The batch with its rewards, its stale chunks masked, and the metrics of grading it.

        Of a free-running run they also say what was too stale to be trained on.
        """
        graded, metrics = self.grade_chunks(batch.chunks)
        self.warn_of_failures(metrics["grader_failures"], graded.rollouts.n_responses)
        if self.queue.policy.free_running:
            dropped = [self.grade_chunks([chunk])[0] for chunk in batch.dropped]
            metrics |= realised.losses(batch, graded, dropped)
        return graded, metrics

    def warn_of_failures(self, failures: float, responses: int) -> None:
        """Says once that the grader fails over more than a tenth of a batch: rewards of 0 that mean nothing."""
        if failures > responses / 10 and not self.warned_of_failures:
            self.warned_of_failures = True
            self.recorder.warn(
                f"the grader failed over {failures:.0f} of {responses} responses, which earn 0: grader_failures in "
                "metrics.jsonl counts them, failure in samples.jsonl names the reason"
            )

    def grade_chunks(self, chunks: Sequence[Chunk]) -> tuple[GradedRollouts, dict[str, float]]:
        """Several chunks as one."""
        problems = [problem for chunk in chunks for problem in self.requests.problems(chunk.index)]
        graded, metrics = self.grader(problems, concatenate([chunk.rollouts for chunk in chunks]))
        fresh = torch.cat([torch.full((chunk.rollouts.n_responses,), chunk.trained) for chunk in chunks])
        return replace(graded, trained=graded.trained & fresh), metrics

    def fresh(self, batch: Batch) -> Halves | None:
        """Where record.fidelity is due: the prompts of the next update, answered twice by the newest policy."""
        every, version = self.config.record.fidelity, self.learner.version
        if every is None or version % every:
            return None
        problems = [problem for chunk in batch.chunks for problem in self.requests.problems(chunk.index)]
        problems = problems[: len(problems) * self.config.learner.max_epochs // self.config.updates_per_step]
        requests = [self.requests.fresh(problems, version, half) for half in (0, 1)]
        answers = [self.generation.submit(request, version, urgent=True) for request in requests]
        first, second = (self.grader(problems, interrupts.result_of(answer))[0] for answer in answers)
        return first, second

    # The schedule of a free-running run ---------------------------------------------------------------

    def open_schedule(self) -> None:
        if self.queue.policy.free_running:
            self.recorder.schedule({"identity": schedule.identity(self.config)})

    def record_schedule(self, number: int, batch: Batch) -> None:
        if self.queue.policy.free_running:
            self.recorder.schedule(schedule.row(number, batch.chunks, self.recorder.elapsed_s()))

    # Checkpoints -------------------------------------------------------------------------------------

    def save(self) -> None:
        """Writes a checkpoint of this very moment. Raises RunFailed, and Interrupted if the queue takes too long."""
        rollouts = self.queue.rollouts()
        version = self.learner.version
        counters = {"version": version, "queue": self.queue.counters(), "records": self.recorder.state()}
        write_files = self.state.write if self.config.ranks > 1 else None
        state = RunState(self.model.module.state_dict(), self.learner.optimizer, rollouts, counters, write_files)
        self.checkpoints.save(version, state, best=self.recorder.best.update)

    def resume(self) -> None:
        """Carries on from the newest checkpoint that is whole, or from the start."""
        found, complaints = newest_good(
            self.folder.checkpoints,
            self.recorder.damage,
            self.config.device,
            self.config.sha256(),
            sliced=self.config.ranks > 1,
        )
        for complaint in complaints:
            self.recorder.warn(complaint)
        self.checkpoints.settle(-1 if found is None else found.counters["version"])
        if self.config.fork and not self.keeps_queue():
            self.queue.start(fork.start(self.config) // self.config.updates_per_step)
        if found is None:
            self.recorder.restart()
            self.fork()
            return
        self.recorder.restore(found.counters["records"])
        self.state.restore(found)
        self.queue.restore(found.rollouts, found.counters["queue"])

    def fork(self) -> None:
        """Starts from another run's checkpoint, where one is named."""
        if not self.config.fork:
            return
        found = fork.read(self.config)
        self.state.restore(found)
        if self.keeps_queue():
            self.queue.restore(found.rollouts, found.counters["queue"])

    def keeps_queue(self) -> bool:
        """Whether a fork takes its parent's queue along; where the clock decides, what is missing is sampled later."""
        policy = self.queue.policy
        return fork.keeps_queue(self.config, 0 if policy.free_running else policy.lag_steps)

    def outcome(self) -> str:
        """One line about how it ended."""
        return f"validation best {self.recorder.best.accuracy:.3f} at {self.recorder.best.update}"

    def close(self) -> None:
        """Stops generation."""
        self.generation.close()
