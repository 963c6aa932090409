"""The schema of a run, of its groups (harness/groups.py) and the keys beside them; and the identity of a run.

All that depends on the keys is derived from here: the checks (harness/command/check.py), --help, what Hydra composes,
which keys name the run folder, what MLflow receives and which runs the analysis may average.
`algo`, `task` and `lag` stay mappings with a `_target_`: the signature of the class they name is their schema.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from harness.groups import (
    EvalConfig,
    LearnerConfig,
    ModelConfig,
    RayConfig,
    RecordConfig,
    RolloutConfig,
    TrackingConfig,
)
from harness.schema import Key, key, keys_of, leaves


@dataclass
class Config:
    """What everything below run.py receives. Nothing changes it once it has been checked."""

    algo: dict[str, Any] = key(dict, "the method and its parameters")
    task: dict[str, Any] = key(dict, "the problems and their grader")
    lag: dict[str, Any] = key(dict, "the staleness policy and its parameters")
    model: ModelConfig = field(default_factory=ModelConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    record: RecordConfig = field(default_factory=RecordConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    ray: RayConfig = field(default_factory=RayConfig)
    driver: str = key("serial", "who generates, and when", "driver", choices=("serial", "overlapped", "ray"))
    staleness: Any = key(
        0,
        "updates between sampling and training: exactly so many, or (bounded) at most; or a distribution such as "
        "uniform:0:256 (docs/lags.md)",
    )
    fork: str | None = key(None, "RUN_FOLDER@UPDATE to start from; what is not typed is as in that run")
    updates: int = key(400, "optimizer updates of the run", low=1, multiple_of="updates_per_step")
    updates_per_step: int = key(4, "updates a rollout batch", low=1)
    seed: int = key(1, "seed of everything random", low=0)
    repeat: int = key(0, "number of a repeat; changes the folder and nothing else", "driver", low=0)
    ranks: int = key(1, "processes that share the learner; the same bits for any number", "place", low=1)
    torch_threads: int = key(1, "threads of torch", "driver", low=1)
    device: str = key("cpu", "cpu, or an accelerator such as cuda", "driver")
    deterministic: bool = key(False, "the same bits in every run on an accelerator too, more slowly", "driver")
    mode: str = key("train", "train a policy, or evaluate a checkpoint", choices=("train", "evaluate"))
    checkpoint: str | None = key(None, "what mode=evaluate evaluates: a run folder, a checkpoint or a model")
    checkpoint_at: Any = key("best", "which one of a run folder: best (on validation), last, or an update", "place")
    checkpoint_every: int = key(100, "updates between checkpoints", "record", low=1, multiple_of="updates_per_step")
    stop_at: int | None = key(
        None,
        "update to pause at; the same command without it carries on",
        "place",
        low=1,
        multiple_of="updates_per_step",
    )
    dry_run: bool = key(False, "print cells, folders and estimates, and stop", "place")
    calibrate: bool = key(
        False, "time a batch and its updates on this machine for the plan, print it, and stop", "place"
    )
    quiet: bool = key(False, "say only what went wrong, and at the end how it ended", "place")
    on_change: str = key(
        "refuse",
        "a run carries on with another method, reward, model or data than it began with: refused, or recorded",
        "place",
        choices=("refuse", "record"),
    )
    retry_failed: bool = key(False, "run failed cells again", "place")
    allow_code: list[str] = key(list, "packages beside ours that a _target_ may name", "place")
    sandbox: str = key("on", "grade model answers in processes that can only answer", "place", choices=("on", "off"))
    runs_dir: str = key("runs", "folder of the run folders, from where the command is typed", "place")
    choices: dict[str, str] = field(default_factory=dict, metadata={"omegaconf_ignore": True})
    """The chosen options of the config groups that name things: {"algo": "m2po", "task": "carry", …}."""
    interpolated: dict[str, Any] = field(default_factory=dict, metadata={"omegaconf_ignore": True})
    """What comes from the environment, as it was written: {"task.path": "${oc.env:DATA}/train.jsonl"}."""
    forked: str | None = field(default=None, metadata={"omegaconf_ignore": True})
    """What `fork` names, however its path is typed: the hash of that run's configuration, @, and the update."""

    @property
    def batches(self) -> int:
        """Rollout batches the run trains on."""
        return self.updates // self.updates_per_step

    @property
    def ranks_in_cluster(self) -> bool:
        """Whether all ranks but the first are tasks of Ray, wherever there is room for them."""
        spread = self.driver == "ray" and self.ray.ranks == "cluster"
        return spread and self.ranks > 1 and self.mode == "train"

    @property
    def served_model(self) -> ModelConfig:
        """The model the run loads: with mode=evaluate the checkpoint."""
        return self.model if self.checkpoint is None else replace(self.model, path=self.checkpoint)

    def as_dict(self) -> dict[str, Any]:
        """Every value in nested mappings."""
        tree = asdict(self)
        del tree["interpolated"], tree["forked"]
        return tree

    def flat(self) -> dict[str, Any]:
        """Every value under its dotted name, those of mappings without a schema too (algo.epsilon_low)."""
        return dict(leaves(self.as_dict()))

    def roles(self) -> dict[str, str]:
        """The role of every dotted name of `flat`."""
        return {name: role_of(name) for name in self.flat()}

    def identity(self) -> dict[str, Any]:
        """What makes this run another than the next, flat: every key but those of the role place.

        So runs of one science on two drivers lie in two folders and can be compared; where a run lies, what mirrors
        it, how long its checkpoints stay, where it is paused and by how many ranks (that add in order) do not. A fork
        is of a run, not of a path.
        """
        kept = {"ranks"} if self.learner.sum == "fast" else set()
        values = self.flat() | {"fork": self.forked or self.fork}
        return {name: value for name, value in values.items() if role_of(name) != "place" or name in kept}

    def sha256(self) -> str:
        """Hash of the identity: the same for the same command wherever it runs."""
        text = json.dumps(self.identity(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def folder(self) -> Path:
        """The run folder, a function of the config: readable first, unique through the hash."""
        kind = self.choices["lag"]
        lag = f"{'s' if kind == 'exact' else kind}{self.staleness}".replace(":", "_")
        what = f"evaluate-{self._evaluated}" if self.mode == "evaluate" else f"{self.choices['algo']}-{lag}"
        name = f"{what}-seed{self.seed}-{self.sha256()[:10]}"
        return Path(self.runs_dir) / self.choices["task"] / name

    @property
    def label(self) -> str:
        """What a line calls the cell: method (of an evaluation the checkpoint's name), staleness and seed."""
        evaluates = self.mode == "evaluate"
        what = f"evaluate {self._evaluated}" if evaluates else f"{self.choices['algo']} s={self.staleness}"
        return f"{what} seed={self.seed}"

    @property
    def _evaluated(self) -> str:
        """The name of what is evaluated: run and update, or a model's."""
        path = Path(str(self.checkpoint))
        return f"{path.parent.parent.name}-{path.name}" if path.parent.name == "checkpoints" else path.name


@cache
def schema() -> dict[str, Key]:
    """Every key of the schema under its dotted name."""
    return dict(keys_of(Config))


@cache
def known_keys() -> tuple[str, ...]:
    """Dotted names of every key and group, for nearest-name hints."""
    groups = {name.rpartition(".")[0] for name in schema()} - {""}
    return (*schema(), *sorted(groups))


def role_of(name: str) -> str:
    """The role of a dotted name; a parameter of algo, task, lag or rollout.options has that of its mapping."""
    while name not in schema():
        name = name.rpartition(".")[0]
        if not name:
            return "science"  # choices.*: the names of what was chosen
    return schema()[name].role
