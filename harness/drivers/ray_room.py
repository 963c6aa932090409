"""Whether a Ray cluster has room for a run, and the learner's GPUs among it."""

from __future__ import annotations

import functools
import json
import math
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from types import ModuleType

import torch

from harness.config import Config
from harness.drivers.ray_cluster import ADVICE, address_of, import_ray
from harness.errors import RunFailed, UserError

Node = dict[str, float]  # what a node has of each resource

CONNECT_S, ANSWER_S = 5.0, 25.0  # a cluster that has not answered by then is not there
RESERVED_S = 60.0  # within which Ray reserves what is free
# Asked in a process that can be ended. Prints what every living node has, this one first.
ASK = """
import json, sys
from ray._private.services import get_node_ip_address
from ray._raylet import GcsClient
from ray.core.generated.gcs_pb2 import GcsNodeInfo
nodes = GcsClient(address=sys.argv[1]).get_all_node_info(timeout=10).values()
here = get_node_ip_address(sys.argv[1])
alive = [node for node in nodes if node.state == GcsNodeInfo.ALIVE]
alive.sort(key=lambda node: (node.node_manager_address != here, not node.is_head_node))
print(json.dumps([dict(node.resources_total) for node in alive]))
"""


def check(config: Config) -> None:
    """Raises UserError for a run that driver=ray cannot serve, or that the cluster has no room for."""
    import_ray()
    _check_gpus(config)
    if not config.dry_run:
        address = address_of(config.ray)
        if config.ranks_in_cluster and address is None:
            raise UserError("ray.ranks=cluster: a cluster that starts with the run is this machine; give ray.address")
        check_room(config, of_this_machine(config) if address is None else nodes(address))


def _check_gpus(config: Config) -> None:
    """Of GPUs Ray gives an actor whole ones, or a share of one; and an actor sees no others."""
    kind, _, number = config.device.partition(":")
    each = config.ray.gpus_per_actor
    if number:
        raise UserError(
            f"device={config.device} with driver=ray: an actor counts its own GPUs, from 0; expected device={kind}, "
            f"with CUDA_VISIBLE_DEVICES={number} in the environment for the learner's"
        )
    if each > 1 and each % 1:
        raise UserError(f"ray.gpus_per_actor={each:g}: expected a whole number, or a share below 1")
    if kind == "cuda" and each == 0:
        raise UserError(
            "ray.gpus_per_actor=0 with device=cuda: the actors would sample on the learner's GPU unseen by Ray; "
            "expected ray.gpus_per_actor=1, or driver=overlapped, which shares it"
        )


@functools.cache
def nodes(address: str) -> list[Node]:
    """The living nodes of the cluster at HOST:PORT, this one first.

    Raises UserError, within CONNECT_S + ANSWER_S, when no Ray cluster answers.
    """
    host, _, port = address.rpartition(":")
    import_ray()
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"ray.address={address}: nothing answers there ({error}); {ADVICE}") from error
    # Ray's own connection tries for minutes.
    ask = [sys.executable, "-c", ASK, address]
    try:
        answer = subprocess.run(ask, capture_output=True, text=True, timeout=ANSWER_S, check=True)
    except subprocess.SubprocessError as error:
        raise UserError(
            f"ray.address={address}: something listens there, but no Ray cluster answers; {ADVICE}"
        ) from error
    return [dict(node) for node in json.loads(answer.stdout)]


def of_this_machine(config: Config) -> list[Node]:
    """The one node of a cluster that starts with the run: as many CPUs as asked for, and the GPUs that there are."""
    cpus = config.ray.actors * config.ray.cpus_per_actor
    return [{"CPU": cpus, "GPU": torch.cuda.device_count() if config.ray.gpus_per_actor else 0}]


def check_room(config: Config, found: Sequence[Node]) -> None:
    """Raises UserError where the nodes of a cluster cannot hold all rollout actors beside the learner.

    found: what each node has, the learner's first.
    """
    here, *others = found
    free = [here | {"GPU": here.get("GPU", 0) - learner_gpus(config)}, *others]
    for _ in range(config.ranks - 1 if config.ranks_in_cluster else 0):
        free = _without_a_rank(free, {"CPU": config.torch_threads, "GPU": min(1, learner_gpus(config))})
    each = {"CPU": config.ray.cpus_per_actor, "GPU": config.ray.gpus_per_actor}
    room = sum(_holds(node, each) for node in free)
    if room < config.ray.actors:
        there = ", ".join(f"{node.get('CPU', 0):g} CPUs and {max(0, node.get('GPU', 0)):g} GPUs" for node in free)
        beside = " beside the learner" if learner_gpus(config) else ""
        raise UserError(
            f"ray.actors={config.ray.actors}: there is room for {room:g} actors of {each['CPU']:g} CPUs and "
            f"{each['GPU']:g} GPUs{beside} (nodes: {there}); take fewer, or smaller ones (ray.cpus_per_actor, "
            "ray.gpus_per_actor)"
        )


def _without_a_rank(free: Sequence[Node], rank: Node) -> list[Node]:
    """What is left where a rank takes the place that has most. Raises UserError where there is none."""
    first, *rest = sorted(free, key=lambda node: (-node.get("GPU", 0), -node.get("CPU", 0)))
    if _holds(first, rank) < 1:
        raise UserError(f"ranks: no node has {rank['CPU']:g} CPUs and {rank['GPU']:g} GPUs left; take fewer ranks")
    return [first | {name: first.get(name, 0) - taken for name, taken in rank.items()}, *rest]


def _holds(node: Node, each: Node) -> float:
    """How many actors a node holds."""
    return min(((node.get(name, 0) / share + 1e-9) // 1 for name, share in each.items() if share), default=math.inf)


def learner_gpus(config: Config) -> int:
    """GPUs of this machine that the learner uses."""
    ranks = 1 if config.mode == "evaluate" or config.ranks_in_cluster else config.ranks
    return ranks if torch.device(config.device).type == "cuda" else 0


def reserve(count: int) -> None:
    """Keeps Ray from giving this machine's first GPUs to anybody as long as this process is connected.

    count: GPUs of the learner, by whose numbers torch already uses them. Raises RunFailed where they are not free.
    """
    if count == 0:
        return
    ray = import_ray()
    from ray.util.placement_group import placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    group = placement_group([{"GPU": count, _this_node(ray): 0.001}])
    strategy = PlacementGroupSchedulingStrategy(group)
    ask = ray.remote(_gpus).options(num_cpus=0, num_gpus=count, scheduling_strategy=strategy)
    try:
        given = sorted(map(int, ray.get(ask.remote(), timeout=RESERVED_S)))
    except ray.exceptions.GetTimeoutError as error:
        raise RunFailed(f"Ray has not {count} free GPUs for the learner on this machine") from error
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    used = list(range(count)) if visible is None else sorted(map(int, visible.split(",")[:count]))
    if given != used:
        numbers = ",".join(map(str, given))
        raise RunFailed(
            f"Ray has other GPUs free for the learner than it uses; start with CUDA_VISIBLE_DEVICES={numbers}"
        )


def _gpus() -> list[str]:
    """In a task: the numbers of its GPUs."""
    return [str(number) for number in import_ray().get_gpu_ids()]


def _this_node(ray: ModuleType) -> str:
    """The resource by which Ray names this machine."""
    number = ray.get_runtime_context().get_node_id()
    (resources,) = (node["Resources"] for node in ray.nodes() if node["NodeID"] == number)
    return next(name for name in resources if name.startswith("node:") and "internal" not in name)
