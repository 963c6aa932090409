"""What is refused before anything is written, and the chunked log-probs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from harness.config import Config
from harness.errors import UserError
from harness.groups import ModelConfig, RolloutConfig
from harness.models import logprobs
from harness.models.checks import check_model
from harness.models.loading import load_model, longest_prompt
from harness.models.tokens import load_tokenizer
from harness.tasks.prompts import PromptEncoder
from harness.types import Problem
from tests.conftest import ROOT
from tests.tiny import make_model, tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model") / "tiny")


def test_scipy_and_scikit_learn_are_not_imported() -> None:
    code = "import sys, harness.models.loading; print({'scipy', 'sklearn'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout == "set()\n"


@pytest.mark.parametrize("missing", ["pad_token", "eos_token"])
def test_a_tokenizer_without_pad_or_end_token(tmp_path: Path, missing: str) -> None:
    words = tokenizer()
    words.save_pretrained(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != missing}))
    key = {"pad_token": "pad_token", "eos_token": "end_token"}[missing]
    with pytest.raises(UserError, match=f"has no {missing}; give model.{key}=TOKEN"):
        load_tokenizer(ModelConfig(path=str(tmp_path)))
    with pytest.raises(UserError, match="not in the tokenizer"):
        load_tokenizer(ModelConfig(path=str(tmp_path), **{key: "<none>"}))
    assert load_tokenizer(ModelConfig(path=str(tmp_path), **{key: "<pad>"})) is not None


def test_folders_that_are_no_model(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(UserError, match="no such folder; expected a Hugging Face model folder"):
        check_model(ModelConfig(path=str(tmp_path / "none")))
    with pytest.raises(UserError, match=r"no config\.json"):
        check_model(ModelConfig(path=str(tmp_path)))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json cannot be read"):
        check_model(ModelConfig(path=str(tmp_path)))
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(UserError, match="a vit model is not a causal language model"):
        check_model(ModelConfig(path=str(tmp_path)))
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(UserError, match=r"no \*\.safetensors"):
        check_model(ModelConfig(path=str(tmp_path)))


def test_a_tokenizer_larger_than_the_embedding(tmp_path: Path) -> None:
    path = make_model(tmp_path / "m", vocab_size=300)
    with pytest.raises(UserError, match="they do not belong together"):
        load_model(ModelConfig(path=str(path)), "cpu")


@pytest.mark.parametrize(("new", "prompts", "longest"), [(100, 64, 64), (500, 64, 12)])
def test_positions_bound_the_prompt(folder: Path, new: int, prompts: int, longest: int) -> None:
    rollout = RolloutConfig(max_new_tokens=new, max_prompt_tokens=prompts)
    assert longest_prompt(Config(model=ModelConfig(path=str(folder)), rollout=rollout)) == longest


def test_more_new_tokens_than_positions(folder: Path) -> None:
    rollout = RolloutConfig(max_new_tokens=512, max_prompt_tokens=64)
    with pytest.raises(UserError, match="has 512 positions for prompt and response; expected at most 511"):
        longest_prompt(Config(model=ModelConfig(path=str(folder)), rollout=rollout))


def test_templates() -> None:
    problem = Problem("a", "What is 2?", "2")
    plain = PromptEncoder(tokenizer(), ModelConfig())
    assert plain._tokenizer.decode(plain(problem)) == "What is 2?"
    chat = PromptEncoder(tokenizer(chat=True), ModelConfig(template="chat", system_prompt="Be brief."))
    assert chat._tokenizer.decode(chat(problem)) == "<system>Be brief.<user>What is 2?<assistant>"
    with pytest.raises(UserError, match="has no chat template; use plain"):
        PromptEncoder(tokenizer(), ModelConfig(template="chat"))


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_chunked_scores_are_the_plain_ones(monkeypatch: pytest.MonkeyPatch, temperature: float) -> None:
    torch.manual_seed(0)
    hidden = torch.randn(6, 5, 16, dtype=torch.float64).requires_grad_()
    head = nn.Linear(16, 101, bias=False).double()
    targets = torch.randint(101, (6, 5))
    grad = torch.randn(6, 5)
    results = []
    for elements in (2**25, 707):  # everything at once, seven tokens a chunk
        monkeypatch.setattr(logprobs, "CHUNK_ELEMENTS", elements)
        hidden.grad = head.weight.grad = None
        scores = logprobs.head_scores(hidden, head, targets, temperature)
        (scores.logp * grad).sum().backward()
        assert hidden.grad is not None and head.weight.grad is not None
        results.append((scores.logp.detach(), scores.entropy, hidden.grad.clone(), head.weight.grad.clone()))
    for plain, chunked in zip(*results, strict=True):
        assert ((plain - chunked).norm() / plain.norm()).item() < 1e-6
