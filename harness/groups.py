"""The groups of keys, model.* to ray.*: every key once, with its default, meaning, range and role."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Optional, TypeVar

from omegaconf import MISSING

from harness.schema import key

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
    attention: str = key(
        "sdpa", "attention, of families that run through transformers", choices=("sdpa", "eager", "flash_attention_2")
    )
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
    probe_sequences: int = key(
        4, "sequences compared with the trainer after every publication; 0: none", "driver", low=0
    )
    logprobs: bool = key(True, "ask vLLM for the log-prob of every sampled token; false is faster", "driver")
    chunks_in_flight: int = key(
        2, "chunks that an engine beside the learner samples at once, all by one version", "driver", low=1
    )
    max_num_seqs: int | None = key(
        None, "sequences at once; null: on a GPU those of the chunks in flight, at most 1024", "driver", low=1
    )
    gpu_memory_utilization: float = key(0.5, "share of the device's memory that vLLM takes", "driver", above=0, high=1)
    max_model_len: int | None = key(None, "tokens of prompt and response; null: what the run needs", "driver", low=1)
    tensor_parallel_size: int = key(1, "GPUs that share an engine", "driver", low=1)
    enforce_eager: bool | None = key(None, "run vLLM without CUDA graphs; null: on a CPU alone", "driver")


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
    max_epochs: int = key(1, "times a rollout batch is gone through in its updates_per_step updates", low=1)
    micro_batch_tokens: int = key(16384, "padded tokens a forward pass", low=1)
    sum: str = key("ordered", "ranks add gradients as one process does, or fast", "driver", choices=("ordered", "fast"))
    scope: str = key("declared", "what a method sees: its scope, or a micro-batch", choices=("declared", "micro_batch"))
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
    ranks: str = key(
        "here",
        "the learner's ranks: all on this machine, or all but the first anywhere in the cluster that is joined",
        "place",
        choices=("here", "cluster"),
    )
    chunk_timeout_s: float = key(
        600.0, "seconds in which an actor has no chunk done, after which others get its chunks", "driver", above=0
    )
