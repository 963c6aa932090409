"""Stand-ins for what cannot be downloaded: tiny models made from their configs, data files of the real shape."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from harness.tasks.suites import BENCHMARKS
from harness.tasks.word_problems import split
from harness.warmstart.words import bpe_tokenizer

FAMILIES = {"qwen2": Qwen2Config, "qwen3": Qwen3Config, "llama": LlamaConfig}
CHAT_TEMPLATE = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}<assistant>"


def tokenizer(chat: bool = False) -> PreTrainedTokenizerFast:
    texts = [text for row in split("validation") for text in row.values()]
    made = bpe_tokenizer(texts, 400)
    if chat:
        made.chat_template = CHAT_TEMPLATE
    return made


def make_model(folder: Path, family: str = "qwen2", *, tie: bool = False, chat: bool = False, **settings: Any) -> Path:
    """A model folder of the family with grouped-query attention, about 30,000 parameters."""
    words = tokenizer(chat)
    shape: dict[str, Any] = {
        "vocab_size": 448,  # more than the tokenizer has, as real models do
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 512,
        "tie_word_embeddings": tie,
        "pad_token_id": words.pad_token_id,
        "eos_token_id": words.eos_token_id,
        "bos_token_id": None,
    }
    if family == "qwen2":
        del shape["head_dim"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(FAMILIES[family](**{**shape, **settings}))
        for parameter in model.parameters():  # far enough from zero that biases and norms matter
            torch.nn.init.normal_(parameter, 1.0 if parameter.ndim == 1 else 0.0, 0.1)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def make_any(folder: Path, family: str, *, weights: bool = True, **settings: Any) -> Path:
    """A model folder of any family of transformers, with the tokenizer of the others.

    weights: False writes config.json and the tokenizer alone. settings: of its config; None leaves a usual one out.
    """
    words = tokenizer()
    usual: dict[str, Any] = {
        "vocab_size": 448,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "max_position_embeddings": 256,
    }
    nested = "text_config" in settings
    ids = {"pad_token_id": words.pad_token_id, "eos_token_id": words.eos_token_id, "bos_token_id": None}
    shape = {**({} if nested else usual), **ids, **settings}
    config = CONFIG_MAPPING[family](
        **{name: value for name, value in shape.items() if value is not None or name in ids}
    )
    if weights:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(config)
            for parameter in model.parameters():
                torch.nn.init.normal_(parameter, 1.0 if parameter.ndim == 1 else 0.0, 0.1)
        model.save_pretrained(folder)
    config.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def hollow_model(folder: Path, config: Any) -> Path:
    """A model folder whose weights are a header and a hole: as large as one likes, and nothing on the disk.

    config: of transformers; its dtype is that of the weights.
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    size, header = 0, {}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        begin, size = size, size + tensor.numel() * 2
        header[name] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [begin, size]}
    text = json.dumps(header).encode()
    folder.mkdir(parents=True)
    with open(folder / "model.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + size)
    config.save_pretrained(folder)
    tokenizer(chat=True).save_pretrained(folder)
    return folder


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def gsm8k_rows(count: int, first: int = 0) -> list[dict[str, str]]:
    return [
        {
            "question": f"Tom has {i} pens and buys 2. How many?",
            "answer": f"{i}+2=<<{i}+2={i + 2}>>{i + 2}\n#### {i + 2}",
        }
        for i in range(first, first + count)
    ]


def boxed_rows(count: int, first: int = 0) -> list[dict[str, str]]:
    """Rows with the columns of DeepScaleR and MATH."""
    return [
        {"problem": f"What is ${i}+2$?", "answer": f"{i + 2}", "solution": f"It is $\\boxed{{{i + 2}}}$."}
        for i in range(first, first + count)
    ]


# Problem, answer and further columns of the hub's sets, where they are not problem and answer (docs/tasks.md).
SUITE_ROWS: dict[str, Callable[[str, int], dict[str, Any]]] = {
    "amc23": lambda text, answer: {"id": 0, "question": text, "answer": float(answer), "url": "https://"},
    "amc24": lambda text, answer: {"exam": "12A", "problem_number": 1, "problem": text, "answer": str(answer)},
    "minerva": lambda text, answer: {"question": text, "answer": str(answer)},
    "gaokao2023en": lambda text, answer: {"question": text, "answer": f"${answer}$", "source": "", "lang": "en"},
    "olympiadbench": lambda text, answer: {"question": text, "solution": ["So."], "final_answer": [f"${answer}$"]},
}


def suites_folder(folder: Path) -> Path:
    """A file for each of the eight benchmarks with its own columns, problems that no training set here has."""
    folder.mkdir()
    for number, name in enumerate(BENCHMARKS, 1):
        row = SUITE_ROWS.get(name, lambda text, answer: {"problem": text, "answer": str(answer)})
        rows = [row(f"Suite {number}: what is ${i}-1$?", i - 1) for i in range(2)]
        write_jsonl(folder / f"{name}.jsonl", rows)
    return folder
