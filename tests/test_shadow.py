"""Shadow methods: what each would have done, without a bit of the run changed."""

from __future__ import annotations

import math
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import algorithms
from harness.learner.learner import Learner
from harness.learner.shadow import Shadows
from tests.conftest import SMALL, manifest, only_run, read_rows
from tests.test_learner import graded, learner

COLUMNS = ("masked_fraction", "changed", "ess", "agreement", "norm_ratio")


def asked(trained: str, *others: str, **settings: object) -> Learner:
    made = learner(trained, **settings)
    made._shadows = Shadows({name: algorithms.make(name) for name in (trained, *others)}, 2)
    return made


@pytest.mark.parametrize("method", ["grpo", "m2po", "gspo", "decoupled", "bapo"])
@pytest.mark.parametrize("budget", [16384, 100])
def test_the_shadow_of_the_training_method_has_its_own_numbers(method: str, budget: int) -> None:
    made = asked(method, "topr", micro_batch_tokens=budget)
    for _ in range(2):
        (update,) = made.step(graded())
        row = update.metrics
        if row["version"] % 2:
            assert f"shadow/{method}/ess" not in row
            continue
        assert row[f"shadow/{method}/masked_fraction"] == row["masked_fraction"]
        assert row[f"shadow/{method}/changed"] == row["clip_fraction"]
        assert row[f"shadow/{method}/ess"] == row["ess_weighted"]
        assert row[f"shadow/{method}/agreement"] == row[f"shadow/{method}/norm_ratio"] == 1
        assert row["shadow/topr/agreement"] < 1


def test_agreement_and_norm_are_those_of_the_gradients_in_the_log_probs() -> None:
    made = asked("grpo", "cispo")
    (update,) = made.step(graded())
    again = learner("grpo")
    batch = again._prepared(graded(), 0)
    stats = batch.token_stats(*again._gradient.scores(batch))
    gradients = []
    for name in ("grpo", "cispo"):
        logp = stats.logp_current.clone().requires_grad_()
        fields = {field: getattr(stats, field) for field in ("logp_behaviour", "advantages", "mask")}
        algorithms.make(name)(algorithms.TokenStats(logp, **fields)).loss.backward()
        assert logp.grad is not None
        gradients.append(logp.grad.flatten().double())
    own, other = gradients
    row = update.metrics
    cosine = torch.cosine_similarity(own, other, dim=0).item()
    assert row["shadow/cispo/agreement"] == pytest.approx(cosine, rel=1e-6)
    assert row["shadow/cispo/norm_ratio"] == pytest.approx((other.norm() / own.norm()).item(), rel=1e-6)


def test_a_run_with_all_shadows_ends_with_the_same_weights(
    command: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    folders = {}
    for name, words in (("without", []), ("with", ["record.shadow=all", "record.shadow_every=5"])):
        done = command(*SMALL, "algo=grpo", "staleness=8", *words, f"runs_dir={tmp_path / name}")
        assert done.returncode == 0, done.stderr
        folders[name] = only_run(tmp_path / name)
    hashes = {manifest(folder)["final_weights_sha256"] for folder in folders.values()}
    assert len(hashes) == 1
    rows = read_rows(folders["with"] / "metrics.jsonl")
    names = {f"shadow/{name}/{column}" for name in algorithms.names() for column in COLUMNS}
    for row in rows:
        assert names <= row.keys() if row["version"] % 5 == 0 else not names & row.keys()
    values = [row[name] for row in rows for name in names & row.keys() if row[name] is not None]
    assert values and all(math.isfinite(value) for value in values)
    assert manifest(folders["with"])["acted_updates"] == sum(row["acted"] > 0 for row in rows)


def test_a_rule_that_never_acted_is_said_at_the_end(
    command: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    done = command(*SMALL, "algo=grpo", "algo.epsilon_low=0.99", "algo.epsilon_high=99", f"runs_dir={tmp_path}")
    folder = only_run(tmp_path)
    assert f"masked or clipped no token in any update: {folder.name}" in " ".join(done.stdout.split())
    assert manifest(folder)["acted_updates"] == 0
