"""Grading in processes of our own, with a wall-clock limit per answer: never a hang, never a crash of the run.

Jobs go to the workers in small chunks and come back one by one. A worker that takes longer than the limit over
one answer is killed, that answer fails, the rest of its chunk goes back to the queue and a new worker takes over.
"""

from __future__ import annotations

import atexit
import json
import os
import selectors
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from harness import PROJECT

CHUNK_JOBS = 64
CHUNK_BYTES = 32 * 1024  # below a pipe's buffer of 64 KiB: handing a chunk over never blocks behind a slow answer
START_LIMIT_S = 120.0


@dataclass(frozen=True)
class Job:
    """One answer to be graded.

    verifier: a name in VERIFIERS.
    arguments: its keyword arguments, JSON values only.
    """

    verifier: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """What a verifier found.

    score: from 0 to 1, of which 1 is correct.
    formatted: whether the answer stood where the prompt asks for it.
    failure: "", "timeout", "crash" or the name of the verifier's exception.
    """

    score: float = 0.0
    formatted: bool = False
    failure: str = ""


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    pending: deque[tuple[int, bytes]] = field(default_factory=deque)  # handed over, not answered; oldest first
    unread: bytes = b""
    ready: bool = False
    since: float = field(default_factory=time.monotonic)


class Pool:
    """Grading processes, started when first needed.

    workers: how many there may be.
    limit_s: seconds of wall clock an answer.
    """

    def __init__(self, workers: int, limit_s: float) -> None:
        self._count = workers
        self._limit = limit_s
        self._workers: list[_Worker] = []
        self._preload: set[str] = set()
        atexit.register(self.close)

    def run(self, jobs: Sequence[Job]) -> list[Outcome]:
        """Grades answers.

        jobs: the answers.
        Returns an outcome a job, in order.
        Raises RuntimeError if a worker cannot be started.
        """
        self._preload |= {job.verifier.split("_parses")[0] for job in jobs}
        queue = deque(
            (i, json.dumps({"verifier": job.verifier, "arguments": job.arguments}).encode() + b"\n")
            for i, job in enumerate(jobs)
        )
        done: dict[int, Outcome] = {}
        while len(done) < len(jobs):
            self._start_workers(len(queue))
            for worker in self._workers:
                if worker.ready and not worker.pending and queue:
                    self._send(worker, queue)
            for worker in self._readable():
                self._read(worker, done)
            for worker in list(self._workers):
                self._end_if_failed(worker, queue, done)
        return [done[i] for i in range(len(jobs))]

    def close(self) -> None:
        """Ends every worker."""
        while self._workers:
            self._end(self._workers[0])

    def _start_workers(self, waiting: int) -> None:
        count = min(self._count, max(1, -(-waiting // 8)))  # a second process is not worth eight easy answers
        while len(self._workers) < count:
            command = [sys.executable, "-m", "harness.rewards.worker", str(self._limit), *sorted(self._preload)]
            environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": _python_path()}
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
                cwd=PROJECT,
            )
            assert process.stdout is not None
            os.set_blocking(process.stdout.fileno(), False)
            self._workers.append(_Worker(process))

    def _send(self, worker: _Worker, queue: deque[tuple[int, bytes]]) -> None:
        size = 0
        while queue and len(worker.pending) < CHUNK_JOBS and (size + len(queue[0][1]) <= CHUNK_BYTES or not size):
            worker.pending.append(queue.popleft())
            size += len(worker.pending[-1][1])
        worker.since = time.monotonic()
        assert worker.process.stdin is not None
        try:
            worker.process.stdin.write(b"".join(line for _, line in worker.pending))
            worker.process.stdin.flush()
        except BrokenPipeError:
            return  # _end_if_failed sees that it is dead

    def _readable(self) -> list[_Worker]:
        """Workers with something to read, after at most a twentieth of a second."""
        with selectors.DefaultSelector() as selector:
            for worker in self._workers:
                assert worker.process.stdout is not None
                selector.register(worker.process.stdout, selectors.EVENT_READ, worker)
            return [key.data for key, _ in selector.select(timeout=0.05)]

    def _read(self, worker: _Worker, done: dict[int, Outcome]) -> None:
        assert worker.process.stdout is not None
        *lines, worker.unread = (worker.unread + (worker.process.stdout.read() or b"")).split(b"\n")
        for line in lines:
            worker.since = time.monotonic()
            if not worker.ready:
                worker.ready = True
                continue
            index, _ = worker.pending.popleft()
            done[index] = Outcome(**json.loads(line))

    def _end_if_failed(self, worker: _Worker, queue: deque[tuple[int, bytes]], done: dict[int, Outcome]) -> None:
        """Ends a worker that died or is over the limit: its current answer has failed, the others are queued again."""
        dead = worker.process.poll() is not None
        limit = self._limit if worker.ready else START_LIMIT_S
        late = time.monotonic() - worker.since > limit and (bool(worker.pending) or not worker.ready)
        if not dead and not late:
            return
        if not worker.ready:
            self._end(worker)
            raise RuntimeError("a grading worker did not start: python -m harness.rewards.worker 1 says why")
        if dead:
            self._read(worker, done)  # what it answered before it died
        self._end(worker)
        if worker.pending:
            index, _ = worker.pending.popleft()
            done[index] = Outcome(failure="crash" if dead else "timeout")
            queue.extendleft(reversed(worker.pending))

    def _end(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        worker.process.kill()
        worker.process.wait()
        for stream in (worker.process.stdin, worker.process.stdout):
            assert stream is not None
            try:
                stream.close()
            except BrokenPipeError:
                continue  # bytes it will never read


def _python_path() -> str:
    return os.pathsep.join([str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])])


@lru_cache
def shared_pool(workers: int, limit_s: float) -> Pool:
    """The pool of this process that tasks with the same settings share.

    workers: grading processes.
    limit_s: seconds of wall clock an answer.
    """
    return Pool(workers, limit_s)
