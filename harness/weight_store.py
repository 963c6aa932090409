"""Published weights by version, at most `max_versions` alive."""

from __future__ import annotations

import threading
from typing import Protocol

from harness.rollout.interface import StateDict


class WeightStore(Protocol):
    def publish(self, version: int, weights: StateDict) -> None:
        """Makes a version available as the newest one; may wait until an older one is released."""
        ...

    def get(self, version: int) -> StateDict: ...

    def acquire(self, version: int | None) -> int:
        """Keeps a version alive for one reader (None: the newest) and says which it is."""
        ...

    def release(self, version: int) -> None: ...


class LiveStore:
    """The learner's own tensors: one version, the newest (core=serial, where nobody reads while it learns)."""

    def __init__(self) -> None:
        self._version = -1
        self._weights: StateDict = {}

    def publish(self, version: int, weights: StateDict) -> None:
        self._version, self._weights = version, weights

    def get(self, version: int) -> StateDict:
        if version != self._version:
            raise KeyError(f"version {version} is gone; only {self._version}, the newest, is kept")
        return self._weights

    def acquire(self, version: int | None) -> int:
        wanted = self._version if version is None else version
        self.get(wanted)
        return wanted

    def release(self, version: int) -> None:
        """One version, never counted."""


class SnapshotStore:
    """Copies, counted by reader. `publish` waits while `max_versions` are alive; `stop` wakes it up."""

    def __init__(self, max_versions: int) -> None:
        self._max_versions = max_versions
        self._snapshots: dict[int, StateDict] = {}
        self._readers: dict[int, int] = {}
        self._newest = -1
        self._changed = threading.Condition()
        self._stopped = False
        self.most_alive = 0

    def publish(self, version: int, weights: StateDict) -> None:
        with self._changed:
            # The newest without readers gives way to the one that replaces it, so only others count.
            self._changed.wait_for(lambda: self._stopped or self._alive_after_publish() <= self._max_versions)
            if self._stopped:
                raise RuntimeError("the weight store is closed")
            self._snapshots[version] = {name: tensor.detach().clone() for name, tensor in weights.items()}
            self._readers.setdefault(version, 0)
            self._newest = version
            self._forget()
            self.most_alive = max(self.most_alive, len(self._snapshots))

    def get(self, version: int) -> StateDict:
        with self._changed:
            return self._snapshots[version]

    def acquire(self, version: int | None) -> int:
        with self._changed:
            wanted = self._newest if version is None else version
            if wanted not in self._snapshots:
                raise KeyError(f"version {wanted} is not alive; alive: {sorted(self._snapshots)}")
            self._readers[wanted] += 1
            return wanted

    def release(self, version: int) -> None:
        with self._changed:
            self._readers[version] -= 1
            self._forget()
            self._changed.notify_all()

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _alive_after_publish(self) -> int:
        return 1 + sum(1 for readers in self._readers.values() if readers > 0)

    def _forget(self) -> None:
        for version in [v for v, readers in self._readers.items() if readers == 0 and v != self._newest]:
            del self._readers[version], self._snapshots[version]
