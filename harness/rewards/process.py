"""One grading process as its parent sees it: jobs out, replies in, and whether it can still be trusted."""

from __future__ import annotations

import json
import math
import os
import secrets
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from harness.rewards import sandbox

START_LIMIT_S = 120.0
WALL_CLOCKS = 12  # of the CPU time an answer may take: a worker that is suspended or starved is not hanging
LEAST_WALL_S = 60.0
LONGEST_REPLY = 64 * 1024  # bytes
OWN = "own"  # the verifier that calls a user's own function


@dataclass(frozen=True)
class Job:
    """One answer to be graded.

    verifier: a name in VERIFIERS, "readings", or OWN.
    arguments: its keyword arguments, JSON values only.
    """

    verifier: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """What a verifier found.

    score: from 0 to 1, of which 1 is correct; any number of a reward of the user's own.
    formatted: whether the answer stood where the prompt asks for it.
    failure: "", "timeout", "crash" or the name of the verifier's exception.
    details: what else was found, numbers and texts by name.
    """

    score: float = 0.0
    formatted: bool = False
    failure: str = ""
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Item:
    """A job on its way.

    index: its place among the jobs of a call.
    nonce: a secret that its reply must repeat.
    line: the job as it is sent.
    is_retry: whether another worker has failed over it.
    is_bounded: whether its score must lie between 0 and 1.
    """

    index: int
    nonce: str
    line: bytes
    is_retry: bool = False
    is_bounded: bool = True


def item(index: int, job: Job) -> Item:
    """The job at this place, ready to be sent."""
    nonce = secrets.token_hex(8)
    sent = {"index": index, "nonce": nonce, "verifier": job.verifier, "arguments": job.arguments}
    return Item(index, nonce, json.dumps(sent, default=str).encode() + b"\n", is_bounded=job.verifier != OWN)


class GradingProcess:
    """A worker that has been started; nothing here waits for it.

    limit_s: seconds of CPU time an answer.
    preload: verifiers that are imported before the first answer.
    first: a job that it is asked before all others.
    """

    def __init__(self, limit_s: float, preload: Iterable[str], first: Item | None = None) -> None:
        command = [sys.executable, "-m", "harness.rewards.worker", str(limit_s), *sorted(preload)]
        self.first = first
        self.pending: deque[Item] = deque()  # handed over, not answered; oldest first
        self.ready = False
        self._start(command)
        self._wall_s = max(LEAST_WALL_S, WALL_CLOCKS * limit_s)

    def _start(self, command: Sequence[str]) -> None:
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=sandbox.environment(),
            cwd=sandbox.PROJECT,
            bufsize=0,
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self._input, self._output = self.process.stdin, self.process.stdout
        for stream in (self._input, self._output):
            os.set_blocking(stream.fileno(), False)
        self._unsent = self._unread = b""
        self._odd = False
        self._since = time.monotonic()

    def send(self, items: Iterable[Item]) -> None:
        """Hands jobs over; what the pipe does not take at once goes out in `exchange`."""
        self.pending.extend(items)
        self._since = time.monotonic()
        self._unsent = b"".join(sent.line for sent in self.pending)
        self._write()

    def register(self, selector: selectors.BaseSelector) -> None:
        """Has the selector wait until there is something to `exchange`."""
        selector.register(self._output, selectors.EVENT_READ, self)
        if self._unsent:
            selector.register(self._input, selectors.EVENT_WRITE, self)

    def exchange(self) -> Iterator[tuple[int, Outcome]]:
        """Writes and reads what the pipes take and hold. Yields (index, outcome) of every answer that came back."""
        self._write()
        *lines, self._unread = (self._unread + self._read()).split(b"\n")
        for line in lines:
            self._since = time.monotonic()
            if not self.ready:
                self.ready, self._odd = True, line != b"{}"
            elif not self._odd and (outcome := self._outcome(line)):
                yield self.pending.popleft().index, outcome
        self._odd |= len(self._unread) > LONGEST_REPLY

    def failure(self) -> str:
        """Why this process is of no more use: "crash" or "timeout"; "" while it is."""
        code = self.process.poll()
        if code is not None:
            return "timeout" if code == -signal.SIGPROF else "crash"
        if self._odd:
            return "crash"
        late = time.monotonic() - self._since > (self._wall_s if self.ready else START_LIMIT_S)
        return "timeout" if late and (self.pending or not self.ready) else ""

    def end(self) -> None:
        """Ends the process."""
        self.process.kill()
        self.process.wait()
        self._input.close()
        self._output.close()

    def _write(self) -> None:
        with suppress(BlockingIOError, BrokenPipeError):  # a full pipe; a dead process, which `failure` sees
            while self._unsent:
                self._unsent = self._unsent[os.write(self._input.fileno(), self._unsent) :]

    def _read(self) -> bytes:
        found = b""
        with suppress(BlockingIOError):
            while len(found) <= 16 * LONGEST_REPLY and (more := os.read(self._output.fileno(), LONGEST_REPLY)):
                found += more
        return found

    def _outcome(self, line: bytes) -> Outcome | None:
        """What a reply says; None for a line that no honest worker writes, after which nothing it says counts."""
        outcome = parsed(line, self.pending[0]) if self.pending else None
        self._odd = outcome is None
        return outcome


def parsed(line: bytes, asked: Item) -> Outcome | None:
    """The outcome in a reply, None unless the reply is one to this job and well formed in every field."""
    try:
        reply = json.loads(line)
        if (reply.pop("index"), reply.pop("nonce")) != (asked.index, asked.nonce):
            return None
        outcome = Outcome(**reply)
        in_range = 0 <= outcome.score <= 1 if asked.is_bounded else math.isfinite(outcome.score)
        honest = in_range and outcome.formatted in (True, False) and _plain(outcome.details)
        return outcome if honest and (not outcome.failure or outcome.failure.isidentifier()) else None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _plain(details: dict[str, Any]) -> bool:
    """Whether details are finite numbers and texts by name."""
    return all(isinstance(v, str) or math.isfinite(v) for v in details.values())
