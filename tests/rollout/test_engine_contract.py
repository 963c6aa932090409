"""What every rollout engine promises; torch and vLLM pass the same tests."""

import dataclasses
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from harness import randomness
from harness.build import load_model
from harness.command.plan import plan
from harness.config import Config
from harness.drivers.generation import WorkerGeneration
from harness.drivers.weight_store import SnapshotStore
from harness.errors import RunFailed
from harness.models.loading import LoadedModel
from harness.models.sequences import sequence_batch
from harness.rollout import vllm_engine
from harness.rollout.torch_engine import TorchEngine
from harness.types import Request, Rollouts
from tests.vllm_marks import NEEDS_VLLM

PROMPTS = ["27+8+5+9+3+6=", "11+1+1+1+1+1=", "59+9+9+9+9+9=", "40+2+3+4+5+6="]


def request(model: LoadedModel, samples: int = 4, temperature: float = 1.0, prompts: slice = slice(None)) -> Request:
    ids = [list(model.tokenizer.encode(prompt)) for prompt in PROMPTS]
    keys = randomness.keys(1, "sample", 0, np.arange(len(ids))[:, None], np.arange(samples))
    return Request(ids[prompts], keys[prompts], temperature, 20)


@pytest.fixture(scope="module")
def config() -> Config:
    return plan(["tracking=none", "rollout.max_prompt_tokens=32"]).cells[0]


@pytest.fixture(scope="module")
def reference(config: Config) -> LoadedModel:
    """The trainer: what the engine's weights are compared with."""
    return load_model(config.served_model, "cpu")


VLLM = pytest.param("vllm", marks=NEEDS_VLLM)


@pytest.fixture(scope="module", params=["torch", VLLM])
def engine(request: Any, config: Config) -> Iterator[Any]:
    model = load_model(config.served_model, "cpu")
    if request.param == "vllm":
        made: Any = vllm_engine.VllmEngine(config, model, version=-1)
    else:
        made = TorchEngine(config, model, version=-1)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def loaded(engine: Any, reference: LoadedModel) -> None:
    """Each test starts from the folder's weights, labelled 0."""
    engine.load(0, reference.module.state_dict())


def other_weights(reference: LoadedModel) -> dict[str, torch.Tensor]:
    """Another policy, its tied head moved along with its embedding."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, tensor in reference.module.state_dict().items():
        noise = torch.randn(tensor.shape, generator=generator)
        state[name] = tensor + 0.5 * tensor.std() * noise if tensor.ndim == 2 else tensor.clone()
    if "lm_head.weight" in state:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    return state


def scored(reference: LoadedModel, weights: dict[str, torch.Tensor], rollouts: Rollouts, temperature: float) -> Any:
    """Log-probs of the rollouts' tokens in trainer numerics under `weights`."""
    before = {name: tensor.clone() for name, tensor in reference.module.state_dict().items()}
    try:
        reference.module.load_state_dict(weights)
        with torch.no_grad():
            batch = sequence_batch(rollouts, "cpu")
            return reference.policy.score(batch, temperature).logp[batch.mask]
    finally:
        reference.module.load_state_dict(before)


def test_rollouts_have_the_shapes_they_promise(engine: Any, reference: LoadedModel) -> None:
    rollouts = engine.generate(request(reference))
    tokens = int(rollouts.response_lengths.sum())
    assert rollouts.n_prompts == 4
    assert rollouts.group.tolist() == [g for g in range(4) for _ in range(4)]
    for name in ("response_ids", "logp_engine", "logp_behaviour", "version"):
        assert getattr(rollouts, name).shape == (tokens,), name
    types = {"response_ids": torch.int32, "logp_engine": torch.float32, "version": torch.int32, "finished": torch.bool}
    assert {name: getattr(rollouts, name).dtype for name in types} == types
    end = reference.tokenizer.eos_token_id
    for ids, finished in zip(rollouts.responses(), rollouts.finished.tolist(), strict=True):
        assert (ids[-1] == end) == finished
        assert end not in ids[:-1]
        assert finished or len(ids) == 20


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probs_are_those_of_the_sampling_distribution(
    engine: Any, reference: LoadedModel, temperature: float
) -> None:
    rollouts = engine.generate(request(reference, temperature=temperature))
    expected = scored(reference, reference.module.state_dict(), rollouts, temperature)
    torch.testing.assert_close(rollouts.logp_engine, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(rollouts.logp_behaviour, expected, atol=1e-5, rtol=0)


def test_tokens_depend_on_their_own_seed_alone(engine: Any, reference: LoadedModel) -> None:
    together = engine.generate(request(reference))
    again = engine.generate(request(reference))
    assert together.responses() == again.responses()
    alone = engine.generate(request(reference, prompts=slice(2, 3)))
    assert alone.responses() == together.responses()[8:12]
    assert len({tuple(ids) for ids in together.responses()}) > 4  # samples of a group differ


def test_log_probs_that_nobody_uses_are_not_computed(
    engine: Any, reference: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = engine.generate(request(reference))
    rows = []
    score = engine.trainer.policy.score
    monkeypatch.setattr(
        engine.trainer.policy, "score", lambda batch, *rest: (rows.append(len(batch.group)), score(batch, *rest))[1]
    )
    rollouts = engine.generate(dataclasses.replace(request(reference), logprobs=False))
    assert rollouts.responses() == expected.responses()
    # rollout=torch compares the responses to one prompt with the trainer; vLLM is probed when it loads.
    assert rows == ([4] if isinstance(engine, TorchEngine) else [])
    assert isinstance(engine, TorchEngine) or rollouts.logp_engine.isnan().all()


def test_the_seconds_of_an_engine_are_counted(engine: Any, reference: LoadedModel) -> None:
    engine.seconds.clear()
    engine.load(1, reference.module.state_dict())
    engine.generate(request(reference))
    assert set(engine.seconds) == {"publication", "generation", "scoring"} and min(engine.seconds.values()) > 0


def test_greedy_takes_the_likeliest(engine: Any, reference: LoadedModel) -> None:
    rollouts = engine.generate(request(reference, samples=2, temperature=0.0))
    assert rollouts.responses()[::2] == rollouts.responses()[1::2]


def test_the_smallest_share_of_the_distribution_is_its_likeliest_token(engine: Any, reference: LoadedModel) -> None:
    greedy = engine.generate(request(reference, temperature=0.0))
    narrow = engine.generate(dataclasses.replace(request(reference), top_p=1e-6))
    assert narrow.responses() == greedy.responses()


def test_load_replaces_every_weight_and_the_label(engine: Any, reference: LoadedModel) -> None:
    engine.generate(request(reference))  # fills the caches
    weights = other_weights(reference)
    engine.load(4, weights)
    rollouts = engine.generate(request(reference))
    assert engine.version == 4
    assert rollouts.version.unique().tolist() == [4]
    expected = scored(reference, weights, rollouts, 1.0)
    torch.testing.assert_close(rollouts.logp_engine, expected, atol=1e-4, rtol=0)


def test_what_happens_to_the_weights_after_a_load_does_not_matter(engine: Any, reference: LoadedModel) -> None:
    weights = {name: tensor.clone() for name, tensor in reference.module.state_dict().items()}
    engine.load(1, weights)
    before = engine.generate(request(reference))
    for tensor in weights.values():
        tensor.zero_()
    assert engine.generate(request(reference)).responses() == before.responses()


# vLLM alone ------------------------------------------------------------------------------------------


of_vllm_alone = pytest.mark.parametrize("engine", [VLLM], indirect=True)


@of_vllm_alone
def test_a_publication_takes_a_tenth_of_a_second_at_most(engine: Any, reference: LoadedModel) -> None:
    times = []
    for version in range(5):
        started = time.perf_counter()
        engine._reload(engine.to_trainer(version, reference.module.state_dict()))
        times.append(time.perf_counter() - started)
    assert min(times) < 0.1


@of_vllm_alone
def test_an_engine_that_kept_old_weights_ends_the_run(engine: Any, reference: LoadedModel, monkeypatch: Any) -> None:
    engine.generate(request(reference))
    monkeypatch.setattr(engine._llm, "collective_rpc", lambda *_, **__: None)
    with pytest.raises(RunFailed, match=r"does not serve version 8: its log-probs are [0-9.]+ nats off"):
        engine.load(8, other_weights(reference))


@of_vllm_alone
def test_a_cache_that_was_not_reset_ends_the_run(engine: Any, reference: LoadedModel, monkeypatch: Any) -> None:
    monkeypatch.setattr(engine._llm, "reset_prefix_cache", lambda *_, **__: False)
    with pytest.raises(RunFailed, match="kept its prefix cache"):
        engine.load(8, reference.module.state_dict())


@of_vllm_alone
@pytest.mark.parametrize("inflight", ["recompute", "keep_kv"])
def test_weights_change_in_flight_and_each_token_says_under_which(
    engine: Any, reference: LoadedModel, monkeypatch: Any, inflight: str
) -> None:
    monkeypatch.setattr(engine, "config", dataclasses.replace(engine.config, inflight=inflight))
    weights, steps = other_weights(reference), iter(range(1000))
    monkeypatch.setattr(engine, "newer", lambda: (4, weights) if next(steps) == 5 else None)
    rollouts = engine.generate(request(reference))
    old, new = rollouts.version == 0, rollouts.version == 4
    assert old.any()
    assert new.any()
    assert bool((old | new).all())
    for versions in rollouts.version.split(rollouts.response_lengths.tolist()):
        assert bool((versions.diff() >= 0).all())
    before = scored(reference, reference.module.state_dict(), rollouts, 1.0)
    after = scored(reference, weights, rollouts, 1.0)
    torch.testing.assert_close(rollouts.logp_engine[old], before[old], atol=1e-4, rtol=0)
    off = (rollouts.logp_engine[new] - after[new]).abs().max()
    assert off < 1e-4 if inflight == "recompute" else off > 1e-3  # old keys and values under new weights


@of_vllm_alone
def test_what_ends_in_a_step_is_scored_with_the_weights_that_sampled_it(
    engine: Any, reference: LoadedModel, monkeypatch: Any
) -> None:
    monkeypatch.setattr(engine, "config", dataclasses.replace(engine.config, inflight="recompute"))
    weights, last, asked = other_weights(reference), 0, []

    def newer() -> tuple[int, Any] | None:
        asked.append(0)
        return (4, weights) if len(asked) == last else None

    monkeypatch.setattr(engine, "newer", newer)
    engine.generate(request(reference))
    last = len(asked)
    asked.clear()
    rollouts = engine.generate(request(reference))
    assert len(asked) == last and engine.version == 4
    assert rollouts.version.max() == 4  # who samples the last token is who scores it


@pytest.fixture
def both(engine: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A function that serves chunks with two in flight: the generation, and how many were, at every step."""
    made: list[WorkerGeneration] = []
    flying: list[int] = []
    poll = engine.poll
    monkeypatch.setattr(engine, "at_once", 2)
    monkeypatch.setattr(engine, "close", lambda: None)  # the next test has it
    monkeypatch.setattr(engine, "poll", lambda: (flying.append(len(engine._chunks)), poll())[1])

    def start(updating: bool = False) -> tuple[WorkerGeneration, list[int]]:
        engine.version = -1  # so that the generation loads its own version 0
        made.append(WorkerGeneration([engine], SnapshotStore(2), torch.get_num_threads(), updating=updating))
        return made[0], flying

    yield start
    made[0].close()


def chunk(model: LoadedModel, longest: int) -> Request:
    return dataclasses.replace(request(model), max_new_tokens=longest)


@of_vllm_alone
def test_two_chunks_in_flight_are_each_of_their_version(engine: Any, reference: LoadedModel, both: Any) -> None:
    """Every load is probed (an empty engine), the tokens are those of a chunk alone, and vLLM's log-probs are those of
    the trainer at the chunk's version."""
    generation, flying = both()
    engine.seconds.clear()
    weights = {0: reference.module.state_dict(), 4: other_weights(reference)}
    chunks = []
    for version, state in weights.items():
        generation.publish(version, state)
        for longest in (20, 5, 12):  # the second and third are over while the first runs
            chunks.append((version, longest, generation.submit(chunk(reference, longest), version)))
    found = [(version, longest, future.result(timeout=300)) for version, longest, future in chunks]
    assert max(flying) == 2 and not engine._chunks and not engine._samples
    assert set(engine.seconds) == {"publication", "generation", "scoring"}
    for version, longest, rollouts in found:
        assert rollouts.version.unique().tolist() == [version]
        expected = scored(reference, weights[version], rollouts, 1.0)
        torch.testing.assert_close(rollouts.logp_engine, expected, atol=1e-4, rtol=0)
        torch.testing.assert_close(rollouts.logp_behaviour, expected, atol=1e-5, rtol=0)
        if version == engine.version:
            assert rollouts.responses() == engine.generate(chunk(reference, longest)).responses()


@of_vllm_alone
@pytest.mark.parametrize("inflight", ["recompute", "keep_kv"])
def test_a_newer_version_is_taken_over_by_both_chunks(
    engine: Any, reference: LoadedModel, both: Any, monkeypatch: Any, inflight: str
) -> None:
    monkeypatch.setattr(engine, "config", dataclasses.replace(engine.config, inflight=inflight))
    generation, flying = both(updating=True)
    before, after = reference.module.state_dict(), other_weights(reference)
    generation.publish(0, before)
    step, published = engine._step, []

    def fifth() -> None:
        step()
        if len(flying) == 5:
            published.append(generation.publish(4, after))

    monkeypatch.setattr(engine, "_step", fifth)
    futures = [generation.submit(chunk(reference, longest), None) for longest in (20, 18, 6)]
    found = [future.result(timeout=300) for future in futures]
    assert published and max(flying) == 2
    assert [sorted(rollouts.version.unique().tolist()) for rollouts in found] == [[0, 4], [0, 4], [4]]
    for rollouts in found:
        old, new = rollouts.version == 0, rollouts.version == 4
        torch.testing.assert_close(
            rollouts.logp_engine[old], scored(reference, before, rollouts, 1.0)[old], atol=1e-4, rtol=0
        )
        off = (rollouts.logp_engine - scored(reference, after, rollouts, 1.0))[new].abs().max()
        assert off < 1e-4 if inflight == "recompute" or not old.any() else off > 1e-3
