"""The plan of a run against what was recorded and measured."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any

import pandas as pd
import pytest
from transformers import Qwen2Config

from harness import build
from harness.command import dry_run
from harness.command.banner import header
from harness.command.capacity.devices import DEVICES
from harness.command.capacity.memory import largest_micro_batch, learner, verdict
from harness.command.capacity.outlook import outlook
from harness.command.capacity.rates import Rates, at_once, sampling_s, step_s, update_s
from harness.command.capacity.report import micro_batches
from harness.command.capacity.virtual_time import Pauses, Workers, simulate
from harness.command.plan import plan
from harness.config import Config
from harness.lag.policy import BoundedLag
from harness.models.published import PUBLISHED
from tests.conftest import ROOT
from tests.tiny import boxed_rows, hollow_model, make_model, write_jsonl

STARTING_S = 3.0  # until a recorded run's first evaluation


def bounded_runs() -> Iterator[tuple[str, Any, pd.DataFrame]]:
    """The bounded runs of the records: name, what they were, and every eighth update."""
    records = pd.read_parquet(ROOT / "docs" / "records" / "protocols.parquet")
    for _, run in records[(records.kind == "run") & (records.lag == "bounded")].iterrows():
        yield run.run, run, records[(records.kind == "update") & (records.run == run.run)]


RUNS = {name: (run, updates) for name, run, updates in bounded_runs()}


def test_all_bounded_runs_are_there() -> None:
    assert len(RUNS) == 14


@pytest.mark.parametrize("name", RUNS)
def test_the_realised_staleness_is_predicted_from_seconds(name: str) -> None:
    """Nothing but the seconds of the record goes in: of an update, of the workers' idleness, of the whole run.

    Every new best is saved; that each evaluation finds one is what a plan has to assume.
    """
    run, updates = RUNS[name]
    per_step, every, chunk_spread = 4, 100, 0.3
    update_s = updates["time/update_s"].mean()
    chunk_s = per_step * (update_s + (updates["time/wait_s"] - updates["time/generator_idle_s"]).mean())
    whole_s = float(run.finished) - float(run.started) - STARTING_S
    steps_s = run.updates * (update_s + updates["time/wait_s"].mean())
    evaluation_s = (whole_s - steps_s) / (1 + run.updates / every)
    rng = random.Random(1)
    steps = simulate(
        BoundedLag(int(run.staleness), per_step),
        Workers(1, lambda: rng.gammavariate(chunk_spread**-2, chunk_s * chunk_spread**2)),
        lambda: rng.gammavariate(chunk_spread**-2, update_s * chunk_spread**2),
        batches=int(run.updates) // per_step,
        chunks=1,
        pauses=Pauses(every=every, sampling_s=evaluation_s / 2, grading_s=evaluation_s / 2, checkpoint_every=400),
    )
    predicted = mean(step.version - chunk.version for step in steps for chunk in step.batch.chunks)
    recorded = updates.staleness_mean.mean()  # of the first update of a step
    assert abs(predicted - recorded) <= max(2.0, 0.1 * recorded), (predicted, recorded)


# What an H200 was measured to do ---------------------------------------------------------------------------

H200 = DEVICES[-1]
SMALL = PUBLISHED["Qwen/Qwen2.5-1.5B-Instruct"]
TOKENS = 128 * 640 + 16 * 200  # responses of 256 to 1,024 tokens after 200 of prompt


@cache
def planned(*words: str) -> Config:
    (config,) = plan([*words, "dry_run=true", "tracking=none"]).cells
    return config


@pytest.mark.parametrize("words, seconds", [
    (["algo=grpo"], 4.8),
    (["algo=m2po", "staleness=1"], 6.05),
    (["algo=m2po"], 4.8),  # its log-probs are those of the rollouts: no extra pass
    (["algo=grpo", "model.gradient_checkpointing=false"], 4.1),
])  # fmt: skip
def test_an_update_takes_the_measured_seconds(words: list[str], seconds: float) -> None:
    config = planned("experiment=gsm8k_m2po", *words)
    assert update_s(config, SMALL, H200, TOKENS) == pytest.approx(seconds, rel=0.15)


@pytest.mark.parametrize("rollout, running, tokens_a_second", [
    ("vllm", 256, 13_700),
    ("vllm", 1024, 26_800),
    ("torch", 256, 8_740),
])  # fmt: skip
def test_engines_sample_the_measured_tokens_a_second(rollout: str, running: int, tokens_a_second: float) -> None:
    config = planned("experiment=gsm8k_m2po", f"rollout={rollout}")
    assert running / step_s(config, SMALL, H200, running, 500) == pytest.approx(tokens_a_second, rel=0.15)


@pytest.mark.parametrize("at_once, tokens_a_second", [(256, 13_700), (1024, 26_800)])
def test_an_engine_that_is_kept_full_samples_as_measured_at_any_number_of_sequences(
    at_once: int, tokens_a_second: float
) -> None:
    config = planned("experiment=gsm8k_m2po", f"rollout.vllm.max_num_seqs={at_once}", "rollout.max_prompt_tokens=400")
    responses = 40 * at_once
    tokens = responses * config.rollout.max_new_tokens / 2
    assert tokens / sampling_s(config, SMALL, H200, responses) == pytest.approx(tokens_a_second, rel=0.15)


def test_fewer_sequences_run_at_once_where_the_cache_holds_fewer() -> None:
    config, seven = planned("experiment=qwen_7b"), PUBLISHED["Qwen/Qwen2.5-7B-Instruct"]
    a100, h200 = (at_once(config, seven, device, 1024) for device in (DEVICES[2], H200))
    assert 0 < a100 < h200 < 1024
    small = at_once(config, replace(seven, layers=7), H200, 1024)
    assert small == 1024


def test_a_plan_counts_with_the_longest_prompt_of_the_task() -> None:
    config = planned()
    longest = max(len(problem.prompt) for problem in build.task(config).train(1, range(64)))
    assert dry_run.sized(config).rollout.max_prompt_tokens == longest == 13
    assert "prompt ≤ 13," in dry_run.report(plan(["dry_run=true", "tracking=none"]))


def test_a_plan_leaves_a_response_its_positions(tmp_path: Path) -> None:
    words = ("model=hf", f"model.path={make_model(tmp_path / 'm', max_position_embeddings=256)}", "task=gsm8k")
    assert dry_run.sized(planned(*words)).rollout.max_prompt_tokens == 128
    assert dry_run.sized(planned(*words, "rollout.max_new_tokens=56")).rollout.max_prompt_tokens == 200


@pytest.mark.parametrize(
    ("words", "batches", "is_said"),
    [
        (["updates=16", "staleness=64"], "4 batches, all from the base model", True),
        (["updates=64", "staleness=64"], "16 batches, all from the base model", True),
        (["updates=64", "staleness=two_point:64:0:.5"], "16 batches, all in part from the base model", True),
        (["updates=68", "staleness=two_point:64:0:.5"], "17 batches, all in part from the base model", False),
        (["updates=68", "staleness=64"], "17 batches, all from the base model", False),
        (["updates=72", "staleness=64"], "18 batches, the first 17 from the base model", False),
        (["updates=4"], "1 batch, all from the base model", False),
        (["updates=4", "staleness=64", "lag=bounded", "driver=overlapped"], "1 batch, all from the base model", False),
    ],
)
def test_a_staleness_that_a_run_is_too_short_for_is_said(words: list[str], batches: str, is_said: bool) -> None:
    plans = plan([*words, "dry_run=true", "tracking=none"])
    text = " ".join(dry_run.report(plans).split())
    said = f"{plans.cells[0].staleness} is never reached: in {plans.cells[0].updates} updates nothing is more than"
    assert batches in text and (said in text) == (said in " ".join(header(plans).split())) == is_said


def test_the_memory_of_generation_is_one_answer() -> None:
    """What a plan says of a model whose number of parameters alone is known is what it says of one whose shape is."""
    size = 1_543_714_304
    words = ("experiment=gsm8k_m2po", "staleness=4", "rollout.behaviour=trainer", "ray.gpus_per_actor=1")
    for driver in ("serial", "overlapped", "ray"):
        config = planned(*words, f"driver={driver}", f"model.parameters={size}")
        one, share = verdict(config, SMALL, H200), config.rollout.vllm.gpu_memory_utilization * H200.usable
        beside = one.engine - share - (0 if driver == "ray" else learner(config, SMALL).total)
        assert dry_run.estimate(config).engine_bytes == pytest.approx(beside + 2 * size, rel=1e-6), driver


# The recipe of 7 B on one node ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def seven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 7.6 billion parameters that are not there."""
    sizes = {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28}
    ends = {"pad_token_id": 0, "eos_token_id": 0, "bos_token_id": None}
    config = Qwen2Config(**sizes, **ends, num_key_value_heads=4, vocab_size=152064, dtype="bfloat16")
    return hollow_model(tmp_path_factory.mktemp("seven") / "model", config)


def test_the_recipe_fits_a_node_and_keeps_its_engines_busy(seven: Path) -> None:
    words = ["experiment=qwen_7b", f"model.path={seven}", "model.parameters=null", "dry_run=true", "tracking=none"]
    plans = plan(words)
    text = " ".join(dry_run.report(plans).split())
    assert "7.62 G parameters" in text and "on each of 5 devices" in text
    assert "40 GB no" in text and "80 GB yes" in text and "on H100s" in text
    assert dry_run.refusals(plans) == []
    assert dry_run.parameters(plans.cells[0]) == 7_615_616_512


def test_the_recipe_validates_with_a_model_and_data(seven: Path, tmp_path: Path) -> None:
    """All but what this machine cannot have: GPUs, and vLLM on them."""
    train = write_jsonl(tmp_path / "train.jsonl", boxed_rows(24))
    test = write_jsonl(tmp_path / "test.jsonl", boxed_rows(4, first=100))
    data = [f"task.path={train}", f"task.test_path={test}", "task.validation_problems=4"]
    here = ["device=cpu", "rollout=torch", "driver=overlapped", "tracking=none", f"model.path={seven}"]
    (config,) = plan(["experiment=qwen_7b", *data, *here]).cells
    assert config.ranks == 5 and config.model.dtype == "bfloat16"


def test_one_device_does_not_hold_it() -> None:
    one = plan(["experiment=qwen_7b", "ranks=1", "driver=serial", "dry_run=true", "tracking=none"])
    (line,) = dry_run.refusals(one)
    assert line.startswith("model.path=Qwen/Qwen2.5-7B-Instruct: needs") and "more ranks with driver=ray" in line


def test_the_verdict_counts_what_lies_beside_the_learner() -> None:
    """serial: the engine's share; overlapped: a replica and two versions too; ray: nothing."""
    words = ("experiment=gsm8k_m2po", "staleness=4", "rollout.behaviour=trainer", "ray.gpus_per_actor=1")
    share = planned(*words).rollout.vllm.gpu_memory_utilization
    serial, overlapped, ray = (
        verdict(planned(*words, f"driver={driver}"), SMALL, H200) for driver in ("serial", "overlapped", "ray")
    )
    alone = learner(planned(*words), SMALL).total
    assert serial.learner == pytest.approx(alone + share * H200.usable)
    assert overlapped.learner - serial.learner == pytest.approx(3 * 4 * 1_543_714_304)
    assert ray.learner == alone and ray.engine == pytest.approx(share * H200.usable + 4 * 1_543_714_304)


def test_tensor_parallel_engines_hold_more_sequences() -> None:
    words = ("experiment=qwen_7b", "model.path=Qwen/Qwen2.5-7B-Instruct")
    one, two = (
        verdict(
            planned(*words, f"rollout.vllm.tensor_parallel_size={ways}", f"ray.gpus_per_actor={ways}"),
            PUBLISHED[words[1][11:]],
            DEVICES[2],
        )
        for ways in (1, 2)
    )
    assert two.sequences > 2 * one.sequences > 0


# Refusals --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words, said", [
    (["ranks=9", "driver=overlapped", "learner.micro_batch_tokens=3000"],
     "at most 2 micro-batches of 3000 tokens, one a rank; expected ranks=2 or"),
    (["driver=ray", "ray.actors=3", "staleness=4"], "at most 2 chunks are under way at staleness=4; expected "
                                                    "rollout.chunks=2 or more"),
])  # fmt: skip
def test_idle_ranks_and_engines_are_refused_in_one_line(words: list[str], said: str) -> None:
    plans = plan([*words, "dry_run=true", "tracking=none"])
    (line,) = dry_run.refusals(plans)
    assert said in line and "\n" not in line


def test_a_bound_that_makes_the_learner_wait_is_refused() -> None:
    bounded = ["experiment=qwen_7b", "lag=bounded", "dry_run=true", "tracking=none"]
    (line,) = dry_run.refusals(plan([*bounded, "staleness=3"]))
    assert line.startswith("staleness=3: a chunk takes longer") and "expected at least" in line
    assert dry_run.refusals(plan([*bounded, "staleness=64"])) == []


def test_refusals_end_a_dry_run_with_an_error(command: Any) -> None:
    result = command("ranks=9", "driver=overlapped", "dry_run=true")
    assert result.returncode == 2 and "dry run: 1 cell" in result.stdout
    assert result.stderr.startswith("run.py: ranks=9") and result.stderr.count("\n") == 1


# Virtual time and this machine -------------------------------------------------------------------------------


def test_who_is_slower_decides_the_staleness() -> None:
    config = planned(
        "lag=bounded", "staleness=64", "driver=overlapped", "updates=1600", "eval.every=1600", "checkpoint_every=1600"
    )
    rates = Rates(update=1.0, chunk=2.0, publish=0.0, evaluation_sampling=0.0, evaluation_grading=0.0, checkpoint=0.0)
    slow = outlook(config, Rates(**{**vars(rates), "chunk": 8.0}))
    fast = outlook(config, rates)
    assert fast.learner_waits < 0.05 and fast.staleness > 50 and fast.engines_idle == pytest.approx(0.5, abs=0.1)
    assert slow.learner_waits == pytest.approx(0.5, abs=0.1) and slow.staleness < 25
    assert slow.step_s == pytest.approx(8.0, rel=0.1) and fast.step_s == pytest.approx(4.0, rel=0.1)


def test_this_machine_is_measured_and_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    few = ["rollout.prompts_per_step=4", "rollout.group_size=2", "updates=80", "eval.every=80", "tracking=none"]
    plans = plan([*few, "lag=bounded", "driver=overlapped", "staleness=8", "calibrate=true"])
    assert plans.only_estimated
    rates = dry_run.rates_of(plans.cells[0])
    assert rates is not None and min(vars(rates).values()) > 0
    text = " ".join(dry_run.report(plans).split())
    assert "this machine" in text and "staleness" in text and not list(tmp_path.iterdir())
    assert dry_run.rates_of(plans.cells[0]) is rates  # measured once


def test_the_largest_micro_batch_holds_whole_groups_where_it_can() -> None:
    config = planned("experiment=gsm8k_m2po")
    one = largest_micro_batch(config)
    assert one.responses % config.rollout.group_size == 0 and one.tokens <= config.learner.micro_batch_tokens
    assert micro_batches(config) == -(-1024 // one.responses)
