"""The typed schema of a run, its checks, and its identity.

A `Config` is what everything below run.py receives: frozen in meaning, validated as a whole before
anything is written. `algo` and `task` stay mappings with a `_target_`; the signature of the class they
name is their schema.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from harness.errors import UserError

# Keys that change nothing about what a run computes or where it lies below runs_dir.
NOT_IDENTITY = ("runs_dir", "tracking", "dry_run", "retry_failed")


@dataclass
class ModelConfig:
    """path: folder or hub name · dtype: compute type (master weights stay float32) · parameters: size, for
    the estimates of dry_run where the model is not at hand · pad_token, end_token: where the tokenizer names none,
    or another than the model was trained with."""

    path: str = "harness/assets/carry"
    dtype: str = "float32"
    attention: str = "sdpa"
    gradient_checkpointing: bool = False
    template: str = "plain"
    system_prompt: str = ""
    pad_token: str | None = None
    end_token: str | None = None
    parameters: float | None = None


@dataclass
class VllmConfig:
    """probe_sequences sequences are compared with the trainer after every publication."""

    probe_sequences: int = 4
    gpu_memory_utilization: float = 0.5
    max_model_len: int | None = None
    enforce_eager: bool = True


@dataclass
class RolloutConfig:
    """probe_tolerance: a mean difference of log-probs between engine and trainer above it (nats) ends the run; null:
    by dtype · options: parameters of an engine from outside."""

    _target_: str = "harness.rollout.torch_engine.TorchEngine"
    prompts_per_step: int = 64
    group_size: int = 8
    temperature: float = 1.0
    top_p: float = 1.0
    max_new_tokens: int = 24
    max_prompt_tokens: int = 1024
    chunks: int = 1
    behaviour: str = "trainer"
    inflight: str = "drain"
    probe_tolerance: float | None = None
    options: dict[str, Any] = field(default_factory=dict)
    vllm: VllmConfig = field(default_factory=VllmConfig)


@dataclass
class LearnerConfig:
    """advantage: group_normalised (paper) or group_centred (Dr. GRPO) · truncated: what a response without an
    end token counts for: graded as it is, reward 0, or left out of the loss."""

    lr: float = 3e-5
    beta1: float = 0.9
    beta2: float = 0.999
    weight_decay: float = 0.01
    grad_clip: float = 1.0
    micro_batch_tokens: int = 16384
    scope: str = "declared"
    advantage: str = "group_normalised"
    truncated: str = "grade"
    max_refused_in_a_row: int = 5
    max_loss: float = 1e6


@dataclass
class EvalConfig:
    """every: updates between evaluations · samples: k of avg@k · greedy: also one greedy answer a problem ·
    last: evaluations in the last-k mean · suites: benchmarks by name, from suites_path (a folder with a file for
    each) or the hub · suite_samples: k for every suite instead of each one's published k."""

    every: int = 40
    samples: int = 4
    greedy: bool = True
    temperature: float = 1.0
    batch_prompts: int = 256
    suites: list[str] = field(default_factory=list)
    suites_path: str | None = None
    suite_samples: int | None = None
    sample_responses: int = 8


@dataclass
class RecordConfig:
    """tokens: [from, to] updates whose tokens go to tokens.parquet."""

    tokens: list[int] | None = None


@dataclass
class TrackingConfig:
    """backend: mlflow or none · uri: empty means sqlite in runs_dir · every: updates between mirrored rows."""

    backend: str = "mlflow"
    uri: str = ""
    experiment: str = "lagrange"
    every: int = 10


@dataclass
class RayConfig:
    """address of a cluster to join (null: a local one starts and stops with the run) · actors: rollout actors ·
    chunk_timeout_s: a chunk not back by then is taken for hung and given to another actor."""

    address: str | None = None
    actors: int = 1
    cpus_per_actor: float = 1.0
    gpus_per_actor: float = 0.0
    chunk_timeout_s: float = 600.0


@dataclass
class Config:
    algo: dict[str, Any] = field(default_factory=dict)
    task: dict[str, Any] = field(default_factory=dict)
    lag: dict[str, Any] = field(default_factory=dict)
    model: ModelConfig = field(default_factory=ModelConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    record: RecordConfig = field(default_factory=RecordConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    ray: RayConfig = field(default_factory=RayConfig)
    driver: str = "serial"
    staleness: int = 0
    updates: int = 400
    updates_per_step: int = 4
    seed: int = 1
    repeat: int = 0
    torch_threads: int = 1
    device: str = "cpu"
    mode: str = "train"
    checkpoint: str | None = None
    checkpoint_every: int = 100
    dry_run: bool = False
    retry_failed: bool = False
    allow_code: list[str] = field(default_factory=list)
    runs_dir: str = "runs"
    # The chosen options of the config groups that name things: {"algo": "m2po", "task": "carry", …}.
    choices: dict[str, str] = field(default_factory=dict)

    @property
    def batches(self) -> int:
        """Rollout batches the run trains on."""
        return self.updates // self.updates_per_step

    @property
    def lag_steps(self) -> int:
        """S, the staleness in rollout batches."""
        return self.staleness // self.updates_per_step

    @property
    def served_model(self) -> ModelConfig:
        """The model the run loads: with mode=evaluate the checkpoint."""
        return self.model if self.checkpoint is None else replace(self.model, path=self.checkpoint)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def identity(self) -> dict[str, Any]:
        return {key: value for key, value in self.as_dict().items() if key not in NOT_IDENTITY}

    def sha256(self) -> str:
        """Hash of the identity: the same for the same command wherever it runs."""
        text = json.dumps(self.identity(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def folder(self) -> Path:
        """The run folder, a function of the config: readable first, unique through the hash."""
        kind = self.choices["lag"]
        lag = f"{'s' if kind == 'exact' else kind}{self.staleness}"
        what = f"{self.choices['algo']}-{lag}"
        if self.mode == "evaluate":
            what = f"evaluate-{Path(str(self.checkpoint)).name}"
        name = f"{what}-seed{self.seed}-{self.sha256()[:10]}"
        return Path(self.runs_dir) / self.choices["task"] / name


CHOICES: dict[str, tuple[str, ...]] = {
    "driver": ("serial", "overlapped", "ray"),
    "mode": ("train", "evaluate"),
    "model.dtype": ("float32", "bfloat16"),
    "model.attention": ("sdpa", "eager", "flash_attention_2"),
    "model.template": ("plain", "chat"),
    "rollout.behaviour": ("trainer", "engine"),
    "rollout.inflight": ("drain", "recompute", "keep_kv"),
    "learner.scope": ("declared", "micro_batch"),
    "learner.advantage": ("group_normalised", "group_centred"),
    "learner.truncated": ("grade", "zero", "mask"),
    "tracking.backend": ("mlflow", "none"),
}

# key → (lowest allowed value, why or what it is)
AT_LEAST: dict[str, tuple[float, str]] = {
    "staleness": (0, "updates between sampling and training"),
    "updates": (1, "optimizer updates"),
    "updates_per_step": (1, "updates a rollout batch"),
    "seed": (0, "a non-negative seed"),
    "repeat": (0, "the number of a repeat"),
    "torch_threads": (1, "threads"),
    "checkpoint_every": (1, "updates"),
    "rollout.prompts_per_step": (2, "a batch of one prompt cannot be cut into updates"),
    "rollout.group_size": (2, "a group of one response has no advantage"),
    "rollout.max_new_tokens": (1, "tokens"),
    "rollout.max_prompt_tokens": (1, "tokens"),
    "rollout.chunks": (1, "chunks"),
    "learner.micro_batch_tokens": (1, "tokens"),
    "learner.max_refused_in_a_row": (1, "refused updates"),
    "eval.every": (1, "updates between evaluations"),
    "eval.samples": (1, "samples a problem"),
    "tracking.every": (1, "updates"),
    "ray.actors": (1, "rollout actors"),
}

POSITIVE = (
    "learner.lr",
    "learner.grad_clip",
    "learner.max_loss",
    "rollout.temperature",
    "eval.temperature",
    "ray.chunk_timeout_s",
)


def lookup(config: Config, key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = getattr(value, part)
    return value


def check(config: Config) -> None:
    """Checks every value and every combination of values that needs no file. Raises UserError."""
    for key, valid in CHOICES.items():
        if lookup(config, key) not in valid:
            raise UserError(f"{key}={lookup(config, key)}: expected one of {', '.join(valid)}")
    for key, (least, what) in AT_LEAST.items():
        if lookup(config, key) < least:
            raise UserError(f"{key}={lookup(config, key)}: expected at least {least:g} ({what})")
    for key in POSITIVE:
        if not 0 < lookup(config, key) < float("inf"):
            raise UserError(f"{key}={lookup(config, key)}: expected a positive number")
    for key in ("learner.beta1", "learner.beta2"):
        if not 0 <= lookup(config, key) < 1:
            raise UserError(f"{key}={lookup(config, key)}: expected at least 0 and below 1")
    _check_units(config)
    _check_combinations(config)


def _check_units(config: Config) -> None:
    per_step = config.updates_per_step
    for key in ("updates", "checkpoint_every"):
        value = lookup(config, key)
        if value % per_step:
            below = value - value % per_step
            near = [str(v) for v in (below, below + per_step) if v > 0]
            raise UserError(
                f"{key}={value}: not divisible by updates_per_step={per_step} "
                f"(a rollout batch is {per_step} updates); nearest valid: {' or '.join(near)}"
            )
    prompts = config.rollout.prompts_per_step
    if prompts % per_step:
        raise UserError(
            f"rollout.prompts_per_step={prompts}: not divisible by updates_per_step={per_step}; "
            f"nearest valid: {prompts - prompts % per_step or per_step} or {prompts + per_step - prompts % per_step}"
        )
    if config.rollout.chunks > prompts:
        raise UserError(f"rollout.chunks={config.rollout.chunks}: more chunks than the {prompts} prompts of a step")
    if config.eval.every % per_step:
        raise UserError(
            f"eval.every={config.eval.every}: not divisible by updates_per_step={per_step} "
            "(weights are published at the end of a step)"
        )


def _check_combinations(config: Config) -> None:
    if config.mode == "evaluate" and not config.checkpoint:
        raise UserError("mode=evaluate: needs checkpoint=PATH, a checkpoint or model folder")
    if config.checkpoint and config.mode != "evaluate":
        raise UserError(f"checkpoint={config.checkpoint}: only mode=evaluate reads it; add mode=evaluate or drop it")
    if config.rollout.top_p != 1.0:
        raise UserError(
            f"rollout.top_p={config.rollout.top_p}: behaviour log-probs are those of the full softmax; expected 1.0"
        )
    tokens = config.record.tokens
    if tokens is not None and not (len(tokens) == 2 and 0 <= tokens[0] <= tokens[1]):
        raise UserError(f"record.tokens={tokens}: expected [first, last] updates, for instance [800,1200]")
    if config.device != "cpu" and not config.dry_run:
        _check_device(config.device)


def _check_device(device: str) -> None:
    import torch

    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"device={device}: not usable here ({reason}); expected cpu or a present accelerator"
        ) from error


def known_keys() -> list[str]:
    """Dotted names of every key of the schema, for nearest-name hints."""

    def walk(cls: Any, prefix: str) -> list[str]:
        names = []
        for f in fields(cls):
            names.append(prefix + f.name)
            nested = f.default_factory() if callable(f.default_factory) else None
            if hasattr(nested, "__dataclass_fields__"):
                names += walk(type(nested), f"{prefix}{f.name}.")
        return names

    return [name for name in walk(Config, "") if name != "choices"]
