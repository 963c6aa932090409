"""How many bytes a model takes while it learns and while it samples: a small function for each term.

Counted for the policy of decoder.py, in the order in which a layer is computed; tests compare the parameters with real
models and the activations with what autograd really keeps. Bytes are of one device. `compute` is the size of a number
in the type of computation: 4 for float32, 2 for bfloat16, where the master weights stay float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from harness.models.head_rows import UNFUSED_ROWS
from harness.models.logprobs import CHUNK_ELEMENTS

FLOAT = 4


@dataclass(frozen=True)
class Shape:
    """The sizes of a Llama, Qwen2 or Qwen3 model.

    layers, hidden, intermediate, heads, kv_heads, head_dim, vocabulary: as in its config.json.
    tied: the head is the embedding.
    qkv_bias: the projections to queries, keys and values have a bias (Qwen2).
    qk_norm: queries and keys are normalised (Qwen3).
    """

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool
    qkv_bias: bool = False
    qk_norm: bool = False

    @property
    def queries(self) -> int:
        """Width of the queries of a token."""
        return self.heads * self.head_dim

    @property
    def keys(self) -> int:
        """Width of the keys of a token, and of its values."""
        return self.kv_heads * self.head_dim


def shape_of(config: Any) -> Shape | None:
    """The shape in a config of transformers; None for one that does not have these sizes."""
    text = config.get_text_config()
    try:
        heads = text.num_attention_heads
        return Shape(
            layers=text.num_hidden_layers,
            hidden=text.hidden_size,
            intermediate=text.intermediate_size,
            heads=heads,
            kv_heads=getattr(text, "num_key_value_heads", None) or heads,
            head_dim=getattr(text, "head_dim", None) or text.hidden_size // heads,
            vocabulary=text.vocab_size,
            tied=bool(text.tie_word_embeddings),
            qkv_bias=text.model_type == "qwen2",
            qk_norm=text.model_type == "qwen3",
        )
    except AttributeError:
        return None


@dataclass(frozen=True)
class MicroBatch:
    """Padded sizes of what one forward pass computes: G prompts of P tokens, B responses of T."""

    prompts: int
    prompt_tokens: int
    responses: int
    response_tokens: int

    @property
    def tokens(self) -> int:
        """Rows of the layers: G·P + B·(T − 1); the last token of a response is never an input."""
        return self.prompts * self.prompt_tokens + self.responses * (self.response_tokens - 1)

    @property
    def scored(self) -> int:
        """Rows of the head: B·T."""
        return self.responses * self.response_tokens

    @property
    def visible(self) -> int:
        """Keys of all responses: B·(P + T − 1); each has those of its prompt beside its own."""
        return self.responses * (self.prompt_tokens + self.response_tokens - 1)

    @property
    def mask_elements(self) -> int:
        """Numbers of the mask: B·(T − 1)·(P + T − 1)."""
        return (self.response_tokens - 1) * self.visible


# Weights -------------------------------------------------------------------------------------------------


def embedding_parameters(shape: Shape) -> int:
    """V·H: of the embedding, and of the head."""
    return shape.vocabulary * shape.hidden


def layer_parameters(shape: Shape) -> int:
    """2·H·(A + K) of attention, 3·H·I of the MLP, 2·H of the norms; A + 2·K of biases, 2·D of the heads' norms."""
    attention = 2 * shape.hidden * shape.queries + 2 * shape.hidden * shape.keys
    bias = shape.qkv_bias * (shape.queries + 2 * shape.keys)
    norms = 2 * shape.hidden + shape.qk_norm * 2 * shape.head_dim
    return attention + bias + 3 * shape.hidden * shape.intermediate + norms


def parameters(shape: Shape) -> int:
    """Embedding, head unless tied, layers and the last norm."""
    ends = (1 if shape.tied else 2) * embedding_parameters(shape)
    return ends + shape.layers * layer_parameters(shape) + shape.hidden


def master_bytes(parameters: float, ranks: int = 1) -> float:
    """16·N / W: float32 weight, gradient and AdamW's two moments, in slices of W ranks."""
    return 4 * FLOAT * parameters / ranks


def cast_bytes(parameters: float, compute: int) -> float:
    """2·N: the weights in bfloat16, which autograd keeps until the backward pass, whole on every rank."""
    return compute * parameters if compute < FLOAT else 0.0


def gathered_bytes(shape: Shape, ranks: int) -> float:
    """4·(3·(embedding, head) + 2·layer): what a rank holds whole where weights lie in slices.

    Embedding and head with their gradient and what the other ranks send of it, and the layer under way and the next.
    """
    if ranks == 1:
        return 0.0
    ends = (1 if shape.tied else 2) * embedding_parameters(shape) + shape.hidden
    return FLOAT * (3 * ends + 2 * layer_parameters(shape))


# Activations ---------------------------------------------------------------------------------------------


def layer_bytes(shape: Shape, batch: MicroBatch, compute: int, *, on_cpu: bool = False) -> float:
    """What autograd keeps of one layer.

    n = rows, H hidden, A queries, K keys, I intermediate, s = compute:
    the norms' inputs 2·4·n·H; the inputs of the products 2·s·n·H; queries, keys, values s·(A + 2·K)·n, keys and values
    repeated for the responses of a prompt s·2·K·B·(P + T − 1); attention's output twice 2·s·n·A; the MLP's four
    4·s·n·I.

    on_cpu: there the norms keep the normalised values too, and attention in bfloat16 its copy of the mask.
    """
    rows, narrow, norm = batch.tokens, compute < FLOAT, FLOAT * (2 if on_cpu else 1)
    norms = 2 * norm * rows * shape.hidden
    heads_norms = shape.qk_norm * norm * rows * (shape.queries + shape.keys)
    inputs = 2 * compute * rows * shape.hidden
    attention = compute * (rows * (3 * shape.queries + 2 * shape.keys) + 2 * shape.keys * batch.visible)
    mask = compute * batch.mask_elements * (narrow and on_cpu)
    return norms + heads_norms + inputs + attention + mask + 4 * compute * rows * shape.intermediate


def ends_bytes(shape: Shape, batch: MicroBatch, compute: int, *, on_cpu: bool = False) -> float:
    """Kept beside the layers: the last norm's 4·n·H, the head's input s·B·T·H, rotary tables 8·n·D, a mask if any."""
    norm = FLOAT * batch.tokens * shape.hidden * (2 if on_cpu else 1)
    rotary, masked = 2 * FLOAT * batch.tokens * shape.head_dim, on_cpu or compute == FLOAT
    mask = FLOAT * batch.mask_elements * masked
    return norm + compute * batch.scored * shape.hidden + rotary + mask


def activation_bytes(
    shape: Shape, batch: MicroBatch, compute: int, *, checkpointing: bool, on_cpu: bool = False
) -> float:
    """What autograd keeps of a micro-batch, the head's logits aside.

    Every layer; with checkpointing every layer's input 4·n·H, and one layer whole, which is computed again.
    """
    layer = layer_bytes(shape, batch, compute, on_cpu=on_cpu)
    ends = ends_bytes(shape, batch, compute, on_cpu=on_cpu)
    if checkpointing:
        return shape.layers * FLOAT * batch.tokens * shape.hidden + layer + ends
    return shape.layers * layer + ends


def backward_bytes(shape: Shape, batch: MicroBatch, compute: int) -> float:
    """Gradients of one layer under way: 2·s·n·I of the MLP, 2·4·n·H of its input and output."""
    return batch.tokens * (2 * compute * shape.intermediate + 2 * FLOAT * shape.hidden)


def head_bytes(shape: Shape, tokens: int, compute: int, *, on_cpu: bool = False) -> float:
    """At the peak of the head's backward pass.

    Few logits: four float32 copies, 16·n·V. Else the head's gradient 4·V·H, and of a chunk of rows its logits and three
    float32 copies, (12 + s)·rows·V (float32 on a CPU: 12), which the plain functions take with an entropy bonus, others
    less. Or, of a very wide model, a chunk's share of the gradient in the type of computation: s·V·H, and 2·s·rows·V.
    """
    if tokens * shape.vocabulary <= CHUNK_ELEMENTS:
        return 4 * FLOAT * tokens * shape.vocabulary
    chunk = CHUNK_ELEMENTS if on_cpu else UNFUSED_ROWS * shape.vocabulary
    share = compute * (embedding_parameters(shape) + 2 * chunk) if compute < FLOAT else 0
    copies = 3 * FLOAT + (0 if on_cpu and compute == FLOAT else compute)
    return FLOAT * embedding_parameters(shape) + max(copies * chunk, share)


@dataclass(frozen=True)
class Learner:
    """Bytes of a rank at its peak, by what they are for."""

    master: float
    casts: float
    gathered: float
    activations: float
    head: float

    @property
    def total(self) -> float:
        return self.master + self.casts + self.gathered + self.activations + self.head


def learner(
    shape: Shape, batch: MicroBatch, compute: int, *, checkpointing: bool, ranks: int = 1, on_cpu: bool = False
) -> Learner:
    """A rank in the middle of the backward pass.

    batch: the largest micro-batch.
    """
    kept = activation_bytes(shape, batch, compute, checkpointing=checkpointing, on_cpu=on_cpu)
    return Learner(
        master=master_bytes(parameters(shape), ranks),
        casts=cast_bytes(parameters(shape), compute),
        gathered=gathered_bytes(shape, ranks),
        activations=kept + backward_bytes(shape, batch, compute),
        head=head_bytes(shape, batch.scored, compute, on_cpu=on_cpu),
    )


# Sampling ------------------------------------------------------------------------------------------------


def cache_token_bytes(shape: Shape, compute: int) -> float:
    """2·layers·K·s: keys and values of one token of one sequence."""
    return 2 * shape.layers * shape.keys * compute


def engine_weight_bytes(parameters: float, compute: int, tensor_parallel: int = 1) -> float:
    """s·N / tp: the weights that an engine of tp devices samples with."""
    return compute * parameters / tensor_parallel


def replica_bytes(parameters: float) -> float:
    """4·N: the trainer's model beside an engine, in float32, which scores what was sampled."""
    return FLOAT * parameters


def decoding_bytes(
    shape: Shape, prompts: int, prompt_tokens: int, responses: int, response_tokens: int, compute: int
) -> float:
    """The torch engine: a cache of G·P + B·T tokens, 24·B·V of logits, probabilities and their sum, weights as cast."""
    cache = cache_token_bytes(shape, compute) * (prompts * prompt_tokens + responses * response_tokens)
    return cache + 6 * FLOAT * responses * shape.vocabulary + cast_bytes(parameters(shape), compute)
