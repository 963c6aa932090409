"""A model folder or hub name → a policy and its tokenizer, checked before anything is written."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging as hf_logging

from harness import PROJECT
from harness.config import Config, ModelConfig
from harness.errors import UserError, first_line
from harness.models import decoder, hub
from harness.models.policy import ComputePolicy, Policy, TransformersPolicy

hf_logging.disable_progress_bar()  # one progress line a run is ours

FOLDER = "a Hugging Face model folder (config.json, *.safetensors, tokenizer.json)"


def resolve_path(path: str) -> str:
    """Where a model is.

    path: a folder, looked up from where the command is typed and then from the project's root, or a hub name.
    Returns the folder's full path, else `path` as it is.
    """
    for base in (Path.cwd(), PROJECT):
        if (base / path).is_dir():
            return str(base / path)
    return path


def _source(path: str) -> str:
    """`resolve_path` for what is about to be loaded: a hub name only once it is known whether there is a hub."""
    source = resolve_path(path)
    if not Path(source).is_dir():
        hub.settle()
    return source


def check_model(config: ModelConfig) -> Any:
    """The model's architecture, once it is known to be a causal language model with safetensors.

    config: names the model; of one on the hub (`organisation/model`) only config.json is fetched.
    Returns transformers' configuration of it.
    Raises UserError if it is something else.
    """
    folder = Path(resolve_path(config.path))
    if not folder.is_dir():
        looks_local = config.path.startswith((".", "/", "~")) or config.path.count("/") != 1
        if looks_local:
            raise UserError(f"model.path={config.path}: no such folder; expected {FOLDER} or a hub name")
    elif not (folder / "config.json").is_file():
        raise UserError(f"model.path={config.path}: no config.json in it; expected {FOLDER}")
    architecture = _architecture(config.path)
    if architecture.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise UserError(
            f"model.path={config.path}: a {architecture.model_type} model is not a causal language model; "
            "give the folder of one that is"
        )
    if folder.is_dir() and not list(folder.glob("*.safetensors")):
        raise UserError(
            f"model.path={config.path}: no *.safetensors in it; expected weights as safetensors "
            "(convert them with save_pretrained; pickled weights are not loaded)"
        )
    _check_index(config, folder)
    return architecture


def _check_index(config: ModelConfig, folder: Path) -> None:
    """Raises UserError for an index of weights that names a file which would have to be unpickled."""
    for index in sorted(folder.glob("*.safetensors.index.json")):
        try:
            names = set(json.loads(index.read_bytes())["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"model.path={config.path}: {index.name} is no index of weights ({error!r})") from error
        pickled = sorted(str(name) for name in names if not str(name).endswith(".safetensors"))
        if pickled:
            raise UserError(
                f"model.path={config.path}: {index.name} names {pickled[0]}; expected *.safetensors "
                "(convert the weights with save_pretrained; pickled weights are not loaded)"
            )


def _architecture(path: str) -> Any:
    try:
        return AutoConfig.from_pretrained(_source(path), trust_remote_code=False)
    except (ValueError, OSError, KeyError) as error:
        raise UserError(
            f"model.path={path}: config.json cannot be read ({first_line(error)}); without network give {FOLDER}"
        ) from error


def load_tokenizer(config: ModelConfig) -> PreTrainedTokenizerBase:
    """The model's tokenizer, with an end and a padding token.

    config: names the model, and those two tokens where the tokenizer does not.
    Raises UserError if it cannot be read or has no such token.
    """
    return _tokenizer(config.path, config.end_token, config.pad_token)


@lru_cache(maxsize=8)
def _tokenizer(path: str, end_token: str | None, pad_token: str | None) -> PreTrainedTokenizerBase:
    try:
        tokenizer = AutoTokenizer.from_pretrained(_source(path), trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UserError(f"model.path={path}: no tokenizer ({first_line(error)}); expected {FOLDER}") from error
    for key, name, token in (("end_token", "eos_token", end_token), ("pad_token", "pad_token", pad_token)):
        if token is not None:
            if token not in tokenizer.get_vocab():
                raise UserError(f"model.{key}={token}: not in the tokenizer of {path}; choose one of its tokens")
            setattr(tokenizer, name, token)
        if getattr(tokenizer, name) is None:
            raise UserError(
                f"model.path={path}: its tokenizer has no {name}; give model.{key}=TOKEN, a token of its vocabulary"
            )
    return tokenizer


def longest_prompt(config: Config) -> int:
    """How many tokens a prompt may have.

    config: of the run.
    Returns rollout.max_prompt_tokens, or what rollout.max_new_tokens leaves of the model's positions.
    Raises UserError where they leave nothing.
    """
    architecture = check_model(config.served_model)
    positions = getattr(architecture, "max_position_embeddings", None) or getattr(architecture, "n_positions", None)
    most, new = config.rollout.max_prompt_tokens, config.rollout.max_new_tokens
    if positions is None or positions - new >= most:
        return most
    if positions <= new:
        raise UserError(
            f"rollout.max_new_tokens={new}: {config.served_model.path} has {positions} positions for prompt and "
            f"response; expected at most {positions - 1}"
        )
    return int(positions - new)


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to sample and to train.

    policy: computes log-probs and logits with its parameters.
    tokenizer: has an end and a padding token.
    """

    policy: Policy
    tokenizer: PreTrainedTokenizerBase

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
        module = AutoModelForCausalLM.from_pretrained(
            _source(config.path),
            config=architecture,
            dtype=torch.float32,
            attn_implementation=config.attention,
            use_safetensors=True,
            trust_remote_code=False,
        )
    except (OSError, ImportError, ValueError) as error:
        raise UserError(f"model.path={config.path}: {first_line(error)}; without network give {FOLDER}") from error
    torch.nn.Module.to(module, device)
    return _loaded(config, module)


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
        module.generation_config = GenerationConfig.from_pretrained(_source(config.path))
    return _loaded(config, module)


def weight_files(path: str) -> list[Path]:
    """The files that hold a model's weights, fetched where it is on the hub.

    path: as `model.path`.
    """
    source = _source(path)
    folder = Path(source)
    if not folder.is_dir():
        folder = Path(snapshot_download(source, allow_patterns=["*.safetensors", "*.safetensors.index.json"]))
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return [folder / "model.safetensors"]
    return sorted({folder / str(name) for name in json.loads(index.read_bytes())["weight_map"].values()})


def _without_dropout(architecture: Any) -> Any:
    for name in [name for name in vars(architecture) if name.endswith(("dropout", "_pdrop"))]:
        setattr(architecture, name, 0.0)
    return architecture


def _loaded(config: ModelConfig, module: PreTrainedModel) -> LoadedModel:
    """A transformers model with its policy and its tokenizer."""
    tokenizer = load_tokenizer(config)
    check_vocabulary(config, module, tokenizer)
    if config.gradient_checkpointing:
        module.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    policy = make_policy(module.eval())
    if config.dtype != "float32" or config.gradient_checkpointing:
        policy = ComputePolicy(policy, getattr(torch, config.dtype))
    return LoadedModel(policy, tokenizer)


def make_policy(module: PreTrainedModel) -> Policy:
    """The policy that computes a model: the fast one where it is exact for the family, else transformers' own forward.

    module: a causal language model.
    """
    return decoder.SharedPrefixPolicy(module) if decoder.supports(module) else TransformersPolicy(module)


def check_vocabulary(config: ModelConfig, module: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises UserError for a tokenizer with more tokens than the model embeds.

    config: names the model, for the message.
    module: the model.
    tokenizer: the one beside it.
    """
    embedded = module.get_input_embeddings().weight
    assert isinstance(embedded, torch.Tensor)
    if len(tokenizer) > len(embedded):
        raise UserError(
            f"model.path={config.path}: the tokenizer has {len(tokenizer)} tokens, the model embeds "
            f"{len(embedded)}; they do not belong together"
        )
