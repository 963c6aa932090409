"""A model folder or hub name → a policy and its tokenizer, checked before anything is written."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from harness.config import Config
from harness.errors import UserError, first_line, printable
from harness.groups import ModelConfig
from harness.models import decoder
from harness.models.checks import FOLDER, INDEX, WEIGHTS, check_model, source_of
from harness.models.policy import ComputePolicy, Policy, TransformersPolicy
from harness.models.positions import positions
from harness.models.tokens import check_vocabulary, end_tokens, load_tokenizer


def longest_prompt(config: Config) -> int:
    """How many tokens a prompt may have.

    config: of the run.
    Returns rollout.max_prompt_tokens, or what rollout.max_new_tokens leaves of the model's positions.
    Raises UserError where they leave nothing.
    """
    limit = positions(check_model(config.served_model))
    most, new = config.rollout.max_prompt_tokens, config.rollout.max_new_tokens
    if limit.most is None or limit.most - new >= most:
        return most
    if limit.most <= new:
        raise UserError(
            f"rollout.max_new_tokens={new}: {config.served_model.path} has {limit.most} {limit.reason} for prompt and "
            f"response; expected at most {limit.most - 1}"
        )
    return limit.most - new


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to sample and to train.

    policy: computes log-probs and logits with its parameters.
    tokenizer: has an end and a padding token.
    end_tokens: ids that end a response.
    """

    policy: Policy
    tokenizer: PreTrainedTokenizerBase
    end_tokens: Sequence[int]

    @property
    def module(self) -> PreTrainedModel:
        """The model that holds the parameters."""
        return self.policy.model

    def describe(self, folder: Path) -> None:
        """Writes all but the weights of an ordinary Hugging Face folder: config.json and the tokenizer's files."""
        self.module.config.save_pretrained(folder)
        if self.module.can_generate() and self.module.generation_config is not None:
            self.module.generation_config.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def token_text(self, token_ids: list[int]) -> list[str]:
        """The tokens as the tokenizer writes them."""
        return [str(token) for token in self.tokenizer.convert_ids_to_tokens(token_ids)]


def load_model(config: ModelConfig, device: str) -> LoadedModel:
    """Loads float32 master weights, in eval mode and without dropout: behaviour and current policy must agree.

    config: names the model and how it is computed.
    device: where it is put.
    Raises UserError naming what is missing.
    """
    architecture = _without_dropout(check_model(config))
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source_of(config.path),
            config=architecture,
            dtype=torch.float32,
            attn_implementation=config.attention,
            output_loading_info=True,
            use_safetensors=True,
            trust_remote_code=False,
        )
    except (OSError, ImportError, ValueError, RuntimeError) as error:
        reason = printable(first_line(error))
        raise UserError(f"model.path={config.path}: {reason}; without network give {FOLDER}") from error
    module, found = loaded
    _check_numbers(config, module, found["missing_keys"])
    torch.nn.Module.to(module, device)
    return _loaded(config, module, architecture)


def load_skeleton(config: ModelConfig) -> LoadedModel:
    """The model as `load_model` gives it, without weights: on the meta device, for ranks that read their slices.

    config: as load_model's.
    Raises UserError naming what is missing.
    """
    architecture = _without_dropout(check_model(config))
    with torch.device("meta"):
        module = AutoModelForCausalLM.from_config(
            architecture, dtype=torch.float32, attn_implementation=config.attention, trust_remote_code=False
        )
    with suppress(OSError):  # a model need not have one
        module.generation_config = GenerationConfig.from_pretrained(source_of(config.path))
    return _loaded(config, module, architecture)


def weight_files(path: str) -> list[Path]:
    """The files that hold a model's weights, fetched where it is on the hub.

    path: as `model.path`.
    """
    folder = Path(source_of(path))
    if not folder.is_dir():
        folder = Path(snapshot_download(str(folder), allow_patterns=["*.safetensors", f"*{INDEX}"]))
    if not (folder / INDEX).is_file():
        return [folder / WEIGHTS]
    return sorted({folder / str(name) for name in json.loads((folder / INDEX).read_bytes())["weight_map"].values()})


def _without_dropout(architecture: Any) -> Any:
    for part in (architecture, architecture.get_text_config()):
        for name in [name for name in vars(part) if name.endswith(("dropout", "_pdrop"))]:
            setattr(part, name, 0.0)
    return architecture


def _loaded(config: ModelConfig, module: PreTrainedModel, architecture: Any) -> LoadedModel:
    """A transformers model with its policy and its tokenizer. architecture: its configuration."""
    tokenizer = load_tokenizer(config)
    check_vocabulary(config, architecture, tokenizer)
    if config.gradient_checkpointing:
        module.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    policy = make_policy(module.eval())
    dtype = config.dtype or "float32"
    if dtype != "float32" or config.gradient_checkpointing:
        policy = ComputePolicy(policy, getattr(torch, dtype))
    ends = end_tokens(config, tokenizer, architecture, architecture.get_text_config(), module.generation_config)
    return LoadedModel(policy, tokenizer, ends)


def _check_numbers(config: ModelConfig, module: PreTrainedModel, missing: set[str]) -> None:
    """Raises UserError for weights that the files lack (of a hub's, fetched only now), or that are no numbers."""
    if missing:
        raise UserError(f"model.path={config.path}: {sorted(missing)[0]} is missing; expected {FOLDER}")
    for name, parameter in module.named_parameters():
        if not torch.isfinite(parameter.detach().sum()):  # a sum carries NaN and infinity, and needs no memory
            raise UserError(f"model.path={config.path}: {name} holds NaN or infinite values; give other weights")


def make_policy(module: PreTrainedModel) -> Policy:
    """The policy that computes a model: the fast one where it is exact for the family, else transformers' own forward.

    module: a causal language model.
    """
    return decoder.SharedPrefixPolicy(module) if decoder.supports(module) else TransformersPolicy(module)
