"""Whether a model can be served and trained, found out from its config and the headers of its weights.

Nothing but headers is read: transformers' own loader compares names and shapes on the meta device, in a tenth of a
second for 7 billion parameters, and knows every renaming of every family.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)
from transformers.utils import logging as hf_logging

from harness.errors import UserError, first_line, printable
from harness.groups import ModelConfig
from harness.models import hub
from harness.paths import bases

hf_logging.disable_progress_bar()  # one progress line a run is ours

FOLDER = "a Hugging Face model folder (config.json, *.safetensors, tokenizer.json)"
WEIGHTS, INDEX, ADAPTER = "model.safetensors", "model.safetensors.index.json", "adapter_config.json"
POINTER = b"version https://git-lfs"  # how a file begins that Git LFS has not fetched
LAYERS = {"full_attention", "sliding_attention", "chunked_attention"}  # whose states are keys and values
MERGE = (
    f"an adapter ({ADAPTER}), expected a whole model; merge it into its base model (PEFT: merge_and_unload, then "
    "save_pretrained) and give that folder"
)
TRAINED = ("F32", "BF16", "F16", "F64")  # types of weights, as the headers of safetensors call them
SHOWN = 3


def resolve_path(path: str) -> str:
    """Where a model is.

    path: a folder, looked up from where the command is typed and then from the project's root, or a hub name.
    Returns the folder's full path, else `path` as it is.
    """
    for base in bases():
        if (base / path).is_dir():
            return str(base / path)
    return path


def source_of(path: str) -> str:
    """`resolve_path` for what is about to be loaded: a hub name only once it is known whether there is a hub."""
    source = resolve_path(path)
    if not Path(source).is_dir():
        hub.settle()
    return source


def check_model(config: ModelConfig) -> Any:
    """The model's architecture, once it is known that the model can be served and that its weights are all there.

    config: names the model; of one on the hub (`organisation/model`) only config.json is fetched, and its weights are
        looked at where they have been fetched before.
    Returns transformers' configuration of it.
    Raises UserError if it is something else.
    """
    folder = Path(resolve_path(config.path))
    if not folder.is_dir():
        if config.path.startswith((".", "/")) or config.path.count("/") != 1:
            raise UserError(f"model.path={config.path}: no such folder; expected {FOLDER} or a hub name")
    elif not (folder / "config.json").is_file():
        if (folder / ADAPTER).is_file():
            raise _refusal(config, MERGE)
        raise UserError(f"model.path={config.path}: no config.json in it; expected {FOLDER}")
    architecture = _architecture(config.path)
    _check_kind(config, architecture)
    here = folder if folder.is_dir() else _fetched(config.path)
    if here is not None:
        _check_weights(config, here)
    return architecture


def _architecture(path: str) -> Any:
    try:
        return AutoConfig.from_pretrained(source_of(path), trust_remote_code=False)
    except (ValueError, OSError, KeyError, TypeError, AttributeError, StrictDataclassError) as error:
        reason = printable(first_line(error))
        raise UserError(
            f"model.path={path}: config.json cannot be read ({reason}); without network give {FOLDER}"
        ) from error


def _refusal(config: ModelConfig, reason: str) -> UserError:
    return UserError(f"model.path={config.path}: {reason}")


# What kind of model ----------------------------------------------------------------------------------------


def _check_kind(config: ModelConfig, architecture: Any) -> None:
    """Raises UserError for an architecture that cannot be sampled from and trained here."""
    kind = architecture.model_type
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or _reads_both_ways(architecture):
        raise _refusal(config, f"a {kind} model is not a causal language model; give the folder of one that is")
    quantised = getattr(architecture, "quantization_config", None)
    if quantised is not None:
        raise _refusal(config, "its weights are quantised and cannot be trained; give the model that is not")
    cls: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(architecture)]
    kinds = set(getattr(architecture.get_text_config(), "layer_types", None) or ())
    if cls._is_stateful or kinds - LAYERS:
        strange = ", ".join(sorted(kinds - LAYERS)) or "recurrent"
        raise _refusal(
            config, f"a {kind} model has {strange} layers, expected attention alone, as llama, qwen3, gemma3 or mistral"
        )
    if config.attention == "sdpa" and not cls._supports_sdpa:
        raise UserError(f"model.attention=sdpa: a {kind} model has no such attention; expected model.attention=eager")


def _reads_both_ways(architecture: Any) -> bool:
    """Whether it is an encoder or has one, although a causal language model can be made of it."""
    return architecture.is_encoder_decoder or architecture.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES


# Its weights -----------------------------------------------------------------------------------------------


def _fetched(path: str) -> Path | None:
    """The folder of a hub name's files, if its weights have been fetched."""
    found = try_to_load_from_cache(path, "config.json")
    folder = Path(found).parent if isinstance(found, str) else None
    return folder if folder is not None and list(folder.glob("model*.safetensors")) else None


def _check_weights(config: ModelConfig, folder: Path) -> None:
    """Raises UserError unless the folder's weights are whole and exactly those of its architecture."""
    if (folder / ADAPTER).is_file():
        raise _refusal(config, MERGE)
    files = _weight_files(config, folder)
    for file in files:
        _check_file(config, file)
    stamps = tuple(
        (str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in (folder / "config.json", *files)
    )
    wrong = _difference(str(folder), config.attention, stamps)
    if wrong:
        raise _refusal(config, wrong)


def _weight_files(config: ModelConfig, folder: Path) -> list[Path]:
    """The files that transformers will read: one, or those that an index names."""
    if (folder / INDEX).is_file():
        names = _indexed(config, folder / INDEX)
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise _refusal(config, f"{INDEX} names {missing[0]}, which is not there; fetch all of the model's files")
        return [folder / name for name in names]
    if not (folder / WEIGHTS).is_file():
        raise _refusal(
            config,
            f"no *.safetensors in it that holds a model ({WEIGHTS}, or shards and their index); pickled weights are "
            "not loaded: convert them with save_pretrained",
        )
    return [folder / WEIGHTS]


def _indexed(config: ModelConfig, index: Path) -> list[str]:
    """Names of the files that hold the weights. Raises UserError for one that would have to be unpickled."""
    try:
        names = sorted(map(str, set(json.loads(index.read_bytes())["weight_map"].values())))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _refusal(config, f"{index.name} is no index of weights ({error!r})") from error
    for name in names:
        if not name.endswith(".safetensors") or Path(name).name != name:
            raise _refusal(
                config,
                f"{index.name} names {name}; expected *.safetensors "
                "(convert the weights with save_pretrained; pickled weights are not loaded)",
            )
    return names


def _check_file(config: ModelConfig, file: Path) -> None:
    """Raises UserError for a file that is cut short, no safetensors file, or holds weights that need scales."""
    try:
        with safe_open(file, "pt") as tensors:
            names: list[str] = list(tensors.keys())
            types = {name: tensors.get_slice(name).get_dtype() for name in names if name.endswith(".weight")}
    except (SafetensorError, OSError) as error:
        with file.open("rb") as opened:
            pointer = opened.read(len(POINTER)) == POINTER
        reason = (
            "only a Git LFS pointer; run git lfs pull" if pointer else f"cut short or damaged ({first_line(error)})"
        )
        raise _refusal(config, f"{file.name} is {reason}, or fetch it again") from error
    strange = sorted(name for name, kind in types.items() if kind not in TRAINED)
    if strange:
        raise _refusal(
            config,
            f"{strange[0]} is {types[strange[0]]}, expected one of {', '.join(TRAINED)}; quantised weights cannot be "
            "trained: give the model that is not",
        )


@lru_cache(maxsize=32)
def _difference(folder: str, attention: str, stamps: tuple[Any, ...]) -> str:
    """How a folder's weights differ from those of its architecture, in names and shapes; "" if they do not.

    stamps: of the files, so that one that has changed is looked at again.
    """
    del stamps
    try:
        with _quiet():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder,
                attn_implementation=attention,
                device_map="meta",
                dtype="auto",
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                trust_remote_code=False,
                use_safetensors=True,
            )
    except (OSError, ImportError, ValueError, KeyError, RuntimeError, AttributeError, TypeError) as error:
        return f"cannot be loaded ({printable(first_line(error))}); expected {FOLDER}"
    model, found = loaded
    name = type(model).__name__
    if found["missing_keys"]:
        missing, others = sorted(found["missing_keys"]), sorted(found["unexpected_keys"])
        has = f"; it has {_few(others)} instead" if others else ""
        return (
            f"{len(missing)} tensors of {name} are missing: {_few(missing)}{has}; export the model with save_pretrained"
        )
    if found["mismatched_keys"]:
        shapes = [
            f"{key} is {list(stored)}, not {list(wanted)}" for key, stored, wanted in sorted(found["mismatched_keys"])
        ]
        return f"{len(shapes)} tensors have other shapes than config.json says: {_few(shapes)}"
    modules = {_of_layer_0(key) for key in model.state_dict()}
    more = sorted(key for key in found["unexpected_keys"] if _of_layer_0(key) != key and _of_layer_0(key) in modules)
    if more:
        return (
            f"{len(more)} tensors are of layers that config.json does not have: {_few(more)}; one of the two is wrong"
        )
    return ""


def _of_layer_0(key: str) -> str:
    """A tensor's name with 0 for the number of its layer."""
    return re.sub(r"\.\d+\.", ".0.", key)


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the loader's own table of what it missed."""
    before = hf_logging.get_verbosity()
    hf_logging.set_verbosity(hf_logging.CRITICAL)
    try:
        yield
    finally:
        hf_logging.set_verbosity(before)
