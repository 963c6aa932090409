"""The ranks of a learner as a process group: orders from rank 0, results to everybody, and who has died."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from harness import interrupts
from harness.config import Config
from harness.errors import RunFailed, UserError, first_line
from harness.interrupts import Interrupted, Paused
from harness.models.policy import Policy
from harness.ranks import launch, meeting, pulse
from harness.ranks.alone import Alone
from harness.ranks.sharding import cut
from harness.ranks.stepping import SlicedAdamW

T = TypeVar("T")

TIMEOUT = timedelta(minutes=30)  # of what all ranks do at once; the largest file may take as long to read
PATIENCE = timedelta(days=365)  # for the next order: rank 0 may wait long for rollouts
RELEASE_S = 60.0  # in which the ranks come that a refused command lets go
FAREWELL_S = 5.0  # in which the living say that they are alive, once a rank has died


class Group(Alone):
    """This process among the ranks of a learner.

    place: its rank, and how many there are.
    address: of the store where they meet, file://PATH or tcp://HOST:PORT.
    device: "cpu", or an accelerator's type; rank 0 tells it the others.
    started: the other ranks' processes, where this one has started them.
    patience_s: for the others to come.
    Raises RunFailed where they do not meet, Interrupted where a stop is overdue.
    """

    adamw = SlicedAdamW

    def __init__(
        self,
        place: launch.Place,
        address: str,
        device: str = "",
        started: launch.Started | None = None,
        patience_s: float = meeting.TIMEOUT.total_seconds(),
    ) -> None:
        self.rank, self.world = place.rank, place.world
        self._started = started
        self._store = meeting.store(address, place)
        self._store.set(f"here/{self.rank}", "")
        self._wait_for_all(patience_s)
        if self.rank == 0:
            self._store.set("device", device)
        self._open(self._store.get("device").decode(), place.local)
        self._watch = self._life_watched(meeting.store(address, place, joins=True))
        self._obedient = True
        self._models: list[torch.nn.Module] = []
        self._sums: list[Any] = []

    def _open(self, device: str, local: int) -> None:
        if device != "cpu":
            torch.get_device_module(device).set_device(local)
        backend = "gloo" if device == "cpu" else f"cpu:gloo,{device}:{dist.get_default_backend_for_device(device)}"
        store = dist.PrefixStore("group", self._store)
        dist.init_process_group(backend, store=store, rank=self.rank, world_size=self.world, timeout=TIMEOUT)
        self._orders = dist.new_group(backend="gloo", timeout=PATIENCE)
        self._mesh = init_device_mesh(device, (self.world,))

    def _life_watched(self, store: dist.Store) -> pulse.Watch | None:
        """Gives signs of life, or watches those of the others."""
        if self.rank > 0:
            pulse.beat(store, self.rank)
            return None
        return pulse.Watch(store, self.world, lambda rank: self._started is not None and self._started.kill(rank))

    # Sharding ----------------------------------------------------------------------------------------

    def shard(self, policy: Policy, add: str) -> None:
        self._sums += cut(policy, self._mesh, add)
        self._models.append(policy.model)

    def whole(self, tensor: Tensor) -> Tensor:
        return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

    def deal(self, items: Sequence[T], idle: T) -> Iterator[T]:
        for first in range(0, len(items), self.world):
            own = first + self.rank
            yield items[own] if own < len(items) else idle

    def accumulate(self, items: Sequence[T], idle: T) -> Iterator[T]:
        for one in self._sums:
            one.start(len(items))
        for item in self.deal(items, idle):
            for model in self._models if self._sums[0].keeps_the_sum else ():
                model.zero_grad(set_to_none=True)
            yield item

    # Talking -----------------------------------------------------------------------------------------

    def gather(self, own: Sequence[tuple[Tensor, ...]], count: int) -> list[tuple[Tensor, ...]]:
        device = own[0][0].device
        results = self.together([tuple(tensor.cpu() for tensor in one) for one in own])
        in_order = [results[i % self.world][i // self.world] for i in range(count)]
        return [tuple(tensor.to(device) for tensor in one) for one in in_order]

    def together(self, own: Any) -> list[Any]:
        boxes: list[Any] = [None] * self.world
        dist.all_gather_object(boxes, own)
        return boxes

    def order(self, name: str, *arguments: Any) -> None:
        if self.rank == 0:
            dist.broadcast_object_list([(name, arguments)], src=0, group=self._orders)

    def next_order(self) -> tuple[str, tuple[Any, ...]]:
        """What rank 0 orders next, and its arguments."""
        box: list[Any] = [None]
        dist.broadcast_object_list(box, src=0, group=self._orders)
        name, arguments = box[0]
        return name, arguments

    def obey(self, actions: Mapping[str, Callable[..., Any]]) -> None:
        """Does what rank 0 orders, by name, until it orders the end."""
        while (order := self.next_order())[0] != "end":
            actions[order[0]](*order[1])

    # Life and death ----------------------------------------------------------------------------------

    @contextmanager
    def watched(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self._stop_watching()
            # What stops a run stops it between two orders; anything else may leave the others in the middle of one.
            self._obedient = isinstance(error, Interrupted | Paused)
            if not _is_loss(error):
                raise
            self._leave()  # so that the others notice, and say that they live
            reasons = self._reasons()
            failed = [f"rank {rank} failed ({reason})" for rank, reason in reasons.items() if reason]
            if failed:
                raise RunFailed(failed[0]) from error
            dead = [self._death(rank) for rank in range(1, self.world) if rank not in reasons]
            raise Interrupted(", ".join(dead) or f"a lost connection of the ranks ({first_line(error)})") from error

    @contextmanager
    def reported(self) -> Iterator[None]:
        """In a rank beside the first: leaves word for rank 0 of what ended it."""
        try:
            yield
        except BaseException as error:
            reason = "" if _is_loss(error) else f"{type(error).__name__}: {first_line(error)}"
            with suppress(RuntimeError):  # rank 0 may have taken the store with it
                self._store.set(f"end/{self.rank}", reason)
            raise

    def _reasons(self) -> dict[int, str]:
        """Why each other rank has ended: "" for one that has only lost the others; nothing of a killed one."""
        deadline = time.monotonic() + FAREWELL_S
        reasons: dict[int, str] = {}
        while time.monotonic() < deadline and len(reasons) + self._killed() < self.world - 1:
            time.sleep(0.1)
            for rank in range(1, self.world):
                if self._store.check([f"end/{rank}"]):
                    reasons[rank] = self._store.get(f"end/{rank}").decode()
        return reasons

    def _killed(self) -> int:
        """How many of the ranks that this one started were ended by a signal."""
        return sum((self._exit_code(rank) or 0) < 0 for rank in range(1, self.world))

    def _exit_code(self, rank: int) -> int | None:
        return None if self._started is None else self._started.exit_code(rank)

    def _death(self, rank: int) -> str:
        code = self._exit_code(rank)
        return f"the death of rank {rank}" + ("" if code is None else f" (exit {code})")

    def _wait_for_all(self, patience_s: float) -> None:
        """Until every rank is here. Raises Interrupted where a stop is overdue, RunFailed for one that is missing."""
        deadline = time.monotonic() + patience_s
        while missing := [rank for rank in range(self.world) if not self._store.check([f"here/{rank}"])]:
            interrupts.give_up_if_overdue()
            if time.monotonic() > deadline or any(self._exit_code(rank) is not None for rank in missing if rank):
                raise RunFailed(f"rank {missing[0]} has not started; what it said stands above")
            time.sleep(0.05)

    def close(self) -> None:
        self._stop_watching()
        if self._started is not None:
            self._started.stop()
        elif self._obedient:
            self.order("end")
        self._leave()

    def _stop_watching(self) -> None:
        if self._watch is not None:
            self._watch.stop()

    def _leave(self) -> None:
        if dist.is_initialized():
            dist.destroy_process_group()


def _is_loss(error: BaseException) -> bool:
    """Whether an error says that another rank is gone."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def check(config: Config) -> None:
    """Raises UserError for a number of ranks that cannot run here, or not with this config."""
    if config.ranks == 1 or config.mode == "evaluate":
        return
    if config.driver == "serial":
        raise UserError(
            f"ranks={config.ranks} with driver=serial: it samples with the learner's own weights, of which each rank "
            "has a slice; use driver=overlapped, which gives the same bits"
        )
    if config.ranks_in_cluster and launch.launched() is not None:
        raise UserError("ray.ranks=cluster: torchrun or srun has started the ranks; start run.py alone")
    kind, _, number = config.device.partition(":")
    if number:
        raise UserError(
            f"device={config.device} with ranks={config.ranks}: every rank takes a device of its own; expected "
            f"device={kind}, with CUDA_VISIBLE_DEVICES in the environment for other than the first"
        )
    if kind != "cpu" and not config.dry_run:
        _check_devices(config, kind)


def _check_devices(config: Config, kind: str) -> None:
    """Every rank has a device of its machine, and Ray keeps its actors off those of one machine only."""
    here = 1 if config.ranks_in_cluster else launch.on_this_machine(config.ranks)
    devices = torch.get_device_module(kind).device_count()
    if devices < here:
        raise UserError(
            f"ranks={config.ranks}: this machine has {devices} of device={kind} for {here} ranks; expected one a rank"
        )
    if config.driver == "ray" and here < config.ranks and not config.ranks_in_cluster:
        raise UserError(
            f"ranks={config.ranks} on several machines with driver=ray: only the GPUs of this one, {here}, could be "
            "kept from the actors; let Ray place them (ray.ranks=cluster, without torchrun or srun)"
        )


def lead(world: int, device: str, started: launch.Started | None = None) -> Group:
    """Makes this process rank 0; starts the others on this machine, unless somebody has started them.

    world: number of ranks.
    device: as the configuration names it.
    started: the others, where they are on other machines.
    Raises RunFailed for a rank that does not start.
    """
    place, kind = launch.launched(), torch.device(device).type
    if place is not None:
        made = Group(place, launch.meeting(), kind)
        launch.forget()
        return made
    started = started or launch.Followers(world)
    try:
        return Group(launch.Place(0, world, 0), started.meeting, kind, started)
    except BaseException:
        started.stop()
        raise


def join(place: launch.Place) -> Group:
    """Makes this process one of the ranks beside the first. Raises RunFailed, UserError where they cannot meet."""
    return Group(place, launch.meeting())


def release() -> None:
    """Lets the ranks go that torchrun or srun has started, of a command that has no work for them."""
    place = launch.launched()
    assert place is not None
    with suppress(RunFailed, UserError):  # nobody waits for ever for those that cannot be met
        Group(place, launch.meeting(), "cpu", patience_s=RELEASE_S).close()
