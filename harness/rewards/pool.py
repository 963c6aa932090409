"""Grading in confined processes of our own, with a limit per answer: never a hang, never a crash of the run.

Jobs go to the workers in small chunks and come back one by one. A worker that dies, takes too much CPU time over one
answer or writes what is no reply is ended; the rest of its chunk goes back to the queue, and a fresh worker is asked
that one answer once more. Only then has it failed: somebody else's kill does not make a right answer a wrong one.
"""

from __future__ import annotations

import atexit
import selectors
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

from harness.rewards import sandbox
from harness.rewards.process import OWN, GradingProcess, Item, Job, Outcome, item

CHUNK_JOBS = 64
CHUNK_BYTES = 32 * 1024  # below a pipe's buffer of 64 KiB
START_ATTEMPTS = 3


class Pool:
    """Grading processes, started when first needed.

    workers: how many there may be.
    limit_s: seconds of CPU time an answer.
    """

    def __init__(self, workers: int, limit_s: float) -> None:
        self._count = workers
        self._limit = limit_s
        self._workers: list[GradingProcess] = []
        self._preload: set[str] = set()
        self._failed_starts = 0
        atexit.register(self.close)

    def run(self, jobs: Sequence[Job]) -> list[Outcome]:
        """Grades answers.

        jobs: the answers.
        Returns an outcome a job, in order.
        Raises RuntimeError if a worker cannot be started.
        """
        self._preload |= {preloaded(job) for job in jobs}
        queue = deque(item(index, job) for index, job in enumerate(jobs))
        done: dict[int, Outcome] = {}
        while len(done) < len(jobs):
            for worker in list(self._workers):
                self._replace_if_failed(worker, queue, done)
            self._start_workers(len(queue))
            for worker in self._workers:
                if worker.ready and not worker.pending and (chunk := _chunk(worker, queue)):
                    worker.send(chunk)
            for worker in self._waiting():
                done.update(worker.exchange())
        return [done[i] for i in range(len(jobs))]

    def close(self) -> None:
        """Ends every worker."""
        while self._workers:
            self._workers.pop().end()

    def _start_workers(self, waiting: int) -> None:
        count = min(self._count, max(1, -(-waiting // 8)))  # a second process is not worth eight easy answers
        while len(self._workers) < count:
            self._workers.append(GradingProcess(self._limit, self._preload))

    def _waiting(self) -> list[GradingProcess]:
        """Workers with something to read or to write, after at most a twentieth of a second."""
        with selectors.DefaultSelector() as selector:
            for worker in self._workers:
                worker.register(selector)
            return [key.data for key, _ in selector.select(timeout=0.05)]

    def _replace_if_failed(self, worker: GradingProcess, queue: deque[Item], done: dict[int, Outcome]) -> None:
        """Ends a worker that failed. The answer it was at is asked once more, the others are queued again."""
        failure = worker.failure()
        if not failure:
            return
        done.update(worker.exchange())  # what it answered before
        worker.end()
        self._workers.remove(worker)
        self._count_starts(worker.ready)
        again = worker.first  # not asked yet: it died while it started
        if worker.pending:
            failed = worker.pending.popleft()
            queue.extendleft(reversed(worker.pending))
            if failed.is_retry:
                done[failed.index] = Outcome(failure=failure)
                return
            again = replace(failed, is_retry=True)
        if again is not None:
            self._workers.append(GradingProcess(self._limit, self._preload, again))

    def _count_starts(self, started: bool) -> None:
        self._failed_starts = 0 if started else self._failed_starts + 1
        if self._failed_starts == START_ATTEMPTS:
            self._failed_starts = 0
            raise RuntimeError("no grading worker starts: python -m harness.rewards.worker 1 says why")


def preloaded(job: Job) -> str:
    """What a worker imports before the clock of its first answer starts."""
    return f"{OWN}:{job.arguments['function']}" if job.verifier == OWN else job.verifier.split("_parses")[0]


def _chunk(worker: GradingProcess, queue: deque[Item]) -> list[Item]:
    """What an idle worker is asked next: its answer from another worker's failure, else a few from the queue."""
    if worker.first is not None:
        again, worker.first = worker.first, None
        return [again]
    chunk: list[Item] = []
    size = 0
    while queue and len(chunk) < CHUNK_JOBS and (size + len(queue[0].line) <= CHUNK_BYTES or not chunk):
        chunk.append(queue.popleft())
        size += len(chunk[-1].line)
    return chunk


@lru_cache
def _shared(workers: int, limit_s: float, confined: bool) -> Pool:
    return Pool(workers, limit_s)


def shared_pool(workers: int, limit_s: float) -> Pool:
    """The pool of this process that tasks with the same settings share.

    workers: grading processes.
    limit_s: seconds of CPU time an answer.
    """
    return _shared(workers, limit_s, sandbox.is_on())
