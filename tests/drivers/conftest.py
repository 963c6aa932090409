"""The runs and the Ray cluster that this folder's tests share."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from short_runs import Ran, Run, configured

from harness import build
from harness.command.cell import run_cell
from harness.drivers import ray_cluster
from harness.groups import RayConfig


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def ran(*overrides: str) -> Ran:
        config = configured(tmp_path, *overrides)
        return Ran(run_cell(config), config.folder)

    return ran


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Any], Any]], None]:
    """Wraps every engine that works beside the learner."""

    def wrapped(wrapper: Callable[[Any], Any]) -> None:
        replica = build.replica
        monkeypatch.setattr(build, "replica", lambda config: wrapper(replica(config)))

    return wrapped


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    """A local Ray for the whole session: runs find it and leave it."""
    ray = ray_cluster.import_ray()
    stop = ray_cluster.connect(RayConfig(actors=3), weights_bytes=10**6, max_versions=2)
    yield ray
    stop()
