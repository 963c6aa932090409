"""Contenders in turn: child processes that do one rollout batch each time they are told to.

Two programs timed one after the other compare two moments of the machine. Here each child waits for a line
before every batch, so the rounds alternate and a slow minute hits both.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


class Pace:
    """The child's side: `wait` reports the round just done and blocks until the next is asked for."""

    def __enter__(self) -> Pace:
        # Whatever else the program prints goes to stderr.
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self._started: tuple[float, float] | None = None
        return self

    def __exit__(self, *_: object) -> None:
        self._out.close()

    def wait(self, rewards: list[float]) -> None:
        self._report(rewards, done=False)
        if not sys.stdin.readline():
            os._exit(0)  # the parent has seen enough
        self._started = time.perf_counter(), time.process_time()

    def finish(self, rewards: list[float]) -> None:
        self._report(rewards, done=True)

    def _report(self, rewards: list[float], *, done: bool) -> None:
        wall, cpu = (None, None)
        if self._started is not None:
            wall, cpu = time.perf_counter() - self._started[0], time.process_time() - self._started[1]
        print(json.dumps({"wall": wall, "cpu": cpu, "rewards": rewards, "done": done}), file=self._out, flush=True)


class Contender:
    """The parent's side of one child."""

    def __init__(self, command: list[str], threads: int) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        self.wall: list[float] = []
        self.cpu: list[float] = []
        self.rewards: list[float] = []
        self._command = command
        self._child = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def ready(self) -> None:
        self._read()

    def round(self) -> None:
        assert self._child.stdin is not None
        self._child.stdin.write("\n")
        self._child.stdin.flush()
        answer = self._read()
        self.wall.append(answer["wall"])
        self.cpu.append(answer["cpu"])
        self.rewards = answer["rewards"]

    def stop(self) -> None:
        assert self._child.stdin is not None
        self._child.stdin.close()
        self._child.wait(timeout=60)

    def _read(self) -> dict[str, Any]:
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            raise RuntimeError(f"a contender died with exit status {self._child.wait()}: {' '.join(self._command)}")
        return dict(json.loads(line))
