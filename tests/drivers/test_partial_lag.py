"""Partial rollouts: the beginning of a response is older than its end, exactly, on every driver."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from short_runs import Ran, configured
from test_driver_equality import Delayed

from harness.command.cell import run_cell
from harness.drivers.partial_queue import PartialQueue
from harness.errors import UserError
from harness.rollout.torch_engine import TorchEngine
from harness.types import Batch
from tests.conftest import read_rows

LAG = ("staleness=partial:8", "updates=16", "eval.every=16")


@pytest.mark.parametrize(("share", "constant"), [(0, 0), (1, 8)])
def test_a_cut_at_the_beginning_or_the_end_is_a_constant_lag(run: Any, share: int, constant: int) -> None:
    assert run(f"staleness=partial:8:{share}").sha256 == run(f"staleness={constant}").sha256


def test_every_token_has_the_version_that_sampled_it(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[Batch] = []
    pop = PartialQueue.pop
    monkeypatch.setattr(PartialQueue, "pop", lambda *parts: batches.append(pop(*parts)) or batches[-1])
    ran = run(*LAG, "algo=decoupled", "algo.proximal=interpolated")  # a method that needs the staleness of tokens
    assert ran.outcome == "finished" and len(batches) == 4
    both = 0
    for number, batch in enumerate(batches):
        (chunk,) = batch.chunks
        assert chunk.index == number
        for versions in chunk.rollouts.version.split(chunk.rollouts.response_lengths.tolist()):
            assert torch.equal(versions, versions.sort().values)
            assert set(versions.tolist()) <= {max(0, 4 * number - 8), 4 * number}
            both += len(set(versions.tolist())) == 2
    assert both > 20
    last = read_rows(ran.folder / "metrics.jsonl")[-1]
    assert set(last["staleness_hist"]) == {"3", "11"} and 3 < last["staleness_mean"] < 11


def test_what_was_begun_stays_word_for_word(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kept tokens, and their log-probs under both numerics, are those of the version that sampled them."""
    seen: list[tuple[Any, Any]] = []
    generate = TorchEngine.generate

    def spied(self: TorchEngine, request: Any) -> Any:
        rollouts = generate(self, request)
        if request.begun is not None:
            seen.append((request, rollouts))
        return rollouts

    monkeypatch.setattr(TorchEngine, "generate", spied)
    run(*LAG)
    request, rollouts = seen[-1]
    lengths = (request.begun.response_lengths.tolist(), rollouts.response_lengths.tolist())
    for name in ("response_ids", "logp_engine", "logp_behaviour", "version"):
        old, new = (getattr(r, name).split(own) for r, own in zip((request.begun, rollouts), lengths, strict=True))
        for before, after, cut in zip(old, new, request.cuts.reshape(-1).tolist(), strict=True):
            assert torch.equal(before[:cut], after[: min(cut, len(before))])


def test_overlapped_gives_the_weights_of_serial(run: Any, engines: Any) -> None:
    lag = (*LAG, "rollout.chunks=3")
    serial = run(*lag)
    engines(Delayed)
    assert run(*lag, "driver=overlapped").sha256 == serial.sha256


def test_ray_gives_the_weights_of_serial(run: Any, engines: Any, cluster: Any) -> None:
    cluster.cloudpickle.register_pickle_by_value(sys.modules[Delayed.__module__])
    lag = (*LAG, "rollout.chunks=3")
    serial = run(*lag)
    engines(Delayed)
    assert run(*lag, "driver=ray", "ray.actors=2").sha256 == serial.sha256


def test_a_run_that_is_paused_in_between_ends_with_the_same_weights(run: Any, tmp_path: Path) -> None:
    for stop in ("stop_at=8", "stop_at=null"):
        parts = configured(tmp_path / "parts", *LAG, stop)
        outcome = run_cell(parts)
    assert Ran(outcome, parts.folder).sha256 == run(*LAG).sha256


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("staleness=partial:0",), "a multiple of updates_per_step=4, 4 to"),
        (("staleness=partial:8:2",), "between 0 and 1"),
        (("staleness=partial:8:.5:1",), "expected partial:AGE or partial:AGE:SHARE"),
        (("staleness=partial:8", "lag=bounded", "driver=overlapped"), "needs lag=exact"),
        (("staleness=partial:8", "rollout=vllm"), "only rollout=torch"),
    ],
)
def test_what_cannot_be_is_refused(overrides: tuple[str, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        configured(tmp_path, *overrides)
