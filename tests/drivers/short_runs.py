"""Runs of a few seconds."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.command.plan import plan
from harness.config import Config
from harness.records.files import read_json

# The code under test, for this process's children and actors too.
PROJECT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(PROJECT))
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

SHORT = ("tracking=none", "rollout.prompts_per_step=8", "rollout.group_size=4", "eval.samples=1", "eval.greedy=false",
         "task.validation_problems=16", "task.test_problems=16")  # fmt: skip


@dataclass
class Ran:
    outcome: str
    folder: Path

    @property
    def manifest(self) -> dict[str, Any]:
        return read_json(self.folder / "manifest.json")

    @property
    def sha256(self) -> str:
        assert self.outcome == "finished", self.manifest["error"]
        return self.manifest["final_weights_sha256"]


Run = Callable[..., Ran]


def configured(folder: Path, *overrides: str) -> Config:
    runs = [] if any(o.startswith("updates=") for o in overrides) else ["updates=16", "eval.every=16"]
    return plan([*SHORT, *runs, f"runs_dir={folder}", *overrides]).cells[0]
