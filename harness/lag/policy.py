"""How stale a rollout may be: exactly so many updates (the controlled experiment) or at most so many.

Batch i (from 0) is trained on by updates U·i … U·i + U − 1, U = updates_per_step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


class StalenessPolicy(Protocol):
    def version_for(self, batch: int) -> int | None:
        """The version that must sample the batch; None: whichever is newest when its generation starts."""
        ...

    def accept(self, batch: int, version: int) -> bool:
        """Whether a sample of `version` may be part of the batch-th batch to be trained on."""
        ...


@dataclass(frozen=True)
class ExactLag:
    """The delay line of the M2PO paper: batch i is sampled by version U·max(0, i − S), S = staleness / U.

    Its tokens are then min(U·i, staleness) … + U − 1 updates stale. For S ≥ 1 that version exists before the
    batch is needed, so generation may overlap training and lose not one bit.
    """

    staleness: int
    updates_per_step: int
    max_versions: int = 2

    def version_for(self, batch: int) -> int:
        return self.updates_per_step * max(0, batch - self.staleness // self.updates_per_step)

    def accept(self, batch: int, version: int) -> bool:
        return version == self.version_for(batch)


@dataclass(frozen=True)
class BoundedLag:
    """No token is trained on more than `staleness` updates after the version that sampled it.

    The last update of batch i is U·i + U − 1, so its samples need version ≥ U·(i + 1) − 1 − staleness. Asked
    of the newest version before generation starts (versions only grow from there) this is admission; asked
    again at consumption it is the check of what really happened.
    """

    staleness: int
    updates_per_step: int
    on_excess: str = "wait"
    max_versions: int = 2

    def version_for(self, batch: int) -> None:
        return None

    def accept(self, batch: int, version: int) -> bool:
        return version >= self.updates_per_step * (batch + 1) - 1 - self.staleness
