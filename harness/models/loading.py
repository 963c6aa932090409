"""A model folder or hub name → a policy and its tokenizer, checked before anything is written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging as hf_logging

from harness.config import ModelConfig
from harness.errors import UserError
from harness.models import decoder
from harness.models.policy import Policy, TransformersPolicy

hf_logging.disable_progress_bar()  # one progress line a run is ours

PROJECT = Path(__file__).resolve().parents[2]


def resolve_path(path: str) -> str:
    """A folder, looked up from where the command is typed and then from the project's root; else a hub name."""
    for base in (Path.cwd(), PROJECT):
        if (base / path).is_dir():
            return str(base / path)
    return path


def check_model(config: ModelConfig) -> None:
    """Refuses a folder that is missing or no causal LM, from its config.json alone.

    Raises UserError. A hub name (`organisation/model`, no such folder) is left to loading time.
    """
    folder = Path(resolve_path(config.path))
    if not folder.is_dir():
        looks_local = config.path.startswith((".", "/", "~")) or config.path.count("/") != 1
        if looks_local:
            raise UserError(
                f"model.path={config.path}: no such folder; "
                "expected a Hugging Face model folder (config.json, *.safetensors, tokenizer.json) or a hub name"
            )
        return
    if not (folder / "config.json").is_file():
        raise UserError(f"model.path={config.path}: no config.json in it; expected a Hugging Face model folder")
    try:
        architecture = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (ValueError, OSError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"model.path={config.path}: config.json cannot be read ({reason})") from error
    if architecture.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise UserError(
            f"model.path={config.path}: a {architecture.model_type} model is not a causal language model; "
            "give the folder of one that is"
        )
    if not list(folder.glob("*.safetensors")):
        raise UserError(
            f"model.path={config.path}: no *.safetensors in it; expected weights as safetensors "
            "(convert them with save_pretrained; pickled weights are not loaded)"
        )


@dataclass(frozen=True)
class LoadedModel:
    policy: Policy
    tokenizer: PreTrainedTokenizerBase

    @property
    def module(self) -> PreTrainedModel:
        return self.policy.model


def load_model(config: ModelConfig, device: str) -> LoadedModel:
    """Loads float32 master weights in eval mode (no dropout: behaviour and current policy must agree).

    Raises UserError naming what is missing.
    """
    path = resolve_path(config.path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        module = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=torch.float32,
            attn_implementation=config.attention,
            use_safetensors=True,
            trust_remote_code=False,
        )
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"model.path={config.path}: {reason}; without network give a local Hugging Face folder"
        ) from error
    check_tokenizer(config, module, tokenizer)
    if config.gradient_checkpointing:
        module.gradient_checkpointing_enable()
    return LoadedModel(make_policy(_on(module, device)), tokenizer)


def _on(module: PreTrainedModel, device: str) -> PreTrainedModel:
    torch.nn.Module.to(module, device)
    return module.eval()


def make_policy(module: PreTrainedModel) -> Policy:
    """The fast policy where it is exact for this family, else transformers' own forward."""
    return decoder.SharedPrefixPolicy(module) if decoder.supports(module) else TransformersPolicy(module)


def check_tokenizer(config: ModelConfig, module: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"model.path={config.path}: its tokenizer has no end-of-sequence token; "
            "set eos_token in tokenizer_config.json"
        )
    embedded = module.get_input_embeddings().weight
    assert isinstance(embedded, torch.Tensor)
    if len(tokenizer) > len(embedded):
        raise UserError(
            f"model.path={config.path}: the tokenizer has {len(tokenizer)} tokens, the model embeds "
            f"{len(embedded)}; they do not belong together"
        )
