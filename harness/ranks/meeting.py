"""The store where the ranks of a learner find each other, before they are a process group."""

from __future__ import annotations

import os
from datetime import timedelta

import torch.distributed as dist

from harness.errors import RunFailed, first_line
from harness.ranks import launch

TIMEOUT = timedelta(minutes=30)  # for the others to come
CONNECT = timedelta(minutes=2)  # of rank 0 with the store that it keeps


def store(address: str, place: launch.Place, *, joins: bool = False) -> dist.Store:
    """Where the ranks meet; returns at once on rank 0, whoever is there.

    address: file://PATH or tcp://HOST:PORT.
    place: of this process.
    joins: one that is there already.
    Raises RunFailed where it cannot be reached.
    """
    if address.startswith("file://"):
        return dist.FileStore(address.removeprefix("file://"), place.world)
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    kept_here = place.rank == 0 and not joins and not launch.agent_keeps_the_store()
    patience = CONNECT if kept_here else TIMEOUT
    try:
        made = dist.TCPStore(host, int(port), place.world, kept_here, patience, wait_for_workers=False)
    except dist.DistError as error:
        raise RunFailed(f"rank {place.rank} cannot meet the others at {host}:{port} ({first_line(error)})") from error
    made.set_timeout(TIMEOUT)
    return dist.PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), made)  # torchrun's outlives a restart
