"""lag=exact against its oracle: a ring of weight snapshots, as the definition has it, instead of a rollout queue."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from harness import build
from harness.command.resolve import resolve
from harness.config import Config
from harness.groups import EvalConfig, ModelConfig, RolloutConfig
from harness.lag.ages import read
from harness.lag.policy import ExactLag
from harness.models.digest import weights_sha256
from harness.progress import Progress
from harness.records.folder import RunFolder
from harness.rollout.torch_engine import TorchEngine
from harness.training import Training
from harness.types import concatenate
from tests.conftest import read_rows

CONFIG = resolve(
    Config(
        algo={"_target_": "algorithms.m2po.M2PO", "m2_threshold": 0.04},
        task={"_target_": "harness.tasks.carry.Carry", "validation_problems": 4, "test_problems": 4},
        model=ModelConfig("harness/assets/carry"),
        rollout=RolloutConfig("harness.rollout.torch_engine.TorchEngine", prompts_per_step=4, group_size=4),
        eval=EvalConfig(every=400, greedy=False, samples=1),
        updates=80,
        checkpoint_every=400,
        lag={"_target_": "harness.lag.policy.ExactLag"},
        choices={"algo": "m2po", "task": "carry", "model": "carry", "lag": "exact", "rollout": "torch"},
    ),
    [],
)


def run(config: Config, path: Path) -> str:
    folder = RunFolder(path, config)
    training = Training(config, folder, Progress("test"))
    try:
        return training.run()
    finally:
        training.close()
        folder.close()


def ages(config: Config, step: int) -> list[int]:
    """The ages of a batch's four prompts."""
    if isinstance(config.staleness, int):
        return [config.staleness] * 4
    return read(config.staleness).dealt(config.seed, step, 4, 4, None).tolist()


def oracle(config: Config, path: Path) -> str:
    """Keeps every version's weights, and samples each batch when it is needed, from the one it is due."""
    folder = RunFolder(path, config)
    parts = Training(config, folder, Progress("oracle"))
    policy_model = build.model(config)
    engine = TorchEngine(config, policy_model)
    snapshots = {}
    for step in range(config.batches):
        weights = parts.model.module.state_dict()
        snapshots[parts.learner.version] = {name: tensor.clone() for name, tensor in weights.items()}
        rollouts = []
        for prompt, age in enumerate(ages(config, step)):
            due = max(0, 4 * step - age)
            engine.load(due, snapshots[due])
            rollouts.append(engine.generate(parts.requests.of([(step, prompt)])))
        graded, _ = parts.grader(parts.requests.problems(step), concatenate(rollouts))
        list(parts.learner.step(graded))
    digest = weights_sha256(parts.model.module.state_dict())
    parts.close()
    folder.close()
    return digest


def test_a_mixture_of_ages_trains_the_same_bits_as_a_ring_of_snapshots(tmp_path):
    config = replace(CONFIG, staleness="uniform:0:16", updates=40)
    assert run(config, tmp_path / "queue") == oracle(config, tmp_path / "ring")


@pytest.mark.parametrize("staleness", [0, 4, 16, 64])
def test_a_rollout_queue_trains_the_same_bits_as_a_ring_of_snapshots(staleness, tmp_path):
    config = replace(CONFIG, staleness=staleness)
    assert run(config, tmp_path / "queue") == oracle(config, tmp_path / "ring")
    rows = read_rows(tmp_path / "queue" / "metrics.jsonl")
    assert [row["update"] for row in rows] == list(range(1, 81))
    for row in rows:
        step, within = divmod(row["update"] - 1, 4)
        expected = min(4 * step, staleness) + within
        assert row["staleness_min"] == row["staleness_mean"] == row["staleness_max"] == expected


def test_the_same_config_gives_the_same_bits_and_another_seed_does_not(tmp_path):
    config = replace(CONFIG, updates=8)
    first, again = run(config, tmp_path / "a"), run(config, tmp_path / "b")
    assert first == again
    assert run(replace(config, seed=2), tmp_path / "c") != first


def test_versions_and_acceptance_follow_the_definition():
    policy = ExactLag(staleness=8, updates_per_step=4)
    assert [policy.version_for(batch) for batch in range(6)] == [0, 0, 0, 4, 8, 12]
    assert policy.accept(4, 8) and not policy.accept(4, 4) and not policy.accept(4, 12)


def test_no_batch_is_generated_that_would_not_be_trained_on(tmp_path):
    config = replace(CONFIG, staleness=16, updates=12)
    folder = RunFolder(tmp_path, config)
    training = Training(config, folder, Progress("test"))
    submitted = []
    request = training.queue._request
    training.queue._request = lambda chunk: submitted.append(chunk) or request(chunk)  # one chunk a batch
    training.run()
    training.close()
    folder.close()
    assert submitted == [0, 1, 2]
