"""The GPU script on a CPU, tiny: every section says something (tests/rollout holds vLLM), a failing one says why."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import gpu, gpu_sections, gpu_shapes


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gpu_shapes.random_model(gpu_shapes.SHAPES["tiny"], tmp_path_factory.mktemp("gpu") / "model")


@pytest.mark.parametrize("name", sorted(set(gpu_sections.SECTIONS) - {"vllm"}))
def test_a_section_measures(model: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    gpu.show(name, "cpu", model)
    text = capsys.readouterr().out
    told = {
        "carry": "the same bits",
        "ceiling": "TFLOP/s",
        "head": "| ours, log-prob and entropy |",
        "learner": "| m2po, checkpointing |",
        "engines": "| rollout=torch |",
        "recipe": "the second step",
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


def test_a_section_that_cannot_run_says_why_in_one_line(model: Path) -> None:
    text = gpu.output("ceiling", "no-such-device", model)
    assert text.startswith("Not measured: `") and "no-such-device" in text
    assert len(text.splitlines()) == 1
