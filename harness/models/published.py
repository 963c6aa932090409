"""The shapes of models that the experiments name, for a plan on a machine that has not fetched them."""

from __future__ import annotations

from harness.models.checks import resolve_path
from harness.models.declared import architecture_at_hand
from harness.models.footprint import Shape, shape_of

_QWEN2_7B = Shape(28, 3584, 18944, 28, 4, 128, 152064, tied=False, qkv_bias=True)

PUBLISHED = {
    "Qwen/Qwen2.5-1.5B-Instruct": Shape(28, 1536, 8960, 12, 2, 128, 151936, tied=True, qkv_bias=True),
    "Qwen/Qwen2.5-7B-Instruct": _QWEN2_7B,
    "Qwen/Qwen2.5-Math-7B": _QWEN2_7B,
    "Qwen/Qwen2.5-32B": Shape(64, 5120, 27648, 40, 8, 128, 152064, tied=False, qkv_bias=True),
    "Qwen/Qwen3-1.7B-Base": Shape(28, 2048, 6144, 16, 8, 128, 151936, tied=True, qk_norm=True),
    "Qwen/Qwen3-4B-Base": Shape(36, 2560, 9728, 32, 8, 128, 151936, tied=True, qk_norm=True),
    "Qwen/Qwen3-8B-Base": Shape(36, 4096, 12288, 32, 8, 128, 151936, tied=False, qk_norm=True),
    "meta-llama/Llama-3.2-3B-Instruct": Shape(28, 3072, 8192, 24, 8, 128, 128256, tied=True),
}  # from their config.json


def shape_at_hand(path: str) -> Shape | None:
    """The shape of a model, without asking the hub; None where neither its config is at hand nor its name known.

    path: as `model.path`.
    """
    return shape_of(architecture_at_hand(resolve_path(path))) or PUBLISHED.get(path)
