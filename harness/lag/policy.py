"""How stale a rollout may be: a class named by `lag._target_`, ours (conf/lag) or one from outside (allow_code).

Batch i (from 0) is trained on by updates U·i … U·i + U − 1, U = updates_per_step.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Any, ClassVar

from harness.config import Config
from harness.errors import UserError
from harness.lag.schedule import ScheduledChunk, check_schedule, read_schedule

ON_EXCESS = ("wait", "drop", "mask")
FIRST = {"finished": 0, "freshest": -1, "oldest": 1}  # how `lag.first` orders chunks that are done, by version


class Order(Enum):
    """What makes up a batch.

    SUBMITTED: the next chunks in the order of submission.
    FINISHED: the chunks that are done first.
    SCHEDULED: the chunks that a schedule names.
    MIXED: its own prompts, each sampled by a version of its own.
    CONTINUED: the next chunks, each begun by one version and carried on by a later one.
    """

    SUBMITTED = 1
    FINISHED = 2
    SCHEDULED = 3
    MIXED = 4
    CONTINUED = 5


@dataclass(frozen=True)
class StalenessPolicy(ABC):
    """Which versions may sample a batch. A policy adds its own parameters, the further keys of `lag`.

    staleness: updates, as the run is asked for.
    updates_per_step: U, updates a rollout batch.
    max_versions: snapshots of the weights alive at once, where generation works beside the learner.
    free_running: the clock decides which version samples a batch, so the run records a schedule of what happened.
    """

    staleness: int
    updates_per_step: int
    max_versions: int = 2

    free_running: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not isinstance(self.max_versions, int) or self.max_versions < 1:
            raise UserError(f"lag.max_versions={self.max_versions}: expected at least 1 (weight snapshots alive)")

    @abstractmethod
    def version_for(self, batch: int) -> int | None:
        """The version that must sample the batch; None: whichever is newest when its generation starts."""

    @abstractmethod
    def accept(self, batch: int, version: int) -> bool:
        """Whether a sample of `version` may be part of the batch-th batch to be trained on.

        Asked of the newest version before a chunk is submitted, and of the chunk's own when it is trained on.
        """

    @property
    def facts(self) -> dict[str, Any]:
        """What the manifest says of it beside the configuration."""
        return {}

    @property
    def lag_steps(self) -> int:
        """S, the largest staleness in rollout batches."""
        return self.staleness // self.updates_per_step

    def is_reached(self, batches: int) -> bool:
        """Whether a run of so many batches trains on samples as stale as it says; True where the clock decides."""
        version, begins = self.version_for(batches - 1), self.updates_per_step * (batches - 1)
        return version is None or begins - version >= self.staleness

    @property
    def order(self) -> Order:
        """What makes up a batch."""
        return Order.SUBMITTED

    def turn(self, version: int) -> int:
        """With Order.FINISHED, of chunks that are done those with the smallest number make up the next batch.

        version: that sampled a chunk. Where all numbers are the same the first ones done do.
        """
        return 0

    @property
    def masks_excess(self) -> bool:
        """With Order.FINISHED, a chunk that comes too late is kept in its batch and masked; False: it is dropped."""
        return False

    def check(self, config: Config) -> None:
        """Raises UserError for a run that this policy cannot serve."""
        name = config.choices["lag"]
        if self.free_running and config.driver == "serial":
            raise UserError(
                f"lag={name} with driver=serial: nothing runs free where generation waits for training; "
                "use driver=overlapped or driver=ray, or lag=exact"
            )
        if not self.free_running and config.rollout.inflight != "drain":
            raise UserError(
                f"rollout.inflight={config.rollout.inflight} with lag={name}: "
                "a version per batch is exact only with drain"
            )


@dataclass(frozen=True)
class ExactLag(StalenessPolicy):
    """The queue of the M2PO paper: batch i is sampled by version U·max(0, i − S), S = staleness / U.

    Its tokens are then min(U·i, staleness) … + U − 1 updates stale. For S ≥ 1 that version exists before the
    batch is needed, so generation may overlap training and lose not one bit.
    """

    def version_for(self, batch: int) -> int:
        return self.updates_per_step * max(0, batch - self.lag_steps)

    def accept(self, batch: int, version: int) -> bool:
        return version == self.version_for(batch)

    def check(self, config: Config) -> None:
        super().check(config)
        above = self.staleness % self.updates_per_step
        if above:
            raise UserError(
                f"staleness={self.staleness}: not divisible by updates_per_step={self.updates_per_step} "
                f"(a rollout batch is {self.updates_per_step} updates); nearest valid: "
                f"{self.staleness - above} or {self.staleness - above + self.updates_per_step}"
            )


@dataclass(frozen=True)
class BoundedLag(StalenessPolicy):
    """No token is trained on more than `staleness` updates after the version that sampled it.

    The last update of batch i is U·i + U − 1, so its samples need version ≥ U·(i + 1) − 1 − staleness. Asked
    of the newest version before generation starts (versions only grow from there) this is admission; asked
    again at consumption it is the check of what really happened.

    on_excess: wait for a straggler (then admission alone keeps the bound), or take the chunks that are done first
    and drop or mask one that comes too late.
    first: with on_excess=drop, which of the chunks that are done are trained on next: the first ones finished, those of
    the newest version, or those of the oldest. Freshest-first leaves old ones lying until they are over the bound.
    """

    on_excess: str = "wait"
    first: str = "finished"

    free_running = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.on_excess not in ON_EXCESS:
            raise UserError(f"lag.on_excess={self.on_excess}: expected one of {', '.join(ON_EXCESS)}")
        if self.first not in FIRST:
            raise UserError(f"lag.first={self.first}: expected one of {', '.join(FIRST)}")
        if self.first != "finished" and self.on_excess != "drop":
            raise UserError(
                f"lag.first={self.first} with lag.on_excess={self.on_excess}: "
                "what is left lying must be dropped in the end; add lag.on_excess=drop"
            )

    def version_for(self, batch: int) -> None:
        return None

    def accept(self, batch: int, version: int) -> bool:
        return version >= self.updates_per_step * (batch + 1) - 1 - self.staleness

    def turn(self, version: int) -> int:
        return FIRST[self.first] * version

    @property
    def order(self) -> Order:
        return Order.SUBMITTED if self.on_excess == "wait" else Order.FINISHED

    @property
    def masks_excess(self) -> bool:
        return self.on_excess == "mask"

    def check(self, config: Config) -> None:
        super().check(config)
        least = self.updates_per_step - 1
        if self.staleness < least:
            raise UserError(
                f"staleness={self.staleness} with lag={config.choices['lag']}: the last of {self.updates_per_step} "
                f"updates of a step is {least} updates stale by construction; expected at least that"
            )
        prompts, chunks = config.rollout.prompts_per_step, config.rollout.chunks
        if self.order is Order.FINISHED and prompts % chunks:
            raise UserError(
                f"lag.on_excess={self.on_excess}: a batch is any {chunks} chunks, so they must be of one size; "
                f"rollout.prompts_per_step={prompts} is not divisible by rollout.chunks={chunks}"
            )


@dataclass(frozen=True)
class Replay(StalenessPolicy):
    """What a free-running run did, once more and on any driver.

    schedule: path of the schedule.jsonl that the run wrote.
    """

    schedule: str | None = None

    def version_for(self, batch: int) -> None:
        """Each chunk of the batch has its own, which the schedule names."""
        return None

    def accept(self, batch: int, version: int) -> bool:
        return any(chunk.version == version for chunk in self.batches[batch])

    @property
    def facts(self) -> dict[str, Any]:
        """Of another system's schedule the mean age, for there `staleness` says nothing."""
        found = read_schedule(self._path)
        ages = [
            self.updates_per_step * batch - chunk.version
            for batch, chunks in enumerate(found.batches)
            for chunk in chunks
            if chunk.trained
        ]
        return {"age": sum(ages) / len(ages)} if found.imported and ages else {}

    @property
    def order(self) -> Order:
        return Order.SCHEDULED

    @cached_property
    def batches(self) -> list[list[ScheduledChunk]]:
        """The chunks of each batch."""
        return read_schedule(self._path).batches

    def check(self, config: Config) -> None:
        super().check(config)
        check_schedule(self._path, config)

    @property
    def _path(self) -> str:
        if not self.schedule:
            raise UserError("lag=replay: needs lag.schedule=PATH, the schedule.jsonl that a bounded run wrote")
        return self.schedule
