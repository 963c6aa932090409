"""The memory model against real models: parameters, what autograd keeps, and peaks that a GPU had."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel, Qwen2Config, Qwen3Config

from harness.models import footprint, logprobs
from harness.models.decoder import SharedPrefixPolicy
from harness.models.footprint import MicroBatch, Shape
from harness.models.logprobs import head_scores
from harness.models.policy import ComputePolicy
from harness.models.sequences import SequenceBatch
from tests.models.test_memory_of_batches import Peak

GIB = 2**30
QWEN_1_5B = Shape(28, 1536, 8960, 12, 2, 128, 151936, tied=True, qkv_bias=True)
CONFIGS: dict[str, Any] = {"llama": LlamaConfig, "qwen2": Qwen2Config, "qwen3": Qwen3Config}


def config(family: str, **sizes: Any) -> Any:
    small = {
        "hidden_size": 96,
        "intermediate_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "vocab_size": 500,
    }
    return CONFIGS[family](**{**small, **sizes})


def module(architecture: Any) -> PreTrainedModel:
    made: PreTrainedModel = AutoModelForCausalLM.from_config(
        architecture, dtype=torch.float32, attn_implementation="sdpa"
    ).eval()
    return made


def shape(architecture: Any) -> Shape:
    found = footprint.shape_of(architecture)
    assert found is not None
    return found


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("tied", [True, False])
def test_parameters_are_counted_exactly(family: str, tied: bool) -> None:
    for sizes in ({}, {"head_dim": 24, "num_hidden_layers": 2}):
        architecture = config(family, tie_word_embeddings=tied, **sizes)
        with torch.device("meta"):
            made = module(architecture)
        assert footprint.parameters(shape(architecture)) == made.num_parameters()


def test_the_models_of_the_papers_have_the_parameters_that_are_published() -> None:
    assert footprint.parameters(QWEN_1_5B) == 1_543_714_304
    assert footprint.parameters(Shape(28, 3584, 18944, 28, 4, 128, 152064, False, qkv_bias=True)) == 7_615_616_512
    assert footprint.parameters(Shape(36, 4096, 12288, 32, 8, 128, 151936, False, qk_norm=True)) == 8_190_735_360


def batch(sizes: MicroBatch, vocabulary: int) -> SequenceBatch:
    prompts = torch.randint(vocabulary, (sizes.prompts, sizes.prompt_tokens))
    group = torch.arange(sizes.responses) * sizes.prompts // sizes.responses
    responses = torch.randint(vocabulary, (sizes.responses, sizes.response_tokens))
    lengths = torch.full((sizes.prompts,), sizes.prompt_tokens)
    return SequenceBatch(prompts, lengths, group, responses, torch.ones(responses.shape, dtype=torch.bool))


def kept_bytes(made: PreTrainedModel, sizes: MicroBatch, dtype: torch.dtype) -> int:
    """Bytes that autograd keeps of one forward pass, each storage once, without weights and their copies."""
    weights = {tuple(p.shape) for p in made.parameters()} | {tuple(p.shape)[::-1] for p in made.parameters()}
    storages: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tuple(tensor.shape) not in weights:
            storages[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        ComputePolicy(SharedPrefixPolicy(made), dtype).score(batch(sizes, made.config.vocab_size), 1.0)
    return sum(tensor.untyped_storage().nbytes() for tensor in storages.values())


MICRO_BATCHES = [MicroBatch(3, 40, 12, 60), MicroBatch(8, 100, 8, 30), MicroBatch(1, 20, 16, 90)]


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sizes", MICRO_BATCHES)
def test_activations_are_what_autograd_keeps(family: str, dtype: torch.dtype, sizes: MicroBatch) -> None:
    architecture = config(family)
    logits = 4 * sizes.scored * architecture.vocab_size
    kept = kept_bytes(module(architecture), sizes, dtype) - logits
    said = footprint.activation_bytes(shape(architecture), sizes, dtype.itemsize, checkpointing=False, on_cpu=True)
    assert said == pytest.approx(kept, rel=0.03)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_checkpointing_keeps_the_inputs_of_the_layers(dtype: torch.dtype) -> None:
    architecture, sizes = config("qwen2"), MICRO_BATCHES[0]
    made = module(architecture)
    made.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    kept = kept_bytes(made, sizes, dtype) - 4 * sizes.scored * architecture.vocab_size
    one = shape(architecture)
    said = footprint.activation_bytes(one, sizes, dtype.itemsize, checkpointing=True, on_cpu=True)
    said -= footprint.layer_bytes(one, sizes, dtype.itemsize, on_cpu=True)  # comes later, in the backward pass
    assert said - 4 * sizes.mask_elements == pytest.approx(kept, rel=0.15)  # the mask is kept by the closure


@pytest.mark.parametrize("tokens, vocabulary", [(512, 2000), (600, 120_000)])
def test_the_head_takes_what_is_said_at_its_peak(tokens: int, vocabulary: int) -> None:
    """Few logits, and logits in chunks, counted by torch's own profiler of allocations."""
    hidden = torch.randn(tokens, 64, requires_grad=True)
    head = torch.nn.Linear(64, vocabulary, bias=False)
    head.weight.grad = torch.zeros_like(head.weight)
    with torch.profiler.profile(profile_memory=True) as profile:
        head_scores(hidden, head, torch.zeros(tokens, dtype=torch.long), 1.0).logp.sum().backward()
    now = peak = 0
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            now += event.nbytes()
            peak = max(peak, now)
    one = Shape(1, 64, 1, 1, 1, 64, vocabulary, tied=True)
    assert footprint.head_bytes(one, tokens, 4, on_cpu=True) == pytest.approx(peak, rel=0.25)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_way_of_computing_the_head_takes_more(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plain functions with an entropy bonus, in chunks as on a GPU."""
    tokens, width, vocabulary, rows = 256, 16, 4000, 32
    for room in (logprobs, footprint):
        monkeypatch.setattr(room, "CHUNK_ELEMENTS", rows * vocabulary)
    with Peak() as peak:
        head = torch.nn.Linear(width, vocabulary, bias=False)
        hidden = torch.zeros(tokens, width, requires_grad=True)
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            scores = head_scores(hidden, head, torch.zeros(tokens, dtype=torch.long), 1.0, entropy_gradient=True)
        (scores.logp.sum() + scores.entropy.sum()).backward()
    one = Shape(1, width, 1, 1, 1, 1, vocabulary, tied=True)
    weights = footprint.cast_bytes(vocabulary * width, dtype.itemsize) + head.weight.nbytes
    said = footprint.head_bytes(one, tokens, dtype.itemsize, on_cpu=True) + weights
    assert said == pytest.approx(peak.bytes, rel=0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_torch_engines_cache_has_the_type_of_the_computation(dtype: torch.dtype) -> None:
    architecture = config("qwen2")
    policy = ComputePolicy(SharedPrefixPolicy(module(architecture)), dtype)
    prompts, group = torch.ones(2, 7, dtype=torch.long), torch.tensor([0, 0, 0, 1, 1, 1])
    with torch.no_grad():
        cache, _ = policy.start(prompts, torch.tensor([7, 7]), group, 5)
    parts = (cache.prompt_keys, cache.prompt_values, cache.keys, cache.values)
    kept = sum(tensor.nbytes for part in parts for tensor in part)
    assert kept == footprint.cache_token_bytes(shape(architecture), dtype.itemsize) * (2 * 7 + 6 * 5)
    one, more = (footprint.decoding_bytes(shape(architecture), 2, 7, 6, n, dtype.itemsize) for n in (5, 6))
    assert more - one == footprint.cache_token_bytes(shape(architecture), dtype.itemsize) * 6


# Measured on an H200 with release 0.1.0, which kept three copies more of a layer's input (4 GiB without checkpointing):
# 1.5 B parameters, 128 responses of 256 to 1,024 tokens after 200 of prompt, bfloat16.
@pytest.mark.parametrize("checkpointing, sizes, measured", [
    (True, MicroBatch(4, 200, 31, 1024), 40),
    (False, MicroBatch(2, 200, 15, 1024), 76),
])  # fmt: skip
def test_the_learners_peak_is_the_measured_one(checkpointing: bool, sizes: MicroBatch, measured: float) -> None:
    said = footprint.learner(QWEN_1_5B, sizes, 2, checkpointing=checkpointing)
    assert said.total / GIB == pytest.approx(measured, rel=0.15)


def test_the_head_alone_takes_the_measured_memory() -> None:
    """8,192 tokens in chunks of 2,048 with fused kernels, its weights and its input in bfloat16, on an H200."""
    copies = 2 * footprint.embedding_parameters(QWEN_1_5B) + 2 * 2 * 8192 * QWEN_1_5B.hidden
    assert (footprint.head_bytes(QWEN_1_5B, 8192, 2) + copies) / GIB == pytest.approx(3.1, rel=0.15)


def test_ranks_divide_what_lies_in_slices_and_nothing_else() -> None:
    sizes = MicroBatch(4, 200, 31, 1024)
    one, four = (footprint.learner(QWEN_1_5B, sizes, 2, checkpointing=True, ranks=ranks) for ranks in (1, 4))
    assert four.master * 4 == one.master and four.activations == one.activations
    assert four.gathered > one.gathered == 0 and four.total < one.total
