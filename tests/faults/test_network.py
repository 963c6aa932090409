"""Nobody else comes in: whatever a command starts listens on loopback only, and Ray wants a token of the run."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.drivers import ray_cluster
from harness.groups import RayConfig
from tests.conftest import ROOT, SMALL

pytestmark = pytest.mark.skipif(shutil.which("ss") is None, reason="needs ss (iproute2)")

LOOPBACK = ("127.", "[::1]", "[::ffff:127.")
JOIN = "import ray, sys; ray._raylet.GcsClient(address=sys.argv[1])"
TOKENS = {
    "none": {"RAY_AUTH_MODE": "disabled"},
    "another": {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64},
}


def listening(session: int) -> set[str]:
    """ADDRESS:PORT of every TCP socket on which a process of a session listens."""
    rows = subprocess.run(["ps", "-eo", "pid=,sid="], capture_output=True, text=True, check=True).stdout.splitlines()
    pids = {pid for pid, sid in map(str.split, rows) if sid == str(session)}
    sockets = subprocess.run(["ss", "-ltnpH"], capture_output=True, text=True, check=True).stdout.splitlines()
    return {line.split()[3] for line in sockets for pid in pids if f"pid={pid}," in line}


def seen_while(process: subprocess.Popen[str], done: Callable[[set[str]], bool]) -> set[str]:
    """Every socket seen until the process ends or `done` is satisfied."""
    found: set[str] = set()
    deadline = time.monotonic() + 180
    while process.poll() is None and not done(found) and time.monotonic() < deadline:
        found |= listening(process.pid)
        time.sleep(0.5)
    return found


@contextmanager
def started(*command: str, cwd: Path) -> Iterator[subprocess.Popen[str]]:
    """A command in a session of its own, all of which is ended afterwards."""
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, 9)
        process.communicate()


@pytest.mark.parametrize("driver", ["serial", "overlapped", "ray"])
def test_a_run_listens_on_loopback_only(tmp_path: Path, driver: str) -> None:
    mirrored = [each for each in SMALL if not each.startswith("tracking")]
    arguments = [str(ROOT / "run.py"), *mirrored, "staleness=4", f"driver={driver}"]
    with started(sys.executable, *arguments, cwd=tmp_path) as process:
        found = seen_while(process, lambda _: False)
        assert process.returncode == 0, process.stderr and process.stderr.read()
    assert all(address.startswith(LOOPBACK) for address in found), found
    assert bool(found) == (driver == "ray")


def test_the_page_of_all_runs_listens_on_loopback_only(tmp_path: Path, database: Path) -> None:
    shutil.copy(database, tmp_path / "mlflow.db")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    names = (f"BIN={Path(sys.executable).parent}", f"RUNS={tmp_path}", f"PORT={port}")
    with started("make", "-o", ".venv/.base", "ui", *names, cwd=ROOT) as process:
        found = seen_while(process, lambda found: any(address.endswith(f":{port}") for address in found))
        assert process.poll() is None, process.stderr and process.stderr.read()
    assert found == {f"127.0.0.1:{port}"}


def test_a_local_ray_wants_the_token_of_its_run() -> None:
    apart = multiprocessing.get_context("spawn").Process(target=local_ray)  # this process may have a cluster up
    apart.start()
    apart.join(180)
    assert apart.exitcode == 0


def local_ray() -> None:
    """Starts one, looks at its address and environment, and tries to join it without its token."""
    ray = ray_cluster.import_ray()
    os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_ADDRESS": "192.0.2.1:6379"}
    stop = ray_cluster.connect(RayConfig(address="local"), weights_bytes=10**6, max_versions=2)
    try:
        address = ray.get_runtime_context().gcs_address
        assert address.startswith("127.")
        assert os.environ["RAY_AUTH_MODE"] == "disabled" and "RAY_AUTH_TOKEN" not in os.environ
        for environment in TOKENS.values():
            join = [sys.executable, "-c", JOIN, address]
            tried = subprocess.run(join, env=os.environ | environment, capture_output=True, text=True, check=False)
            assert tried.returncode != 0 and "token is missing or incorrect" in tried.stderr
        assert ray.get(ray.remote(lambda: 7).remote()) == 7
    finally:
        stop()
