"""Families of the hub as tiny folders: scores, padded and in groups, are those of plain forwards of one sequence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness import randomness
from harness.errors import UserError
from harness.groups import ModelConfig
from harness.models.checks import check_model
from harness.models.loading import load_model
from harness.models.sequences import SequenceBatch
from harness.rollout.base import scored
from harness.rollout.torch_engine import pad_prompts, sampled
from harness.types import Request
from tests.tiny import make_any

GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256, "n_inner": 48}
LATENT = {"kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
TEXT = {
    "vocab_size": 448, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "sliding_window": 8, "max_position_embeddings": 256, "pad_token_id": 0,
}  # fmt: skip
EYE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}

# Family → what its config needs beside or in place of the usual sizes.
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {"head_dim": None},
    "qwen3": {},
    "mistral": {"sliding_window": 8},
    "mixtral": {"num_local_experts": 4},
    "qwen2_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    "gemma": {},
    "gemma2": {"sliding_window": 8},
    "gemma3_text": {"sliding_window": 8},
    "gemma3": {
        "text_config": TEXT, "mm_tokens_per_image": 4, "vision_config": {**EYE, "image_size": 28, "patch_size": 14},
    },
    "phi": {"head_dim": None},
    "phi3": {"head_dim": None},
    "gpt2": GPT,
    "gpt_neox": {"head_dim": None},
    "gpt_bigcode": GPT,
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "olmo": {},
    "olmo2": {},
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 2},
    "granite": {},
    "cohere": {"head_dim": None},
    "cohere2": {"sliding_window": 8},
    "glm": {},
    "glm4": {},
    "nemotron": {},
    "exaone4": {"sliding_window": 8},
    "deepseek_v3": {**LATENT, "num_key_value_heads": 4, "n_routed_experts": 4, "n_group": 1, "topk_group": 1,
                    "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    "bloom": {"n_layer": 2, "n_head": 4, "attention": "eager"},
    "gptj": {**GPT, "rotary_dim": 4, "attention": "eager"},
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 8, "attention": "eager"},
}  # fmt: skip

PROMPTS = [[5, 6, 7, 8, 9, 10, 11], [12, 13], [14] * 20]
ANSWERS = [[3, 4, 5, 6, 7], [8, 9], [10] * 15]


def batch() -> SequenceBatch:
    prompts, lengths = pad_prompts(PROMPTS, "cpu")
    responses, widths = pad_prompts(ANSWERS, "cpu")
    mask = torch.arange(responses.shape[1]) < widths[:, None]
    return SequenceBatch(prompts, lengths, torch.arange(3), responses, mask)


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_those_of_an_unpadded_forward(tmp_path: Path, family: str) -> None:
    settings = dict(FAMILIES[family])
    attention = settings.pop("attention", "sdpa")
    folder = make_any(tmp_path / "m", family, **settings)
    config = ModelConfig(path=str(folder), attention=attention)
    assert check_model(config).model_type == family
    model = load_model(config, "cpu")
    with torch.no_grad():
        logp = model.policy.score(batch(), 0.7).logp
        for row, (prompt, answer) in enumerate(zip(PROMPTS, ANSWERS, strict=True)):
            logits = model.module(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
            expected = torch.log_softmax(logits.float() / 0.7, -1).gather(-1, torch.tensor(answer)[:, None])[:, 0]
            assert (logp[row, : len(answer)] - expected).abs().max() <= 2e-5
    keys = randomness.keys(1, "sample", np.arange(3)[:, None], np.arange(2))
    rollouts = scored(model.policy, sampled(model.policy, model.end_tokens, Request(PROMPTS, keys, 1.0, 12)), 1.0)
    assert (rollouts.logp_engine - rollouts.logp_behaviour).abs().max() <= 2e-5


LINEAR = {"linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 2}
REFUSED = {
    "mamba": ({"state_size": 8}, "a mamba model has linear_attention layers, expected attention alone"),
    "qwen3_next": (
        {
            **LINEAR,
            "layer_types": ["linear_attention", "full_attention"],
            "num_experts": 4,
            "moe_intermediate_size": 16,
        },
        "a qwen3_next model has linear_attention layers",
    ),
    "lfm2": ({"layer_types": ["conv", "full_attention"]}, "a lfm2 model has conv layers"),
    "bloom": ({"n_layer": 2, "n_head": 4}, "has no such attention; expected model.attention=eager"),
    "bert": ({}, "not a causal language model"),
    "t5": ({}, "not a causal language model"),
}


@pytest.mark.parametrize("family", REFUSED)
def test_what_cannot_be_served_is_refused_by_name(tmp_path: Path, family: str) -> None:
    settings, expected = REFUSED[family]
    with pytest.raises(UserError, match=expected):
        check_model(ModelConfig(path=str(make_any(tmp_path / "m", family, weights=False, **settings))))
