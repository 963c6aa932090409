"""The sections of benchmarks.gpu: each yields the lines of Markdown that it has found out."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig

from benchmarks import gpu_shapes as shapes
from benchmarks.gpu_shapes import Measured, Shape, measured
from benchmarks.turns import ROOT
from harness.learner.learner import Learner
from harness.models import footprint
from harness.models.logprobs import head_scores
from harness.models.sequences import micro_batches, sequence_batch
from harness.rollout.interface import batched
from harness.rollout.torch_engine import TorchEngine
from harness.types import GradedRollouts, Request, Rollouts

PEER_TOKENS = 256  # of a response, where this project and TRL do the same work
CHUNKS, IN_FLIGHT = 8, (1, 2, 4)  # of the section chunks

Section = Callable[[Shape, str, Path], Iterator[str]]  # shape, device, a folder with its model → lines


def ceiling(shape: Shape, device: str, model: Path) -> Iterator[str]:
    """What the device can do at most: a product of square bfloat16 matrices, and a copy."""
    matrix = torch.randn(shape.product, shape.product, device=device, dtype=torch.bfloat16)
    product = measured(lambda: matrix @ matrix, device, 10)
    yield f"- matrix product, {shape.product} wide: {2 * shape.product**3 / product.seconds / 1e12:,.3g} TFLOP/s"
    copy = measured(matrix.clone, device, 10)
    yield f"- copy: {2 * matrix.nbytes / copy.seconds / 1e12:,.2g} TB/s"


def carry(shape: Shape, device: str, model: Path) -> Iterator[str]:
    """The embedded default twice on the device, for its bits, and once on the CPU, for its numbers."""
    updates = 40 if device != "cpu" else 4
    fewer = [] if device != "cpu" else ["rollout.prompts_per_step=8", "rollout.group_size=2", "eval.samples=1"]
    rows, hashes = {}, {}
    for name, where in {"first": device, "second": device, "CPU": "cpu"}.items():
        with tempfile.TemporaryDirectory() as folder:
            rows[name], hashes[name] = shapes.ran(
                f"runs_dir={folder}", "tracking=none", f"device={where}", f"updates={updates}", f"eval.every={updates}",
                "eval.greedy=false", *fewer,
            )  # fmt: skip
    seconds = sorted(row["time/update_s"] for row in rows["second"])[updates // 2]
    same = "the same" if hashes["first"] == hashes["second"] else "**not the same**"
    yield f"- final weights of two runs of {updates} updates: {same} bits; {1000 * seconds:.0f} ms an update"
    for name in ("reward", "loss", "grad_norm"):
        first = rows["first"][0][name], rows["CPU"][0][name]
        yield f"- `{name}` of the first update: {first[0]:.7g}, on the CPU {first[1]:.7g}"


def head(shape: Shape, device: str, model: Path) -> Iterator[str]:
    """The output head, forward and backward, with log-prob and entropy, and what it costs in accuracy."""
    torch.manual_seed(0)
    count = shape.product
    weight = nn.Linear(shape.width, shape.vocabulary, bias=False).to(device)
    hidden = torch.randn(count, shape.width, device=device)
    targets = torch.randint(shape.vocabulary, (count,), device=device)

    def ours() -> None:
        with torch.autocast(device, torch.bfloat16):
            logp = head_scores(hidden.clone().requires_grad_(), weight, targets, 1.0).logp
        logp.sum().backward()
        weight.weight.grad = None  # so that it is above the inputs in every call

    yield f"{count:,} tokens, {shape.width} wide, vocabulary {shape.vocabulary:,}, bfloat16.\n"
    yield "| head | forward and backward | memory above the inputs |\n|---|---|---|"
    yield _head_row("ours, log-prob and entropy", measured(ours, device))
    with shapes.plain_head():
        yield _head_row("`log_softmax` and `gather`", measured(ours, device))
    yield from _cut_cross_entropy(hidden, weight, targets, device)
    logp = [_scores(hidden[:256], weight, targets[:256], device, dtype) for dtype in (torch.bfloat16, torch.float64)]
    yield f"\nLog-probs of 256 tokens: {(logp[0] - logp[1]).abs().mean():.2g} nats from float64 on average."


def _head_row(name: str, found: Measured) -> str:
    return f"| {name} | {1000 * found.seconds:.1f} ms | {found.above} |"


def _scores(hidden: Tensor, weight: nn.Linear, targets: Tensor, device: str, dtype: torch.dtype) -> Tensor:
    """Log-probs [n] computed in a type."""
    if dtype == torch.float64:
        logits = hidden.double() @ weight.weight.double().T
        return torch.log_softmax(logits, -1).gather(-1, targets[:, None])[:, 0].detach()
    with torch.no_grad(), torch.autocast(device, dtype):
        return head_scores(hidden, weight, targets, 1.0).logp.double()


def _cut_cross_entropy(hidden: Tensor, weight: nn.Linear, targets: Tensor, device: str) -> Iterator[str]:
    try:
        from cut_cross_entropy import linear_cross_entropy
    except ImportError:
        yield "| cut-cross-entropy | not installed | |"
        return
    states, matrix = hidden.bfloat16(), weight.weight.detach().bfloat16().requires_grad_()

    def theirs() -> None:
        linear_cross_entropy(states.clone().requires_grad_(), matrix, targets).backward()
        matrix.grad = None

    yield _head_row("cut-cross-entropy, no entropy", measured(theirs, device))


def learner(shape: Shape, device: str, model: Path) -> Iterator[str]:
    """An update: its time, the arithmetic of its model, its memory, and what was predicted of it."""
    batch = shapes.graded(shape)
    tokens = shapes.tokens(batch)
    yield (
        f"{shape.prompts * shape.group} responses of {shape.shortest} to {shape.longest} tokens, prompts of "
        f"{shape.prompt}: {tokens:,} tokens, micro-batches of {shape.budget:,}. TFLOP/s: 6 operations a token and "
        "number of the model's matrices.\n"
    )
    yield "| update | seconds | TFLOP/s | memory in use | predicted |\n|---|---|---|---|---|"
    for method, checkpointing, budget in (
        ("grpo", True, shape.budget),
        ("m2po", True, shape.budget),
        ("grpo", False, shape.budget // 2),
    ):
        work = replace(shape, budget=budget)
        made = shapes.learner(shapes.loaded(model, device, checkpointing=checkpointing), work, method)
        found = measured(partial(_step, made, batch), device)
        rate = 6 * shape.products * tokens / found.seconds / 1e12
        name = f"{method}{', checkpointing' if checkpointing else f', micro-batches of {budget:,}'}"
        memory = f"{found.in_use} | {predicted(work, model, checkpointing)}"
        yield f"| {name} | {found.seconds:.2f} | {rate:,.3g} | {memory} |"
        del made
        if device != "cpu":
            torch.cuda.empty_cache()


def _step(made: Learner, batch: GradedRollouts) -> None:
    for _ in made.step(batch):
        pass


def predicted(shape: Shape, model: Path, checkpointing: bool) -> str:
    """What the model of memory says of the learner."""
    sequences = sequence_batch(shapes.graded(shape).rollouts, "cpu")
    _, largest = max(micro_batches(sequences, shape.budget), key=lambda part: part[1].padded_tokens)
    micro = footprint.MicroBatch(*largest.prompt_ids.shape, *largest.response_ids.shape)
    size = footprint.shape_of(AutoConfig.from_pretrained(model))
    assert size is not None
    return f"{footprint.learner(size, micro, 2, checkpointing=checkpointing).total / shapes.GIB:.1f} GiB"


def engines(shape: Shape, device: str, model: Path) -> Iterator[str]:
    """Tokens a second of 256 sequences by this project's engine and by `generate`."""
    prompts = min(256 // shape.group, shape.step)
    config = shapes.config(shape, device, model, "rollout=torch")
    engine = TorchEngine(config, shapes.loaded(model, device))
    work = shapes.request(shape, prompts, min(shape.limit, 256))
    sampled = prompts * shape.group * work.max_new_tokens
    ours = measured(lambda: engine.sample(work), device, 1)
    theirs = measured(lambda: _generate(engine, work, device), device, 1)
    yield f"{prompts * shape.group} sequences of {work.max_new_tokens} tokens.\n"
    yield "| engine | tokens/s |\n|---|---|"
    yield f"| rollout=torch | {sampled / ours.seconds:,.0f} |"
    yield f"| transformers' `generate` | {sampled / theirs.seconds:,.0f} |"


@torch.no_grad()
def _generate(engine: TorchEngine, work: Any, device: str) -> None:
    prompts = torch.tensor(work.prompts, device=device).repeat_interleave(work.samples, 0)
    with torch.autocast(device, torch.bfloat16):
        module: Any = engine.trainer.module
        module.generate(
            prompts, max_new_tokens=work.max_new_tokens, min_new_tokens=work.max_new_tokens, do_sample=True, top_k=0,
            attention_mask=torch.ones_like(prompts),
        )  # fmt: skip


def vllm(shape: Shape, device: str, model: Path) -> Iterator[str]:
    """Tokens a second of vLLM with and without its log-probs, and how long new weights take."""
    # Imported late: vLLM need not be installed, and this section says so then.
    from harness.rollout.vllm_engine import VllmEngine, check_installed

    check_installed()
    prompts = max(min(1024 // shape.group, shape.step), 1)
    config = shapes.config(shape, device, model, "rollout=vllm", "rollout.vllm.gpu_memory_utilization=0.4")
    trainer = shapes.loaded(model, device)
    engine = VllmEngine(config, trainer)
    work = shapes.request(shape, prompts, min(shape.limit, 256))
    yield f"{prompts * shape.group} sequences of up to {work.max_new_tokens} tokens.\n"
    yield "| vLLM | tokens/s |\n|---|---|"
    for name, used in (("with log-probs", True), ("without", False)):
        asked = replace(work, logprobs=used)
        found = measured(partial(engine.sample, asked), device, 1)
        count = len(engine.sample(asked).response_ids)
        yield f"| {name} | {count / found.seconds:,.0f} |"
    weights = trainer.module.state_dict()
    loading = measured(lambda: engine.load(1, weights), device)
    yield f"\nNew weights, with cache and probe: {1000 * loading.seconds:.0f} ms."
    engine.close()


def chunks(shape: Shape, device: str, model: Path) -> Iterator[str]:
    """vLLM with one, two and four chunks in flight; responses end at random, so their lengths have a long tail."""
    # Imported late: vLLM need not be installed, and this section says so then.
    from harness.rollout.vllm_engine import VllmEngine, check_installed

    check_installed()
    # In all 8 chunks of 256 responses; on a CPU of 16.
    work = replace(shape, group=8, step=16 if device == "cpu" else 256, limit=max(shape.limit, 256))
    config = shapes.config(
        work, device, model, "rollout=vllm", "driver=overlapped", f"rollout.chunks={CHUNKS}",
        f"rollout.vllm.chunks_in_flight={max(IN_FLIGHT)}", "rollout.behaviour=engine", "rollout.vllm.probe_sequences=0",
        "rollout.vllm.gpu_memory_utilization=0.4",
    )  # fmt: skip
    engine = VllmEngine(config, shapes.loaded(model, device))
    # A random model samples nearly evenly, so the mean of the lengths is about a quarter of the longest.
    engine.end_tokens = tuple(range(shape.vocabulary * 4 // work.limit))
    requests = list(batched(shapes.request(work, work.step, work.limit), work.step // CHUNKS))
    lengths = [rollouts.response_lengths.double() for rollouts in _served(engine, requests, 1)[0]]
    tokens = sum(int(length.sum()) for length in lengths)
    filled = sum(length.mean().item() / length.max().item() for length in lengths) / CHUNKS
    yield (
        f"{CHUNKS} chunks of {len(lengths[0])} responses of {tokens / CHUNKS / len(lengths[0]):.0f} tokens on average; "
        f"the mean of a chunk is {filled:.2f} of its longest.\n"
    )
    yield "| chunks in flight | vLLM's steps | seconds | tokens/s |\n|---|---|---|---|"
    for at_once in IN_FLIGHT:
        steps = _served(engine, requests, at_once)[1]
        seconds = measured(partial(_served, engine, requests, at_once), device).seconds
        yield f"| {at_once} | {steps:,} | {seconds:.2f} | {tokens / seconds:,.0f} |"
    engine.close()


def _served(engine: Any, requests: list[Request], at_once: int) -> tuple[list[Rollouts], int]:
    """The chunks in the order in which they are done, and the steps that they took."""
    waiting, running, steps = list(enumerate(requests)), 0, 0
    done: list[Rollouts] = []
    while waiting or running:
        while waiting and running < at_once:
            engine.submit(*waiting.pop(0))
            running += 1
        ended, steps = engine.poll(), steps + 1
        running -= len(ended)
        done += ended.values()
    return done, steps


def recipe(shape: Shape, device: str, model: Path) -> Iterator[str]:
    """`experiment=gsm8k_m2po` as it stands, with random weights and a small file: seconds of a step, and the peak."""
    yield from _steps(shape, device, model)


def step(shape: Shape, device: str, model: Path) -> Iterator[str]:
    """`experiment=gsm8k_m2po` with as many tokens as the section *trl* samples."""
    yield from _steps(replace(shape, limit=min(shape.limit, PEER_TOKENS)), device, model)


def _steps(shape: Shape, device: str, model: Path) -> Iterator[str]:
    """Two steps of the recipe: what the second took, in all and in parts."""
    tiny = _tiny(shape, device) if shape.name == "tiny" else [f"rollout.max_new_tokens={shape.limit}"]
    with tempfile.TemporaryDirectory() as folder:
        files = shapes.problems(Path(folder), 2 * shape.step)
        rows, _ = shapes.ran(
            "experiment=gsm8k_m2po", f"model.path={model}", "model.template=plain", "updates=2", "eval.every=2",
            "checkpoint_every=2", "eval.greedy=false", "tracking=none", f"runs_dir={folder}/runs", *files, *tiny,
        )  # fmt: skip
    yield f"{shape.step} × 4 responses of up to {shape.limit} tokens; the second step.\n"
    yield "| step | sampling | scoring | learner | publication | memory in use |\n|---|---|---|---|---|---|"
    whole = rows[-1]["time/elapsed_s"] - rows[-2]["time/elapsed_s"]
    times = [whole, *(rows[-1][f"time/{name}_s"] for name in ("generation", "scoring", "update", "publication"))]
    peak = "–" if device == "cpu" else f"{torch.cuda.max_memory_allocated() / shapes.GIB:.1f} GiB"
    yield "| " + " | ".join(f"{seconds:.2f} s" for seconds in times) + f" | {peak} |"


def _tiny(shape: Shape, device: str) -> list[str]:
    return [
        f"device={device}", "rollout=torch", f"rollout.prompts_per_step={shape.step}",
        f"rollout.max_new_tokens={shape.limit}", "rollout.max_prompt_tokens=64",
        f"learner.micro_batch_tokens={shape.budget}",
    ]  # fmt: skip


def determinism(shape: Shape, device: str, model: Path) -> Iterator[str]:
    """Two equal updates: their bits, and what `deterministic=true` costs."""
    batch = shapes.graded(shape)
    yield "| deterministic | the same bits twice | seconds an update |\n|---|---|---|"
    for switch in (False, True):
        gradients, seconds = [], []
        for _ in range(2):
            made = shapes.learner(shapes.loaded(model, device, checkpointing=True), shape, deterministic=switch)
            found = measured(partial(_step, made, batch), device, 1)
            seconds.append(found.seconds)
            gradients.append([p.grad.cpu() for p in made.policy.model.parameters() if p.grad is not None])
            del made
        same = bool(gradients[0]) and all(torch.equal(*pair) for pair in zip(*gradients, strict=True))
        yield f"| {str(switch).lower()} | {'yes' if same else 'no'} | {min(seconds):.2f} |"


def trl(shape: Shape, device: str, model: Path) -> Iterator[str]:
    """TRL's GRPOTrainer on a step of as many responses, with Liger and vLLM where they are installed."""
    command = [
        sys.executable, "-m", "benchmarks.gpu_trl", "--model", str(model), "--responses", str(shape.step * 4),
        "--tokens", str(min(shape.limit, PEER_TOKENS)), "--budget", str(shape.budget),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, env={**os.environ}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    yield done.stdout.strip().splitlines()[-1]


SECTIONS: dict[str, Section] = {
    "ceiling": ceiling,
    "carry": carry,
    "head": head,
    "learner": learner,
    "engines": engines,
    "vllm": vllm,
    "chunks": chunks,
    "recipe": recipe,
    "step": step,
    "determinism": determinism,
    "trl": trl,
}
