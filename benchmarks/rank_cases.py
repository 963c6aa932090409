"""Runs of a few seconds whose final weights must not know the number of ranks, and how each is made."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from harness import PROJECT
from harness.command.cell import run_cell
from harness.command.plan import plan
from harness.config import Config
from harness.records.files import read_json

BASE = PROJECT / "harness" / "assets" / "carry"
SHORT = ("tracking=none", "rollout.prompts_per_step=16", "rollout.group_size=4", "rollout.max_new_tokens=16",
         "eval.samples=1", "eval.greedy=false", "task.validation_problems=4", "task.test_problems=4",
         "staleness=4", "updates=8", "eval.every=8", "checkpoint_every=4", "learner.lr=1e-3")  # fmt: skip

METHODS = {
    "grpo": ("algo=grpo", "learner.kl_coefficient=0.01"),
    "gspo": ("algo=gspo", "algo.epsilon_low=1e-4", "algo.epsilon_high=1e-4"),
    "m2po": ("algo=m2po", "algo.m2_threshold=1e-5", "record.fidelity=4"),
    "topr": ("algo=topr", "record.tokens=[1,8]"),
}
OPTIONS = {
    "float32": (),
    "bfloat16": ("model.dtype=bfloat16",),
    "keep": (),
    "recompute": ("model.gradient_checkpointing=true",),
    "many": ("learner.micro_batch_tokens=150",),
    "few": ("learner.micro_batch_tokens=450",),  # fewer micro-batches than ranks, or an idle one in the last round
}


class Case(NamedTuple):
    """One combination; `COVER` has every pair of values."""

    ranks: int
    method: str
    dtype: str
    activations: str
    micro_batches: str
    policy: str

    def overrides(self, transformers: Path) -> list[str]:
        """All but the ranks. transformers: model folder of a family that only transformers' own forward computes."""
        model = () if self.policy == "own" else (f"model.path={transformers}",)
        options = [OPTIONS[name] for name in (self.dtype, self.activations, self.micro_batches)]
        return [*METHODS[self.method], *itertools.chain(*options), *model]


COVER = [
    Case(2, "grpo", "float32", "keep", "many", "own"),
    Case(2, "gspo", "bfloat16", "recompute", "few", "transformers"),
    Case(2, "m2po", "float32", "recompute", "many", "transformers"),
    Case(2, "topr", "bfloat16", "keep", "few", "own"),
    Case(3, "grpo", "bfloat16", "recompute", "few", "transformers"),
    Case(3, "gspo", "float32", "keep", "many", "own"),
    Case(3, "m2po", "bfloat16", "keep", "many", "own"),
    Case(3, "topr", "float32", "recompute", "few", "own"),
    Case(4, "grpo", "float32", "recompute", "many", "own"),
    Case(4, "gspo", "bfloat16", "keep", "few", "own"),
    Case(4, "m2po", "bfloat16", "recompute", "few", "own"),
    Case(4, "topr", "float32", "keep", "many", "transformers"),
    Case(3, "m2po", "float32", "keep", "many", "transformers"),  # slices that end within a vector of the optimizer
]


def everything() -> list[Case]:
    """Every combination."""
    axes = (
        (2, 3, 4),
        METHODS,
        ("float32", "bfloat16"),
        ("keep", "recompute"),
        ("many", "few"),
        ("own", "transformers"),
    )
    return [Case(*values) for values in itertools.product(*axes)]


def configured(folder: Path, *overrides: str) -> Config:
    return plan([*SHORT, f"runs_dir={folder}", *overrides]).cells[0]


class Ran(NamedTuple):
    outcome: str
    folder: Path

    @property
    def manifest(self) -> dict[str, Any]:
        return dict(read_json(self.folder / "manifest.json"))

    @property
    def sha256(self) -> str:
        assert self.outcome in ("finished", "skipped"), self.manifest["error"]
        return str(self.manifest["final_weights_sha256"])

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows of metrics.jsonl without what depends on the clock."""
        rows = map(json.loads, (self.folder / "metrics.jsonl").read_text().splitlines())
        return [{name: value for name, value in row.items() if not name.startswith("time/")} for row in rows]


Run = Callable[..., Ran]


def ran(folder: Path, *overrides: str) -> Ran:
    config = configured(folder, *overrides)
    return Ran(run_cell(config), config.folder)


def foreign_model(folder: Path) -> Path:
    """The embedded model with an activation that our own forward does not compute."""
    shutil.copytree(BASE, folder)
    config = read_json(folder / "config.json") | {"hidden_act": "gelu"}
    (folder / "config.json").write_text(json.dumps(config))
    return folder
