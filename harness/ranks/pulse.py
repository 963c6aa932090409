"""Signs of life of the ranks beside the first: one that is frozen, or whose machine is gone, closes no connection.

Rank 0 would wait for it as long as for the slowest file. A thread of each rank counts in the store where they met, and
a thread of rank 0 watches that they do.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import torch.distributed as dist

BEAT_S = 2.0  # between two signs of life
SILENT_S = 120.0  # a rank that gives none for so long is gone; to read a large tensor from a slow disk is silent too
FREE_S = 30.0  # in which rank 0 notices by itself


def beat(store: dist.Store, rank: int) -> None:
    """Gives signs of life of this process until it ends. store: of this thread alone."""

    def count() -> None:
        with suppress(RuntimeError):  # rank 0 has taken the store with it
            number = 0
            while True:
                number += 1
                store.set(f"pulse/{rank}", str(number))
                time.sleep(BEAT_S)

    threading.Thread(target=count, name="pulse", daemon=True).start()


class Watch:
    """Rank 0's thread, which ends the wait for a rank that gives no sign of life.

    store: of this thread alone.
    world: number of ranks.
    kill: kills a rank if this process can; returns whether that closes its connections, so that rank 0 gets an error.
    """

    def __init__(self, store: dist.Store, world: int, kill: Callable[[int], bool]) -> None:
        self._store, self._kill = store, kill
        self._last = dict.fromkeys(range(1, world), (b"", time.monotonic()))
        self._over = threading.Event()
        threading.Thread(target=self._look, name="ranks", daemon=True).start()

    def stop(self) -> None:
        """Once nobody waits for the ranks any more."""
        self._over.set()

    def _look(self) -> None:
        with suppress(RuntimeError):  # torchrun has taken the store with it
            while not self._over.wait(BEAT_S):
                silent = [rank for rank in self._last if self._silence_s(rank) > SILENT_S]
                if silent:
                    self._end(silent[0])
                    return

    def _silence_s(self, rank: int) -> float:
        """Seconds since a rank's last sign of life."""
        before, since = self._last[rank]
        pulse = self._store.get(f"pulse/{rank}") if self._store.check([f"pulse/{rank}"]) else b""
        if pulse != before:
            self._last[rank] = pulse, time.monotonic()
            return 0.0
        return time.monotonic() - since

    def _end(self, rank: int) -> None:
        """Where nothing else helps this process ends as if it had crashed: what is lost is since the checkpoint."""
        print(f"\nrank {rank} has given no sign of life for {SILENT_S:.0f} s", file=sys.stderr, flush=True)
        if not self._kill(rank) and not self._over.wait(FREE_S):
            print(f"stopped by the silence of rank {rank}; the same command carries on", file=sys.stderr, flush=True)
            os._exit(1)
