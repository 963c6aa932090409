"""Ray for one run: a cluster joined at an address, or a local one that starts and stops with the run.

A Ray cluster runs whatever a client sends. So the local one listens on loopback only and answers those that know a
token made for it; a joined one is asked with the token, or without, as its owner has set Ray up (RAY_AUTH_MODE).
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from harness.errors import UserError
from harness.groups import RayConfig

STORE_BYTES = 128 * 2**20  # of the local object store, beside the weights it holds

TOKEN_BYTES = 32
ADVICE = "start one with `ray start --head`, or leave ray.address out for a local one"
OURS = ("algorithms", "harness")


def import_ray() -> ModuleType:
    """Ray, set up to report no usage. Raises UserError with the command that installs it."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # at its 15 actors starve beside other work
    try:
        import ray
    except ImportError as error:
        raise UserError(f"driver=ray: Ray is not installed ({error}); pip install 'lagrange-rl[ray]'") from error
    return ray


def address_of(config: RayConfig) -> str | None:
    """HOST:PORT of the cluster to join; None for one that starts with the run.

    Of ray.address=auto it is RAY_ADDRESS, else the cluster of this machine; where nothing is said, RAY_ADDRESS, which
    `ray job submit` sets. Raises UserError for what is no address.
    """
    typed, inherited = config.address, os.environ.get("RAY_ADDRESS")
    name, address = ("ray.address", typed) if typed not in (None, "auto") else ("RAY_ADDRESS", inherited)
    if address == "local" or (typed is None and not address):
        return None
    if not address:
        name, address = "ray.address=auto, which is", _of_this_machine()
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"{name}={address}: expected HOST:PORT, as `ray start --head` prints it, auto or local")
    return address


def _of_this_machine() -> str:
    """HOST:PORT of the cluster that was last started here."""
    import_ray()
    from ray._private.services import get_ray_address_from_environment

    try:
        return str(get_ray_address_from_environment("auto", None))
    except ConnectionError as error:
        raise UserError(f"ray.address=auto: no Ray cluster runs on this machine; {ADVICE}") from error


def connect(
    config: RayConfig, weights_bytes: int, max_versions: int, packages: Sequence[str] = ()
) -> Callable[[], None]:
    """Joins or starts a cluster. One that this process is part of stays as it is.

    weights_bytes: size of one version's weights, for the object store of a local cluster.
    max_versions: versions alive at once.
    packages: from outside, which a joined cluster's nodes need beside our own.
    Returns what leaves the cluster, or stops the local one.
    """
    ray = import_ray()
    if ray.is_initialized():
        return lambda: None
    quiet = {"log_to_driver": False, "configure_logging": False}
    with _sigterm_left_alone(ray):
        address = address_of(config)
        if address is not None:
            ray.init(address=address, runtime_env={"py_modules": code_to_send(packages)}, **quiet)
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


def code_to_send(packages: Sequence[str]) -> list[str]:
    """Folders and files of the packages that an actor imports: ours, and those of allow_code."""
    found = [importlib.util.find_spec(name.partition(".")[0]) for name in (*OURS, *packages)]
    files = [Path(spec.origin) for spec in found if spec is not None and spec.origin is not None]
    return sorted({str(file.parent if file.name == "__init__.py" else file) for file in files})


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


@contextmanager
def _sigterm_left_alone(ray: ModuleType) -> Iterator[None]:
    """While Ray starts, the handler that is there stays: Ray's own would end the process in the middle of it."""
    utils = ray._private.utils
    theirs, utils.set_sigterm_handler = utils.set_sigterm_handler, lambda handler: None
    try:
        yield
    finally:
        utils.set_sigterm_handler = theirs


def _read_token(ray: ModuleType) -> None:
    """Ray reads the environment when it is imported, and remembers."""
    ray._raylet.Config.initialize("")
    ray._raylet.AuthenticationTokenLoader.instance().reset_cache()


def _shutdown(ray: ModuleType) -> None:
    with contextlib.redirect_stderr(None):
        ray.shutdown()
    _read_token(ray)  # forgets that of a local cluster
