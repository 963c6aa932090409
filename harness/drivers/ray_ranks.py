"""ray.ranks=cluster: the learner's ranks beside the first as tasks of Ray, each with a GPU that Ray keeps for it."""

from __future__ import annotations

import os
import socket
from typing import Any

import torch

from harness.config import Config
from harness.drivers import ray_cluster, ray_room
from harness.ranks import launch

KILLED = -9  # the exit code of a rank whose task or node is gone


class TaskFollowers:
    """The ranks 1 … world − 1, anywhere in the cluster that a run joins: what launch.Followers is on one machine.

    config: of the run; this process is rank 0.
    Raises RunFailed where this machine's GPU for rank 0 is not free.
    """

    def __init__(self, config: Config) -> None:
        self._leave = ray_cluster.connect(config.ray, 0, 0, config.allow_code)
        try:
            ray_room.reserve(ray_room.learner_gpus(config))  # first, so that no other rank is given it
            self._tasks = self._started(config)
        except BaseException:
            self._leave()
            raise

    def _started(self, config: Config) -> list[Any]:
        ray = ray_cluster.import_ray()
        self.meeting = f"tcp://{ray.util.get_node_ip_address()}:{_free_port()}"
        gpus = int(torch.device(config.device).type == "cuda")
        task = ray.remote(num_cpus=config.torch_threads, num_gpus=gpus, max_retries=0)(_follow)
        return [task.remote(rank, config.ranks, self.meeting, os.getcwd()) for rank in range(1, config.ranks)]

    def exit_code(self, rank: int) -> int | None:
        """Of a rank's process; None while it lives, or waits for its place."""
        ray, task = ray_cluster.import_ray(), self._tasks[rank - 1]
        if not ray.wait([task], timeout=0)[0]:
            return None
        try:
            return int(ray.get(task))
        except ray.exceptions.RayError:
            return KILLED

    def kill(self, rank: int) -> bool:
        """Kills one, if its node is there."""
        ray_cluster.import_ray().cancel(self._tasks[rank - 1], force=True)
        return False

    def stop(self) -> None:
        """Kills them: nothing is lost, for what a rank holds is in the checkpoints."""
        for rank in range(1, len(self._tasks) + 1):
            self.kill(rank)
        self._leave()


def _follow(rank: int, world: int, meeting: str, folder: str) -> int:
    """In a task: a rank as a process, which ends with the task's. Returns its exit code."""
    os.chdir(folder)
    return launch.start(rank, world, 0, meeting).wait()


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("", 0))
        return int(one.getsockname()[1])
