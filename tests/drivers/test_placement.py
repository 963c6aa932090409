"""Ranks, actors, engines of several GPUs: what cannot be placed as asked is refused in one line."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from harness.command import dry_run, slurm
from harness.command.plan import plan
from harness.config import Config
from harness.drivers import ray_room
from harness.errors import UserError
from harness.groups import RayConfig
from harness.ranks import group, launch

CUDA = ("device=cuda", "tracking=none", "dry_run=true")
RAY = (*CUDA, "driver=ray", "ray.actors=2")
SEVEN = (*CUDA, "experiment=qwen_7b")  # 28 heads
TWO_WAYS = "rollout.vllm.tensor_parallel_size=2"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (RAY, "ray.gpus_per_actor=0 with device=cuda: the actors would sample on the learner's GPU"),
        ((*RAY, "ray.gpus_per_actor=1.5"), "ray.gpus_per_actor=1.5: expected a whole number"),
        ((*RAY, "device=cuda:1", "ray.gpus_per_actor=1"), "CUDA_VISIBLE_DEVICES=1"),
        ((*SEVEN, TWO_WAYS), "expected ray.gpus_per_actor=2"),
        ((*SEVEN, "ray.gpus_per_actor=0.3"), "3 engines share a GPU .* expected at most 0.33"),
        (
            (*SEVEN, "rollout.vllm.tensor_parallel_size=8", "ray.gpus_per_actor=8"),
            r"28 heads.* a divisor \(1, 2, 4, 7\)",
        ),
        ((*SEVEN, "driver=overlapped", "ranks=2"), "vLLM would wait for the other ranks .*driver=ray"),
        ((*CUDA, "driver=overlapped", "ranks=2", "device=cuda:1"), "every rank takes a device of its own"),
    ],
)
def test_what_cannot_be_placed_is_refused_before_any_machine_is_asked(words: tuple[str, ...], said: str) -> None:
    with pytest.raises(UserError, match=said) as refused:
        plan(words)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "words",
    [
        (*RAY, "ray.gpus_per_actor=1"),
        (*RAY, "ray.gpus_per_actor=0.5"),
        ("tracking=none", "dry_run=true", "driver=ray"),
        (*SEVEN, TWO_WAYS, "ray.gpus_per_actor=2"),
        (*SEVEN, "ray.gpus_per_actor=0.5", "ray.actors=4", "rollout.chunks=4"),
        (*CUDA, "driver=overlapped", "ranks=2"),
    ],
)
def test_what_can_be_placed_is_not(words: tuple[str, ...]) -> None:
    assert plan(words).cells


def test_gpus_that_an_engine_leaves_idle_are_refused_by_the_plan() -> None:
    (line,) = dry_run.refusals(plan((*SEVEN, "ray.gpus_per_actor=2")))
    assert line.startswith("ray.gpus_per_actor=2: an engine of rollout=vllm uses 1")


def of_gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


def test_an_engine_of_more_gpus_than_this_machine_has_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    of_gpus(monkeypatch, 1)
    with pytest.raises(UserError, match="tensor_parallel_size=2: this machine has 1 GPUs"):
        plan(("device=cuda", "tracking=none", "rollout=vllm", TWO_WAYS))


def by_torchrun(monkeypatch: pytest.MonkeyPatch, world: int, here: int) -> None:
    told = {"MASTER_ADDR": "127.0.0.1", "RANK": 0, "WORLD_SIZE": world, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": here}
    for name, value in told.items():
        monkeypatch.setenv(name, str(value))


def test_more_ranks_than_gpus_are_refused_whoever_has_started_them(monkeypatch: pytest.MonkeyPatch) -> None:
    of_gpus(monkeypatch, 2)
    by_torchrun(monkeypatch, world=4, here=4)
    with pytest.raises(UserError, match="this machine has 2 of device=cuda for 4 ranks"):
        group.check(Config(ranks=4, driver="overlapped", device="cuda"))
    by_torchrun(monkeypatch, world=4, here=2)
    group.check(Config(ranks=4, driver="overlapped", device="cuda"))
    with pytest.raises(UserError, match="on several machines with driver=ray"):
        group.check(Config(ranks=4, driver="ray", device="cuda"))


def test_srun_says_how_many_ranks_are_on_a_node(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"MASTER_ADDR": "node-1", "SLURM_PROCID": "9", "SLURM_NTASKS": "11", "SLURM_LOCALID": "1"}
    for name, value in (told | {"SLURM_STEP_TASKS_PER_NODE": "4(x2),3", "SLURM_NODEID": "2"}).items():
        monkeypatch.setenv(name, value)
    assert launch.launched() == launch.Place(9, 11, 1, here=3)


def test_an_evaluation_takes_one_gpu_of_rays() -> None:
    given: dict[str, Any] = {"driver": "ray", "device": "cuda", "ranks": 4, "ray": RayConfig(gpus_per_actor=1)}
    assert ray_room.learner_gpus(Config(**given)) == 4
    assert ray_room.learner_gpus(Config(mode="evaluate", checkpoint="runs/x", **given)) == 1


@pytest.mark.parametrize(
    ("words", "taken"),
    [
        (("driver=overlapped", "ranks=4"), 4),
        (("driver=ray", "ray.address=local", "ranks=2", "ray.actors=3", "ray.gpus_per_actor=0.5"), 4),
        (("driver=ray", "ray.address=10.0.0.1:6379", "ranks=2", "ray.actors=3", "ray.gpus_per_actor=1"), 2),
        (("rollout=vllm", TWO_WAYS), 2),
    ],
)
def test_a_job_of_slurm_with_too_few_gpus_is_refused(words: tuple[str, ...], taken: int) -> None:
    (cell,) = plan((*CUDA, *words)).cells
    settings = {"gpus": taken, "nodes": 1, "tasks_per_node": 1}
    slurm.check_gpus(settings, cell)
    slurm.check_gpus(settings | {"gpus": None}, cell)
    with pytest.raises(UserError, match=f"expected hydra.launcher.gpus={taken}"):
        slurm.check_gpus(settings | {"gpus": taken - 1}, cell)
