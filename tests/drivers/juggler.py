"""An engine without a model that has several chunks under way; what it sampled are the versions that it had."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from harness.drivers.tickets import EngineLost
from harness.rollout.interface import to_rollouts
from harness.types import Request, Rollouts

DEADLINE_S = 60.0


def request(name: int, tokens: int = 1) -> Request:
    """A chunk of one response, which its key names. tokens: of it, so many polls it takes."""
    return Request([[1]], np.array([[name]], dtype=np.uint64), 1.0, tokens)


def until(happened: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.001)


class Juggler:
    """A poll is a token of every chunk; short chunks overtake long ones.

    log: what began, (name, version), and what was loaded, ("load", version).
    most: chunks that were under way at once.
    going: cleared, polls do nothing but ask for newer weights.
    losses: how often it is still lost as soon as it has as many chunks as it may.
    """

    def __init__(self, at_once: int = 2, losses: int = 0) -> None:
        self.at_once, self.losses = at_once, losses
        self.version, self.newer, self.seconds = -1, lambda: None, defaultdict(float)
        self.running: dict[int, tuple[Request, list[int]]] = {}
        self.log: list[tuple[Any, int]] = []
        self.most = 0
        self.closed = False
        self.going = threading.Event()
        self.going.set()

    def load(self, version: int, weights: Any) -> None:
        assert not self.running, "a version was loaded while chunks of another were running"
        assert int(weights["weight"]) == version
        self.version, self.newer = version, lambda: None
        self.log.append(("load", version))

    def submit(self, number: int, request: Request) -> None:
        self.running[number] = request, []
        self.log.append((int(request.keys[0, 0]), self.version))
        self.most = max(self.most, len(self.running))
        assert len(self.running) <= self.at_once

    def poll(self) -> dict[int, Rollouts]:
        assert self.running
        if self.losses and len(self.running) == self.at_once:
            self.losses -= 1
            self.running.clear()
            raise EngineLost("it went away")
        if self.going.is_set():
            for _, versions in self.running.values():
                versions.append(self.version)
        else:
            time.sleep(0.001)
        if (found := self.newer()) is not None:
            self.version = found[0]
        done = [n for n, (request, versions) in self.running.items() if len(versions) >= request.max_new_tokens]
        return {number: self._rollouts(*self.running.pop(number)) for number in done}

    def _rollouts(self, request: Request, versions: list[int]) -> Rollouts:
        count = len(versions)
        ids, logp = torch.zeros(count, dtype=torch.int32), torch.zeros(count)
        return to_rollouts(request, ids, torch.tensor([count]), logp, torch.tensor(versions), [0])

    def close(self) -> None:
        self.closed = True
        self.going.set()


def weights(version: int) -> dict[str, torch.Tensor]:
    return {"weight": torch.tensor(float(version))}
