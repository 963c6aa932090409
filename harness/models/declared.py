"""What a model's own files say of how it is computed and asked, for the keys that are left null."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig

from harness.groups import ModelConfig
from harness.models.checks import check_model, resolve_path
from harness.models.positions import positions
from harness.models.tokens import load_tokenizer


def declared(config: ModelConfig, *, dry: bool = False) -> ModelConfig:
    """The config with dtype and template as the model declares them, where they are null.

    A model in bfloat16 or float16 is computed in bfloat16; one with a chat template is asked through it.

    config: names the model.
    dry: looks only at what is at hand; a model that is not is taken to be in bfloat16, with a chat template.
    Raises UserError for a model that cannot be read.
    """
    if config.dtype and config.template:
        return config
    architecture, chat = _at_hand(resolve_path(config.path)) if dry else _checked(config)
    stored = getattr(architecture, "dtype", None) or getattr(architecture.get_text_config(), "dtype", None)
    dtype = "float32" if stored in (None, torch.float32) else "bfloat16"
    template = "chat" if chat else "plain"
    return replace(config, dtype=config.dtype or dtype, template=config.template or template)


def room_of(config: ModelConfig, *, dry: bool = False) -> int | None:
    """Half of the model's positions, which leaves a response as much as its prompt; None: as many as one likes.

    config, dry: as `declared` takes them.
    """
    architecture = _at_hand(resolve_path(config.path))[0] if dry else check_model(config)
    most = positions(architecture).most
    return None if most is None else most // 2


def architecture_at_hand(path: str) -> Any:
    """A model's configuration without asking the hub; an empty one where it is not at hand. path: folder or name."""
    return _at_hand(path)[0]


def _checked(config: ModelConfig) -> tuple[Any, bool]:
    return check_model(config), bool(load_tokenizer(config).chat_template)


@lru_cache(maxsize=32)
def _at_hand(path: str) -> tuple[Any, bool]:
    """Architecture and whether there is a chat template, without asking the hub."""
    try:
        architecture = AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError):
        return PreTrainedConfig(dtype="bfloat16"), True
    return architecture, bool(tokenizer.chat_template)
