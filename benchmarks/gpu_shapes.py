"""What benchmarks.gpu measures with: a model of random weights, a file of problems, runs, rollouts, a clock, a peak."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config

import algorithms
from harness.command.cell import run_cell
from harness.command.compose import set_project_root
from harness.command.plan import plan
from harness.config import Config
from harness.groups import LearnerConfig, ModelConfig
from harness.learner.learner import Learner
from harness.models.checks import resolve_path
from harness.models.loading import LoadedModel, load_model
from harness.rollout.interface import to_rollouts
from harness.types import GradedRollouts, Request

GIB = 2**30


@dataclass(frozen=True)
class Shape:
    """A model's size and the work it is given.

    name, width, inner, layers, heads, kv_heads, vocabulary: of the model, Qwen2.
    prompts, group, prompt, shortest, longest: of an update: responses and tokens.
    budget: padded tokens of a micro-batch.
    step: prompts of a rollout batch; limit: tokens of its responses. product: width of the matrices of the ceiling.
    """

    name: str
    width: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    prompts: int = 16
    group: int = 8
    prompt: int = 200
    shortest: int = 256
    longest: int = 1024
    budget: int = 32768
    step: int = 256
    limit: int = 1024
    product: int = 8192

    @property
    def products(self) -> int:
        """Numbers in the model's matrices, the head's among them: two operations a token each, six with backward."""
        head = self.width // self.heads
        attention = 2 * self.width * self.width + 2 * self.width * head * self.kv_heads
        return self.layers * (attention + 3 * self.width * self.inner) + self.width * self.vocabulary


SHAPES = {
    "1.5b": Shape("Qwen2.5-1.5B", 1536, 8960, 28, 12, 2, 151_936),
    "tiny": Shape("tiny", 64, 96, 2, 2, 1, 2048, 4, 2, 10, 8, 24, 150, 4, 12, 128),
}


def random_model(shape: Shape, folder: Path) -> Path:
    """A folder with random weights and the tokenizer of the small word-problem model."""
    base = resolve_path("harness/assets/gsm8k_small")
    tokenizer = AutoTokenizer.from_pretrained(base)
    config = Qwen2Config(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def problems(folder: Path, train: int) -> list[str]:
    """Files with the columns of GSM8K, as overrides of task=gsm8k."""
    counts = {"path": (0, train), "validation_path": (train, 8), "test_path": (train + 8, 8)}
    for key, (first, count) in counts.items():
        rows = [
            {"question": f"Tom has {i} pens and buys 2. How many?", "answer": f"So {i + 2}.\n#### {i + 2}"}
            for i in range(first, first + count)
        ]
        (folder / f"{key}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [f"task.{key}={folder / key}.jsonl" for key in counts]


def ran(*overrides: str) -> tuple[list[dict[str, Any]], str]:
    """The rows of metrics.jsonl and the final hash of a run in this process."""
    set_project_root()
    (config,) = plan(overrides).cells
    outcome = run_cell(config)
    manifest = json.loads((config.folder / "manifest.json").read_text())
    if outcome != "finished":
        raise RuntimeError(str(manifest["error"]).splitlines()[-1])
    rows = [json.loads(line) for line in (config.folder / "metrics.jsonl").read_text().splitlines()]
    return rows, manifest["final_weights_sha256"]


def config(shape: Shape, device: str, model: Path, *overrides: str) -> Config:
    """A run's config with the model, for an engine."""
    set_project_root()
    with tempfile.TemporaryDirectory() as folder:
        files = problems(Path(folder), shape.step)
        lengths = [f"rollout.max_prompt_tokens={max(shape.prompt, 64)}", f"rollout.max_new_tokens={shape.limit}"]
        (config,) = plan(
            ["task=gsm8k", "model=hf", f"model.path={model}", "model.template=plain", "model.dtype=bfloat16",
             f"device={device}", "tracking=none", f"rollout.group_size={shape.group}", "updates_per_step=1",
             f"rollout.prompts_per_step={shape.step}", f"runs_dir={folder}", *lengths, *files, *overrides]
        ).cells  # fmt: skip
    return config


def loaded(folder: Path, device: str, *, checkpointing: bool = False) -> LoadedModel:
    """The model computed in bfloat16."""
    return load_model(
        ModelConfig(path=str(folder), dtype="bfloat16", gradient_checkpointing=checkpointing, template="plain"), device
    )


def learner(model: LoadedModel, shape: Shape, method: str = "grpo", *, deterministic: bool = False) -> Learner:
    """A learner of one update a step."""
    return Learner(
        model.policy,
        algorithms.make(method),
        LearnerConfig(lr=1e-6, micro_batch_tokens=shape.budget),
        updates_per_step=1,
        group_size=shape.group,
        temperature=1.0,
        behaviour="trainer",
        deterministic=deterministic,
    )


def request(shape: Shape, prompts: int, limit: int) -> Request:
    """Prompts of random tokens."""
    generator = np.random.default_rng(0)
    ids = [generator.integers(10, shape.vocabulary // 8, size=shape.prompt).tolist() for _ in range(prompts)]
    keys = np.arange(prompts * shape.group, dtype=np.uint64).reshape(prompts, shape.group)
    return Request(ids, keys, 1.0, limit)


def graded(shape: Shape) -> GradedRollouts:
    """Responses of random tokens and lengths, one version old, with log-probs near those of a uniform policy."""
    generator = np.random.default_rng(1)
    count = shape.prompts * shape.group
    lengths = torch.from_numpy(generator.integers(shape.shortest, shape.longest, size=count, endpoint=True))
    ids = torch.from_numpy(generator.integers(10, shape.vocabulary // 8, size=int(lengths.sum())))
    logp = torch.full((len(ids),), -float(np.log(shape.vocabulary)))
    rollouts = to_rollouts(request(shape, shape.prompts, shape.longest), ids, lengths, logp, -1, [1])
    rewards = torch.from_numpy(generator.integers(0, 2, size=count)).double()
    return GradedRollouts(rollouts, rewards, torch.ones(count, dtype=torch.bool))


def tokens(batch: GradedRollouts) -> int:
    """Prompt tokens, once a group, and response tokens."""
    return len(batch.rollouts.prompt_ids) + len(batch.rollouts.response_ids)


@dataclass
class Measured:
    """Seconds of the median call; of a GPU the most bytes in use, and how many of them were before the calls."""

    seconds: float
    peak: int | None = None
    before: int = 0

    @property
    def in_use(self) -> str:
        return "–" if self.peak is None else f"{self.peak / GIB:.1f} GiB"

    @property
    def above(self) -> str:
        return "–" if self.peak is None else f"{(self.peak - self.before) / GIB:.2f} GiB"


def measured(call: Callable[[], object], device: str, repeats: int = 3) -> Measured:
    """Calls after one that warms up."""
    gpu = device != "cpu"
    call()
    before = 0
    if gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        if gpu:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return Measured(statistics.median(seconds), torch.cuda.max_memory_allocated() if gpu else None, before)


@contextmanager
def plain_head() -> Iterator[None]:
    """The head as one product with all logits kept."""
    from harness.models import logprobs

    before = logprobs.CHUNK_ELEMENTS
    logprobs.CHUNK_ELEMENTS = 2**62
    try:
        yield
    finally:
        logprobs.CHUNK_ELEMENTS = before
