"""Ray for one run: a cluster joined at an address, or a local one that starts and stops with the run.

A Ray cluster runs whatever a client sends. So the local one listens on loopback only and answers those that know a
token made for it; a joined one is asked with the token, or without, as its owner has set Ray up (RAY_AUTH_MODE).
"""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType

from harness import interrupts
from harness.config import Config
from harness.errors import UserError
from harness.groups import RayConfig

ANSWER_S = 12.0  # a cluster that has not answered by then is not there
STORE_BYTES = 128 * 2**20  # of the local object store, beside the weights it holds

TOKEN_BYTES = 32


def import_ray() -> ModuleType:
    """Ray, set up to report no usage. Raises UserError with the command that installs it."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise UserError(f"driver=ray: Ray is not installed ({error}); pip install 'lagrange-rl[ray]'") from error
    return ray


def check(config: Config) -> None:
    """Raises UserError for a run that driver=ray cannot serve."""
    import_ray()
    if config.rollout.inflight != "drain":
        raise UserError(
            f"rollout.inflight={config.rollout.inflight} with driver=ray: an actor takes weights between chunks only; "
            "use driver=overlapped, or rollout.inflight=drain"
        )
    if config.ray.address is not None and not config.dry_run:
        check_address(config.ray.address)


@functools.cache
def check_address(address: str) -> None:
    """Raises UserError, within 15 seconds, when no Ray cluster answers at HOST:PORT."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"ray.address={address}: expected HOST:PORT, as `ray start --head` prints it")
    import_ray()
    advice = "start one with `ray start --head`, or leave ray.address out for a local one"
    deadline = time.monotonic() + ANSWER_S
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"ray.address={address}: nothing answers there ({error}); {advice}") from error
    # Ray's own connection tries for minutes, so a process that can be ended asks whether this is a cluster.
    ask = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", address]
    try:
        answer = subprocess.run(ask, capture_output=True, timeout=deadline - time.monotonic(), check=False)
    except subprocess.TimeoutExpired:
        answer = None
    if answer is None or answer.returncode != 0:
        raise UserError(f"ray.address={address}: something listens there, but no Ray cluster answers; {advice}")


def connect(config: RayConfig, weights_bytes: int, max_versions: int) -> Callable[[], None]:
    """Joins or starts a cluster. One that this process is part of stays as it is.

    weights_bytes: size of one version's weights, for the object store of a local cluster.
    max_versions: versions alive at once.
    Returns what leaves the cluster, or stops the local one.
    """
    ray = import_ray()
    if ray.is_initialized():
        return lambda: None
    quiet = {"log_to_driver": False, "configure_logging": False}
    with interrupts.handlers_kept():  # ray.init puts its own SIGTERM handler over ours
        if config.address is not None:
            check_address(config.address)
            ray.init(address=config.address, **quiet)
        else:
            with private_cluster():
                ray.init(
                    address="local",  # whatever RAY_ADDRESS says
                    num_cpus=max(1, round(config.actors * config.cpus_per_actor)),
                    object_store_memory=STORE_BYTES + (max_versions + 1) * weights_bytes,
                    include_dashboard=False,
                    **quiet,
                )
    return lambda: _shutdown(ray)


@contextmanager
def private_cluster() -> Iterator[None]:
    """A Ray cluster that is started while the block runs listens on loopback and wants a token that nobody else has."""
    ray = import_ray()
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(TOKEN_BYTES)}
    before = {name: os.environ.get(name) for name in token}
    constants = ray._private.ray_constants
    clusters = constants.ENABLE_RAY_CLUSTER
    os.environ.update(token)
    constants.ENABLE_RAY_CLUSTER = False  # of several machines: without them Ray stays on 127.0.0.1
    _read_token(ray)
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = clusters
        os.environ.update({name: value for name, value in before.items() if value is not None})
        for name in [name for name, value in before.items() if value is None]:
            del os.environ[name]


def _read_token(ray: ModuleType) -> None:
    """Ray reads the environment when it is imported, and remembers."""
    ray._raylet.Config.initialize("")
    ray._raylet.AuthenticationTokenLoader.instance().reset_cache()


def _shutdown(ray: ModuleType) -> None:
    with interrupts.handlers_kept(), contextlib.redirect_stderr(None):
        ray.shutdown()
    _read_token(ray)  # forgets that of a local cluster
