"""Shared by all tests: one torch thread, the command line as a user types it, and a small run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
LIMIT_S = 240.0  # for what takes seconds on an idle machine

# A run of seconds: 8 prompts × 4 responses a step, a few problems to evaluate on.
SMALL = (
    "rollout.prompts_per_step=8",
    "rollout.group_size=4",
    "task.validation_problems=8",
    "task.test_problems=8",
    "updates=16",
    "eval.every=8",
    "checkpoint_every=8",
    "tracking=none",
)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`run.py` with the given arguments, typed in an empty folder."""

    def run(*arguments: str, cwd: Path = tmp_path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(ROOT / "run.py"), *arguments],
            cwd=cwd,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated MLflow database, to copy: making one takes seconds."""
    from harness.tracking.store import connect, default_uri

    folder = tmp_path_factory.mktemp("mlflow")
    connect(default_uri(folder), "unused")
    return folder / "mlflow.db"


def only_run(folder: Path) -> Path:
    """The one run folder below `folder`."""
    (manifest,) = folder.glob("**/manifest.json")
    return manifest.parent


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def without_clock(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows]


def manifest(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "manifest.json").read_text()))


def manifests(folder: Path) -> dict[str, dict[str, Any]]:
    """The manifest of every run of carry that was typed in `folder`, by the name of its run folder."""
    return {path.parent.name: manifest(path.parent) for path in sorted(folder.glob("runs/carry/*/manifest.json"))}


def until(holds: Callable[[], object], what: str = "nothing happened", limit_s: float = LIMIT_S) -> None:
    """Waits until something holds, and fails with `what` where it does not come to hold."""
    deadline = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)
