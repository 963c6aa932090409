"""Models as users have them: what is wrong with a folder is said in one line before anything is written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GenerationConfig

from harness.command.plan import plan
from harness.config import Config
from harness.errors import RunFailed, UserError
from harness.groups import ModelConfig, RolloutConfig
from harness.models.checks import check_model
from harness.models.loading import load_model, longest_prompt
from harness.models.tokens import load_tokenizer, message_ids, text_ids
from harness.rollout.torch_engine import TorchEngine
from harness.types import Request
from tests.tiny import make_any, make_model

WEIGHTS = "model.safetensors"


def change(folder: Path, name: str, **values: Any) -> None:
    path = folder / name
    path.write_text(json.dumps((json.loads(path.read_text()) if path.is_file() else {}) | values))


def rename(how: Callable[[str], str | None]) -> Callable[[Path], None]:
    """Weights under other names; None leaves one out."""

    def fault(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        save_file({new: t for name, t in tensors.items() if (new := how(name))}, folder / WEIGHTS, {"format": "pt"})

    return fault


def shard(folder: Path) -> None:
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder, max_shard_size="20KB")
    (folder / WEIGHTS).unlink()


def without_a_shard(folder: Path) -> None:
    shard(folder)
    min(folder.glob("model-*.safetensors")).unlink()


def of_another_width(folder: Path) -> None:
    change(folder, "config.json", intermediate_size=64)


def cut_short(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-100])


def pointer(folder: Path) -> None:
    (folder / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


def adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "Qwen/Qwen3-8B"}')
    (folder / WEIGHTS).rename(folder / "adapter_model.safetensors")


def only_adapter(folder: Path) -> None:
    adapter(folder)
    (folder / "config.json").unlink()


def other_names(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "consolidated.safetensors")


def pickled_index(folder: Path) -> None:
    (folder / f"{WEIGHTS}.index.json").write_text('{"weight_map": {"lm_head.weight": "x.bin"}}')


def index_elsewhere(folder: Path) -> None:
    (folder / f"{WEIGHTS}.index.json").write_text('{"weight_map": {"lm_head.weight": "../x.safetensors"}}')


def no_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()


def quantised(folder: Path) -> None:
    change(folder, "config.json", quantization_config={"quant_method": "gptq", "bits": 4})


def small_embedding(folder: Path) -> None:
    shutil.rmtree(folder)
    make_model(folder, vocab_size=300)


def retyped(dtype: torch.dtype) -> Callable[[Path], None]:
    """Weights of a type that means nothing without scales."""

    def fault(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        tensors["model.norm.weight"] = tensors["model.norm.weight"].to(dtype)
        save_file(tensors, folder / WEIGHTS, {"format": "pt"})

    return fault


def one_layer_more(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    more = {n.replace("layers.1.", "layers.2."): t.clone() for n, t in tensors.items() if "layers.1." in n}
    save_file(tensors | more, folder / WEIGHTS, {"format": "pt"})


def layers_that_disagree(folder: Path) -> None:
    change(folder, "config.json", num_hidden_layers=1, layer_types=["full_attention"] * 2)


FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "no head": (rename(lambda n: None if "head" in n else n), "1 tensors of Qwen2ForCausalLM are missing: lm_head"),
    "no layer": (rename(lambda n: None if "layers.1." in n else n), r"missing: model\.layers\.1\..*, …"),
    "peft prefix": (rename(lambda n: f"base_model.model.{n}"), "it has base_model.model.lm_head.weight, .* instead"),
    "fsdp prefix": (rename(lambda n: f"_fsdp_wrapped_module.{n}"), "instead; export the model with save_pretrained"),
    "other shapes": (of_another_width, "6 tensors have other shapes than config.json says: .*48.*64"),
    "missing shard": (without_a_shard, "names model-00001-of-.*which is not there"),
    "cut short": (cut_short, "model.safetensors is cut short or damaged"),
    "git lfs": (pointer, "only a Git LFS pointer; run git lfs pull"),
    "adapter": (adapter, "an adapter .* merge it into its base model"),
    "adapter without config": (only_adapter, "an adapter .* merge it into its base model"),
    "other names": (other_names, "no .*safetensors in it that holds a model"),
    "pickled": (pickled_index, "names x.bin"),
    "index elsewhere": (index_elsewhere, "names ../x.safetensors"),
    "no tokenizer": (no_tokenizer, "no tokenizer|no words"),
    "quantised": (quantised, "quantised and cannot be trained"),
    "float8 without scales": (retyped(torch.float8_e4m3fn), "model.norm.weight is F8_E4M3, .*quantised"),
    "int8 without scales": (retyped(torch.int8), "model.norm.weight is I8, .*quantised"),
    "more layers than the config": (one_layer_more, r"12 tensors are of layers .*: model\.layers\.2\."),
    "a config that disagrees with itself": (layers_that_disagree, "config.json cannot be read"),
    "small embedding": (small_embedding, "tokens, the model embeds 300; they do not belong together"),
}  # fmt: skip


@pytest.mark.parametrize("name", FAULTS)
def test_a_folder_with_a_fault_is_refused_at_planning(tmp_path: Path, monkeypatch: Any, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    folder = make_model(tmp_path / "m")
    fault, expected = FAULTS[name]
    fault(folder)
    with pytest.raises(UserError, match=expected) as error:
        plan(["task=gsm8k_small", f"model.path={folder}", "tracking=none"])
    assert "\n" not in str(error.value)
    assert [file.name for file in tmp_path.iterdir()] == ["m"]


def test_a_whole_folder_passes_tied_or_in_shards(tmp_path: Path) -> None:
    tied = make_model(tmp_path / "tied", "qwen3", tie=True)
    assert "lm_head.weight" not in load_file(tied / WEIGHTS)
    check_model(ModelConfig(path=str(tied)))
    folder = make_model(tmp_path / "shards")
    shard(folder)
    assert len(list(folder.glob("*.safetensors"))) > 1
    check_model(ModelConfig(path=str(folder)))


def test_weights_that_are_no_numbers(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "m")
    tensors = load_file(folder / WEIGHTS)
    tensors["model.norm.weight"][3] = torch.nan
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})
    with pytest.raises(UserError, match=r"model\.norm\.weight holds NaN"):
        load_model(ModelConfig(path=str(folder)), "cpu")


# End tokens ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("generation", "config", "named", "expected"),
    [
        (None, 1, None, [1]),
        ([1, 106], 1, None, [1, 106]),
        ([7, 9], [1, 12], None, [1, 7, 9, 12]),
        (9999, 1, None, [1]),  # no token of this model
        ([1, 106], 1, "the", ["the"]),
        ([1, 106], 1, ["the", "<eos>"], ["the", "<eos>"]),
    ],
)
def test_a_response_ends_at_any_token_that_the_files_name(
    tmp_path: Path, generation: Any, config: Any, named: Any, expected: list[Any]
) -> None:
    folder = make_model(tmp_path / "m", eos_token_id=config)
    if generation is not None:
        GenerationConfig(eos_token_id=generation).save_pretrained(folder)
    vocabulary = load_tokenizer(ModelConfig(path=str(folder))).get_vocab()
    word = next(token for token in vocabulary if token.isalpha() and len(token) > 2)
    named, expected = (
        [word if one == "the" else one for one in given]
        if isinstance(given, list)
        else word
        if given == "the"
        else given
        for given in (named, expected)
    )
    model = load_model(ModelConfig(path=str(folder), end_token=named), "cpu")
    ids = [vocabulary[one] if isinstance(one, str) else one for one in expected]
    assert list(model.end_tokens) == sorted(ids)


def test_an_end_token_that_is_none(tmp_path: Path) -> None:
    folder = str(make_model(tmp_path / "m"))
    with pytest.raises(UserError, match=r"model\.end_token=<none>: not in the tokenizer"):
        load_tokenizer(ModelConfig(path=folder, end_token=["<eos>", "<none>"]))
    with pytest.raises(UserError, match="expected a token or a list of tokens"):
        plan(["model.end_token=3"])


# Rotary embeddings -----------------------------------------------------------------------------------------

LONG = {
    "rope_parameters": {
        "rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 64,
        "long_factor": [4.0] * 4, "short_factor": [1.0] * 4, "factor": 4.0, "partial_rotary_factor": 1.0,
    },
    "original_max_position_embeddings": 64,
    "head_dim": None,
}  # fmt: skip


DYNAMIC = {
    "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0},
    "max_position_embeddings": 64,
}


@pytest.mark.parametrize(("family", "settings"), [("phi3", LONG), ("llama", DYNAMIC)])
def test_a_rotary_embedding_that_switches_bounds_the_sequences(tmp_path: Path, family: str, settings: Any) -> None:
    folder = make_any(tmp_path / "m", family, **settings)
    model = ModelConfig(path=str(folder))
    rollout = RolloutConfig(max_new_tokens=24, max_prompt_tokens=1024)
    assert longest_prompt(Config(model=model, rollout=rollout)) == 40
    with pytest.raises(UserError, match=r"has 64 positions before its .* rotary embedding changes"):
        longest_prompt(Config(model=model, rollout=RolloutConfig(max_new_tokens=100, max_prompt_tokens=64)))


@pytest.mark.parametrize("behaviour", ["trainer", "engine"])
def test_an_engine_that_samples_otherwise_than_the_trainer_scores_ends_the_run(tmp_path: Path, behaviour: str) -> None:
    """Past the bound, as a run is never let: decoding switches once a sequence is long, scoring from its start."""
    folder = make_any(tmp_path / "m", "phi3", **LONG)
    model = ModelConfig(path=str(folder))
    config = Config(model=model, rollout=RolloutConfig(max_new_tokens=60, behaviour=behaviour))
    loaded = replace(load_model(model, "cpu"), end_tokens=[1])
    short, long = (Request([[5, 6, 7, 8] * 5], np.arange(4, dtype=np.uint64)[None], 1.0, new) for new in (40, 60))
    engine = TorchEngine(config, loaded)
    engine.generate(short)
    with pytest.raises(RunFailed, match=r"TorchEngine does not serve version 0: .* nats off .*probe_tolerance=0\.001"):
        engine.generate(long)
    config.rollout.probe_tolerance = 100.0
    TorchEngine(config, loaded).generate(long)


# Templates and tokenizers ----------------------------------------------------------------------------------

TEMPLATES = {
    "no system role": ("{{ raise_exception('System role not supported') }}", "System role not supported"),
    "undefined": ("{{ messages[0].nothing.at_all }}", "has no attribute 'nothing'"),
    "syntax": ("{% for m in messages %}", "Unexpected end of template"),
    "division": ("{{ 1 / 0 }}", "division by zero"),
    "escapes": ("{{ raise_exception('\x1b[31mred') }}", "red"),
}


@pytest.mark.parametrize("template", ["", "hello", "{% for m in messages %}{{ m['role'] }}: {% endfor %}"])
def test_a_template_that_leaves_the_problem_out(tmp_path: Path, template: str) -> None:
    folder = make_model(tmp_path / "m", chat=True)
    words = load_tokenizer(ModelConfig(path=str(folder)))
    words.chat_template = template or "{# nothing #}"
    with pytest.raises(UserError, match="leaves out what the user says; use model"):
        message_ids(words, [{"role": "user", "content": "Ann has 12 books."}], "m")
    words.chat_template = "{% for m in messages %}{{ m['content'] | trim }} {% endfor %}"
    assert message_ids(words, [{"role": "user", "content": " Ann has\n12 books. "}], "m")


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_that_fails_is_told_in_one_printable_line(tmp_path: Path, name: str) -> None:
    template, expected = TEMPLATES[name]
    folder = make_model(tmp_path / "m", chat=True)
    words = load_tokenizer(ModelConfig(path=str(folder)))
    words.chat_template = template
    words.save_pretrained(folder)
    typed = ["task=gsm8k_small", f"model.path={folder}", "model.template=chat", "model.system_prompt=Be brief."]
    load_tokenizer.__globals__["_tokenizer"].cache_clear()
    with pytest.raises(UserError, match=expected) as error:
        plan(typed)
    assert "\n" not in str(error.value) and "\x1b" not in str(error.value)
    assert "use model.template=plain or no model.system_prompt" in str(error.value)


def test_an_appended_end_token_does_not_end_a_prompt(tmp_path: Path) -> None:
    from tokenizers.processors import TemplateProcessing

    folder = make_model(tmp_path / "m")
    words = load_tokenizer(ModelConfig(path=str(folder)))
    bare = words.encode("Ann has 12 books.")
    words.backend_tokenizer.post_processor = TemplateProcessing(
        "$A <eos>", special_tokens=[("<eos>", words.eos_token_id)]
    )
    assert words.encode("Ann has 12 books.") == [*bare, words.eos_token_id]
    assert text_ids(words, "Ann has 12 books.") == bare
    assert text_ids(words, "Ann.<eos>")[-1] == words.eos_token_id  # as it is written
    with pytest.raises(UserError, match="fails for user"):
        words.chat_template = "{{ nothing.at_all }}"
        message_ids(words, [{"role": "user", "content": "x"}], "m")


def test_a_tokenizer_that_cannot_say_the_prompts(tmp_path: Path, monkeypatch: Any) -> None:
    with pytest.raises(UserError, match=r"harness/assets/carry: its tokenizer reads '.*' as '<unk>.*choose a model"):
        plan(["task=gsm8k_small"])
