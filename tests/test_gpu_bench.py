"""The GPU script on a CPU, tiny: every section says something (tests/rollout holds vLLM), a failing one says why."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks import gpu, gpu_sections, gpu_shapes


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gpu_shapes.random_model(gpu_shapes.SHAPES["tiny"], tmp_path_factory.mktemp("gpu") / "model")


@pytest.mark.parametrize(
    "name", sorted(set(gpu_sections.SECTIONS) - {"vllm", "chunks", "step"})
)  # step: recipe, shorter
def test_a_section_measures(model: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    gpu.show(name, "cpu", model)
    text = capsys.readouterr().out
    told = {
        "carry": "the same bits",
        "ceiling": "TFLOP/s",
        "head": "| ours, log-prob and entropy |",
        "learner": "| m2po, checkpointing |",
        "engines": "| rollout=torch |",
        "recipe": "| step | sampling |",
        "determinism": "| true | yes |",
        "trl": "TRL is not installed.",
    }
    assert told[name] in text


def test_the_command_writes_its_part_of_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "gpu.md"
    page.write_text(f"# Ours\n\n{gpu.MARK}\n\nold\n")
    monkeypatch.setattr(gpu, "CACHE", tmp_path / "kept")
    monkeypatch.setattr(sys, "argv", ["gpu", "--only", "ceiling", "--device", "cpu", "--page", str(page)])
    assert gpu.main() == 0
    text = page.read_text()
    assert text.startswith("# Ours\n") and "old" not in text
    assert "### ceiling" in text and "TFLOP/s" in text and "python -m benchmarks.gpu --only ceiling" in text
    assert json.loads(gpu.kept("ceiling", "cpu").read_text())["text"] in text
    assert "TFLOP/s" in capsys.readouterr().out


def test_a_cpu_writes_no_page_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Toy numbers would stand where a GPU's are expected."""
    before = gpu.PAGE.read_bytes()
    monkeypatch.setattr(gpu, "CACHE", tmp_path / "kept")
    monkeypatch.setattr(gpu, "output", lambda *_: "nothing")
    monkeypatch.setattr(sys, "argv", ["gpu", "--only", "ceiling", "--device", "cpu"])
    assert gpu.main() == 0 and gpu.PAGE.read_bytes() == before


def test_a_gpu_that_is_not_there_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu", "--device", "cuda"])
    with pytest.raises(SystemExit):
        gpu.main()
    assert "torch sees no GPU here" in capsys.readouterr().err.splitlines()[-1]


def test_a_section_that_hangs_is_ended_with_what_it_started(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its child holds the pipe: waiting for the end of the output would take as long as the child."""
    monkeypatch.setattr(gpu, "LONGEST_S", 5)
    monkeypatch.setattr(gpu, "command_of", lambda *_: ["/bin/sh", "-c", "echo begun; sleep 60 & wait"])
    started = time.monotonic()
    assert gpu.output("ceiling", "cpu", model) == "begun\n\nNot finished after 5 s."
    assert time.monotonic() - started < 30


@pytest.mark.parametrize(
    ("errors", "status", "said"),
    [
        ("Traceback\ntorch.OutOfMemoryError: none left\nWARNING: leaked\n", 1, "torch.OutOfMemoryError: none left"),
        ("killed\n", -9, "killed"),
        ("", -9, "exit status -9, no output"),
    ],
)  # fmt: skip
def test_the_reason_is_the_line_that_names_the_error(errors: str, status: int, said: str) -> None:
    assert gpu.reason(errors, status) == said


def test_a_section_that_cannot_run_says_why_in_one_line(model: Path) -> None:
    text = gpu.output("ceiling", "no-such-device", model)
    assert text.startswith("Not measured: `") and "no-such-device" in text
    assert len(text.splitlines()) == 1
