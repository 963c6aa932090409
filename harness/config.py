"""The schema of a run: every key once, with its default, meaning, range and role; and the identity of a run.

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
from typing import TYPE_CHECKING, Annotated, Any, Optional, TypeVar

from omegaconf import MISSING

from harness.schema import Key, key, keys_of, leaves

if TYPE_CHECKING:
    T = TypeVar("T")
    Declared = Annotated[T, "null as typed: the value that the task or the model declares (harness/command/resolve.py)"]
else:
    Declared = Optional


@dataclass
class ModelConfig:
    path: str = key(MISSING, "model folder, or name on the Hugging Face hub")
    dtype: Declared[str] = key(
        None,
        "type of the computation, master weights stay float32; null: the model's own",
        choices=("float32", "bfloat16"),
    )
    attention: str = key("sdpa", "implementation of attention", choices=("sdpa", "eager", "flash_attention_2"))
    gradient_checkpointing: bool = key(False, "compute activations twice to keep fewer of them", "driver")
    template: Declared[str] = key(
        None, "how a problem becomes a prompt; null: chat if the tokenizer has a template", choices=("plain", "chat")
    )
    system_prompt: str = key("", "first message of the chat template; empty: none")
    pad_token: str | None = key(None, "padding token, where the tokenizer names none")
    end_token: Any = key(None, "token that ends a response, or a list of them; null: all that the model's files name")
    parameters: float | None = key(None, "number of parameters, where dry_run has no model", "place", above=0)
    learning_rate: float = key(1e-6, "learning rate that suits the model, for learner.lr=null", "place", above=0)


@dataclass
class VllmConfig:
    probe_sequences: int = key(4, "sequences compared with the trainer after every publication", "driver", low=0)
    gpu_memory_utilization: float = key(0.5, "share of the device's memory that vLLM takes", "driver", above=0, high=1)
    max_model_len: int | None = key(None, "tokens of prompt and response; null: what the run needs", "driver", low=1)
    enforce_eager: bool = key(True, "run vLLM without CUDA graphs", "driver")


@dataclass
class RolloutConfig:
    _target_: str = key(MISSING, "class of the engine")
    prompts_per_step: int = key(64, "prompts a rollout batch", low=2, multiple_of="updates_per_step")
    group_size: int = key(8, "responses a prompt; one alone has no advantage", low=2)
    temperature: float = key(1.0, "temperature of sampling, and of every log-prob", above=0)
    top_p: float = key(1.0, "nucleus of sampling; log-probs are those of the full softmax", low=1, high=1)
    max_new_tokens: Declared[int] = key(None, "longest response, in tokens; null: as the task declares", low=1)
    max_prompt_tokens: Declared[int] = key(
        None, "longest prompt, in tokens, longer ones are dropped; null: as the task declares", low=1
    )
    chunks: int = key(1, "parts that a batch is generated in", low=1)
    behaviour: str = key("trainer", "whose log-prob enters the ratio", choices=("trainer", "engine"))
    mismatch: str = key(
        "none",
        "how rollout=torch differs from the trainer: weights rounded to bf16 or fp8, or noise on the logits",
        choices=("none", "bf16", "fp8", "gaussian"),
    )
    mismatch_sigma: float = key(0.05, "standard deviation of mismatch=gaussian, nats", above=0)
    inflight: str = key("drain", "what new weights do to running sequences", choices=("drain", "recompute", "keep_kv"))
    probe_tolerance: float | None = key(
        None, "mean difference from the trainer's log-probs (nats) that ends the run; null: by dtype", "driver", above=0
    )
    options: dict[str, Any] = key(dict, "parameters of an engine from outside")
    vllm: VllmConfig = field(default_factory=VllmConfig)


@dataclass
class LearnerConfig:
    lr: Declared[float] = key(
        None, "learning rate of AdamW; null: the one that suits the model (model.learning_rate)", above=0
    )
    schedule: str = key("constant", "learning rate after the warm-up", choices=("constant", "linear", "cosine"))
    warmup: int = key(0, "updates in which the learning rate rises linearly to lr", low=0)
    step_scale: str = key("none", "factor on lr: √(ESS/B) of the sequences (VCPO)", choices=("none", "sqrt_ess"))
    beta1: float = key(0.9, "decay of AdamW's first moment", low=0, below=1)
    beta2: float = key(0.999, "decay of AdamW's second moment", low=0, below=1)
    weight_decay: float = key(0.01, "weight decay of AdamW", low=0)
    grad_clip: float = key(1.0, "largest norm of the gradient", above=0)
    micro_batch_tokens: int = key(16384, "padded tokens a forward pass", low=1)
    sum: str = key("ordered", "ranks add gradients as one process does, or fast", "driver", choices=("ordered", "fast"))
    scope: str = key(
        "declared", "what a method sees: all of its scope, or a micro-batch", choices=("declared", "micro_batch")
    )
    advantage: str = key(
        "group_normalised",
        "reward relative to its group; group_centred is Dr. GRPO, none the reward itself",
        choices=("group_normalised", "group_centred", "rloo", "none"),
    )
    advantage_shift: float = key(0.0, "taken from every advantage, also in groups whose rewards are all equal")
    kl_coefficient: float = key(0.0, "weight of the KL divergence from the reference policy; 0: there is none", low=0)
    kl_in: str = key("loss", "KL as k3 a token in the loss, or k1 in the reward", choices=("loss", "reward"))
    reference: str = key("initial", "reference policy: the model that the run starts from, or a model folder")
    entropy_bonus: float = key(0.0, "weight of the policy's entropy in the objective", low=0)
    truncated: str = key(
        "grade",
        "a response without an end token is graded as it is, earns 0, or is left out of the loss",
        choices=("grade", "zero", "mask"),
    )
    max_refused_in_a_row: int = key(5, "non-finite updates in a row after which the run fails", low=1)
    max_loss: float = key(1e6, "an update with a larger loss is refused", above=0)


@dataclass
class EvalConfig:
    every: int = key(40, "updates between evaluations", "record", low=1, multiple_of="updates_per_step")
    samples: int = key(4, "k of avg@k, samples a problem", "record", low=1)
    greedy: bool = key(True, "also one greedy answer a problem", "record")
    validation_only: bool = key(False, "evaluate the split that chooses and no other, as tuning does", "record")
    temperature: float = key(1.0, "temperature of the sampled answers", "record", above=0)
    top_p: list[float] = key(
        list,
        "also answers sampled from this share of the distribution, each accuracy_top_p_SHARE; e.g. [0.7]",
        "record",
    )
    batch_prompts: int = key(256, "prompts sampled at once", "record", low=1)
    suites: list[str] = key(list, "benchmarks beside the task's own splits, by name", "record")
    suites_path: str | None = key(None, "folder with a file for each suite; null: the hub", "record")
    suite_samples: int | None = key(None, "k of every suite; null: each one's published k", "record", low=1)
    sample_responses: int = key(8, "responses a split written to samples.jsonl", "record", low=0)


@dataclass
class RecordConfig:
    tokens: list[int] | None = key(None, "[first, last] updates whose tokens go to tokens.parquet", "record")
    keep_checkpoints: Any = key(2, "newest checkpoints kept beside the best, or all, or a list of updates", "place")
    shadow: Any = key(
        list, "methods asked what they would have done with the run's mini-batches: names, or all", "record"
    )
    shadow_every: int = key(10, "updates between asking the shadow methods", "record", low=1)
    fidelity: int | None = key(
        None,
        "updates between comparing the gradient with that of fresh rollouts; null: never",
        "record",
        low=1,
        multiple_of="updates_per_step",
    )


@dataclass
class TrackingConfig:
    backend: str = key("mlflow", "where the records are mirrored", "place", choices=("mlflow", "none"))
    uri: str = key("", "address of the tracking store; empty: $MLFLOW_TRACKING_URI, else sqlite in runs_dir", "place")
    experiment: str = key("lagrange", "name of the experiment in MLflow", "place")
    every: int = key(10, "updates between mirrored rows", "place", low=1)


@dataclass
class RayConfig:
    address: str | None = key(
        None, "cluster to join, or auto: this machine's; null: RAY_ADDRESS, else its own", "driver"
    )
    actors: int = key(1, "rollout actors", "driver", low=1)
    cpus_per_actor: float = key(1.0, "CPU cores of an actor", "driver", low=0)
    gpus_per_actor: float = key(0.0, "GPUs of an actor", "driver", low=0)
    chunk_timeout_s: float = key(600.0, "seconds after which a chunk is given to another actor", "driver", above=0)


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
    staleness: int = key(0, "updates between sampling and training: exactly so many, or (bounded) at most", low=0)
    updates: int = key(400, "optimizer updates of the run", low=1, multiple_of="updates_per_step")
    updates_per_step: int = key(4, "updates a rollout batch", low=1)
    seed: int = key(1, "seed of everything random", low=0)
    repeat: int = key(0, "number of a repeat; changes the folder and nothing else", "driver", low=0)
    ranks: int = key(1, "processes that share the learner; the same bits for any number", "place", low=1)
    torch_threads: int = key(1, "threads of torch", "driver", low=1)
    device: str = key("cpu", "cpu, or an accelerator such as cuda", "driver")
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
        """Every value in nested mappings."""
        tree = asdict(self)
        del tree["interpolated"]
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
        it, how long its checkpoints stay, where it is paused and by how many ranks (that add in order) do not.
        """
        kept = {"ranks"} if self.learner.sum == "fast" else set()
        return {name: value for name, value in self.flat().items() if role_of(name) != "place" or name in kept}

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
            path = Path(str(self.checkpoint))
            run = f"{path.parent.parent.name}-" if path.parent.name == "checkpoints" else ""
            what = f"evaluate-{run}{path.name}"
        name = f"{what}-seed{self.seed}-{self.sha256()[:10]}"
        return Path(self.runs_dir) / self.choices["task"] / name


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
