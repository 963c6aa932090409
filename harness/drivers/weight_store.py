"""Published weights by version, at most `max_versions` alive."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from harness import interrupts
from harness.rollout.interface import StateDict


def copied(weights: StateDict) -> StateDict:
    """A snapshot that the learner's next update does not touch."""
    return {name: tensor.detach().clone() for name, tensor in weights.items()}


class SnapshotStore:
    """Snapshots for workers to load, counted by reader.

    max_versions: alive at once, at most.
    snapshot: weights → what is kept and handed to the readers (a copy; a reference into Ray's object store).
    """

    def __init__(self, max_versions: int, snapshot: Callable[[StateDict], Any] = copied) -> None:
        self._max_versions = max_versions
        self._snapshot = snapshot
        self._snapshots: dict[int, Any] = {}
        self._readers: dict[int, int] = {}
        self._changed = threading.Condition()
        self._stopped = False
        self.newest = -1
        self.most_alive = 0

    def publish(self, version: int, weights: StateDict) -> None:
        """Makes a version the newest one; waits while too many are alive.

        Raises Interrupted when a stop was asked for and no room comes, and RuntimeError when the store is closed.
        """
        with self._changed:
            # The newest without readers gives way to the one that replaces it, so only others count.
            while not self._changed.wait_for(self._has_room, timeout=0.1):
                interrupts.give_up_if_overdue()
            if self._stopped:
                raise RuntimeError("the weight store is closed")
            self._readers.setdefault(version, 0)
            self.newest = version
            self._forget()  # before the copy is made: never more than max_versions, not even for a moment
            self._snapshots[version] = self._snapshot(weights)
            self.most_alive = max(self.most_alive, len(self._snapshots))

    def get(self, version: int) -> Any:
        """What the engines load."""
        with self._changed:
            return self._snapshots[version]

    def acquire(self, version: int | None) -> int:
        """Keeps a version alive for one reader (None: the newest) and says which it is. Raises KeyError."""
        with self._changed:
            chosen = self.newest if version is None else version
            if chosen not in self._snapshots:
                raise KeyError(f"version {chosen} is not alive; alive: {sorted(self._snapshots)}")
            self._readers[chosen] += 1
            return chosen

    def release(self, version: int) -> None:
        with self._changed:
            self._readers[version] -= 1
            self._forget()
            self._changed.notify_all()

    def stop(self) -> None:
        """Every publish from now on fails, a waiting one too."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _has_room(self) -> bool:
        return self._stopped or sum(readers > 0 for readers in self._readers.values()) < self._max_versions

    def _forget(self) -> None:
        for version in [v for v, readers in self._readers.items() if readers == 0 and v != self.newest]:
            del self._readers[version]
            self._snapshots.pop(version, None)
