"""The command line as a user types it: bad input, skip, resume, sweeps, records."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hydra import initialize_config_dir
from omegaconf import OmegaConf

from algorithms import AGGREGATIONS
from analysis.inference import ALPHA, smallest_p
from benchmarks.golden import machine
from harness.command.arguments import as_meant
from harness.command.banner import SEEDS, learned, next_steps
from harness.command.cell import label_of
from harness.command.compose import CONF, compose_one, set_project_root
from harness.command.help import defaults, help_text, version
from harness.command.mistakes import RENAMED
from harness.command.output import python, starter
from harness.command.plan import plan
from harness.command.reference import page
from harness.command.watch import varied
from harness.config import schema
from harness.errors import UserError
from harness.progress import VARIED
from tests.conftest import ROOT, SMALL, manifest, only_run, read_rows, until, without_clock

# arguments → what the one line must contain
REFUSED = [
    (["stalenes=3"], "did you mean staleness"),
    (["learner.lrr=1"], "did you mean learner.lr"),
    (["lr=1e-5"], "did you mean learner.lr?"),
    (["something=1"], "valid: algo, allow_code"),
    (["+something=1"], "valid: algo, allow_code"),
    (["+learner.lrr=1"], "did you mean learner.lr"),
    (["~learner.lr"], "cannot be taken out"),
    (["-m", "core=serial,ray"], "core: is now driver; type driver=serial,ray"),
    (["algo=m2p"], "did you mean m2po"),
    (["algo=nonsense_xyz"], "valid: "),
    (["sweep=stalenes"], "did you mean staleness"),
    (["staleness=abc"], "expected a number of updates, or a distribution (uniform:FROM:TO, "),
    (["staleness=null"], "staleness=null: expected at least 0 updates, or a distribution"),
    (["staleness=unifrom:0:8"], "did you mean uniform?"),
    (["staleness=uniform:0:6"], "6: ages are multiples of updates_per_step=4"),
    (["staleness=two_point:0:8"], "expected two_point:AGE:AGE:SHARE"),
    (["staleness=uniform:0:8", "lag=bounded", "driver=overlapped"], "a distribution needs lag=exact"),
    (["staleness=by_length:0:8", "task=bandit"], "task=bandit does not say how long a response it expects"),
    (["record.tokens=[a,2]"], "=a: expected a whole number"),
    (["driver=seral"], "expected one of serial"),
    (["staleness=-4"], "expected at least 0"),
    (["learner.max_epochs=3"], "updates_per_step=4: not divisible by learner.max_epochs=3"),
    (["staleness=6"], "nearest valid: 4 or 8"),
    (["lag=bounded", "staleness=8"], "use driver=overlapped"),
    (["rollout.inflight=recompute"], "exact only with drain"),
    (["updates=10"], "nearest valid: 8 or 12"),
    (["staleness=0,4"], "add -m"),
    (["algo=grpo", "algo.m2_threshold=0.1"], "algo.m2_threshold: no parameter of GRPO; valid: aggregation, dual_clip"),
    (["algo.m2_thresold=1"], "algo.m2_thresold: no parameter of M2PO; did you mean m2_threshold?"),
    (["task.trems=2"], "task.trems: no parameter of Carry; did you mean terms"),
    (["lag.max_version=2"], "lag.max_version: no parameter of ExactLag; "),
    (["rollout.options.size=1"], "rollout.options.size: no parameter of TorchEngine; it has none"),
    (["algo.m2_threshold=-1"], "m2_threshold=-1"),
    (["algo.m2_threshold=nan"], "m2_threshold=nan"),
    (["algo.variant=papr"], "nearest: paper"),
    (["rollout.group_size=1"], "at least 2"),
    (["rollout.group_size=0"], "at least 2"),
    (["rollout.prompts_per_step=0"], "at least 2"),
    (["rollout.prompts_per_step=6"], "not divisible"),
    (["rollout.chunks=65"], "more chunks than the 64 prompts"),
    (["eval.every=6"], "nearest valid: 4 or 8"),
    (["stop_at=3"], "nearest valid: 4"),
    (["stop_at=0"], "at least 1"),
    (["eval.top_p=[1.5]"], "expected different shares above 0 and below 1"),
    (["record.keep_checkpoints=some"], "all, or a list of updates"),
    (["record.tokens=[3,2]"], "expected [first, last] updates"),
    (["record.shadow=[grpp]"], "record.shadow=grpp: no such algo; did you mean grpo"),
    (["record.shadow=grpo"], "expected all, or a list of names"),
    (["learner.kl_coefficient=1", "learner.reference=/nope"], "no such folder"),
    (["learner.kl_coefficient=1", "learner.reference=harness/assets/gsm8k_small"], "other tokens than"),
    (["rollout.top_p=0.9"], "full softmax"),
    (["model=hf"], "model.path: has no value; give model.path=VALUE"),
    (["model.path=/nope"], "no such folder"),
    (["task.terms=1"], "2 to 20"),
    (["device=cuda:99"], "not usable"),
    (["lag=replay"], "needs lag.schedule"),
    (["mode=evaluate"], "needs checkpoint"),
    (["checkpoint=x"], "only mode=evaluate reads it"),
    (["runs_dir=/proc/nowhere"], "cannot write"),
    (["algo._target_=os.system"], "allow_code=[os]"),
    (["-m", "staleness=0,6"], "staleness=6"),
    (["-m", "staleness=0,0"], "drop the repeated"),
    (["--seed=3"], "--seed: keys have no dashes in front; type seed=3"),
    (["--learner.lr", "3"], "type learner.lr=VALUE"),
    (["updates=ten"], "updates=ten: expected a whole number"),
    (["dry_run=maybe"], "dry_run=maybe: expected true or false"),
    (["--fast"], "--fast: no such flag here; expected one of --help, "),
    (["--cfg", "dry_run=true"], "--cfg: shows job, hydra or all; type --cfg job"),
    (["algo=grpo", "--cfg"], "--cfg: shows job, hydra or all"),
    (["--hlep"], "--hlep: no such flag here; expected one of --help, "),
    (["--config-dir=x"], "--config-dir: no such flag here; a folder of configurations goes in hydra.searchpath="),
    (["staleness"], "staleness: expected KEY=VALUE"),
    (["=3"], "=3: expected KEY=VALUE"),
    (["seed==3"], "the value cannot be read; put it in quotes"),
    (["learner.lr=[1,"], "the value cannot be read; put it in quotes"),
    (["model.path='x"], "the value cannot be read; put it in quotes"),
    (["task.prompt=a b(c"], "task.prompt='a b(c'"),
    (["-m", "algo=glob(zz*)"], "names no cell"),
    (["-m", "staleness=interval(0,256)"], "an interval has no values of its own; type staleness=0,64"),
    (["sweep=staleness", "sweep=demo"], "give one sweep a command"),
    (["algo=grpo", "algo=m2po"], "algo: given 2 times; give one, or all of them: -m algo=grpo,m2po"),
    (["-m", "task=carry", "task=countdown", "seed=1,2"], "task: given 2 times; give one, or all of them"),
    (["-m", "sweep=staleness,demo"], "several sweeps; give one a command"),
    (["experiment=demo/grpo_stale", "experiment=demo/m2po_stale"], "give one experiment a command"),
    (["mode=evaluate", "checkpoint=nope"], "checkpoint=nope: no such folder"),
]


@pytest.mark.parametrize(("arguments", "expected"), REFUSED, ids=lambda value: " ".join(value)[:40])
def test_bad_input_is_refused_in_one_line_before_anything_is_written(arguments, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        plan(arguments)
    assert expected in str(error.value) and "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_no_word_of_a_parser_or_of_hydra_is_shown(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for word in (
        "staleness",
        "seed==3",
        "learner.lr=[1,",
        "model.path='x",
        "task.prompt=a(b",
        "algo=m2po,",
        "a b=c",
        "{}",
    ):
        with pytest.raises(UserError) as error:
            plan([word])
        assert not re.search("Exception|Lexer|mismatched|extraneous|EOF|token recognition", str(error.value)), word


def test_globs_ranges_home_and_flags_behind_overrides_are_understood(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    cells = plan(["seed=range(1,3)", "-m", "algo=glob(areal_m*)", "runs_dir=~/x", "tracking=none"]).cells
    assert [(cell.choices["algo"], cell.seed) for cell in cells] == [("areal_m2po", 1), ("areal_m2po", 2)]
    assert {cell.runs_dir for cell in cells} == {f"{tmp_path}/x"}
    assert as_meant(["updates=8", "-m", "algo=a,b"]) == ["-m", "updates=8", "algo=a,b"]
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nruns_dir: ~/y\n")
    (cell,) = plan([f"hydra.searchpath=[file://{tmp_path}]", "experiment=mine", "tracking=none"]).cells
    assert cell.runs_dir == f"{tmp_path}/y"


@pytest.mark.parametrize("front", ["", "+", "++"])
def test_a_parameter_that_its_yaml_does_not_list_is_one_all_the_same(front, tmp_path):
    (tmp_path / "algo").mkdir()
    (tmp_path / "algo" / "mine.yaml").write_text("_target_: algorithms.grpo.GRPO\nepsilon_high: 0.3\n")
    here = [f"hydra.searchpath=[file://{tmp_path}]", "algo=mine", "tracking=none", f"runs_dir={tmp_path}/runs"]
    cells = plan(["-m", *here, f"{front}algo.epsilon_low=0.1,0.2"]).cells
    assert [cell.algo["epsilon_low"] for cell in cells] == [0.1, 0.2]
    (cell,) = plan([*here, f"{front}task.reward_noise=0.1", f"{front}algo.epsilon_low=0.4"]).cells
    assert cell.task["reward_noise"] == 0.1 and cell.algo["epsilon_low"] == 0.4


def test_a_thousand_cells_are_planned_in_20_ms_each_and_as_if_each_were_alone():
    words = ["staleness=range(0,100,4)", "seed=range(0,20)", "algo=m2po,grpo", "learner.lr=1e-5", "tracking=none"]
    plan(["tracking=none"])  # imports
    started = time.process_time()
    cells = plan(["-m", *words]).cells
    assert len(cells) == 1000
    assert (time.process_time() - started) / len(cells) < 0.020
    alone = plan(["staleness=96", "seed=19", "algo=grpo", "learner.lr=1e-5", "tracking=none"]).cells[0]
    assert cells[-1] == alone and cells[-1].sha256() == alone.sha256()


def test_a_mistake_in_a_keys_name_costs_a_second_at_most(tmp_path):
    for word in ("stalenes=3", "lr=1e-5"):
        before = os.times()
        subprocess.run([sys.executable, str(ROOT / "run.py"), word], cwd=tmp_path, capture_output=True, check=False)
        after = os.times()
        # CPU time: a machine that is busy with other work takes longer.
        used = after.children_user - before.children_user + after.children_system - before.children_system
        assert used < 2.0, word  # 0.8 s where this was written


@pytest.mark.parametrize("old", RENAMED)
def test_an_old_key_is_told_its_new_name_on_the_command_line_and_in_yaml(old, tmp_path):
    with pytest.raises(UserError) as error:
        plan([f"{old}=value"])
    assert str(error.value) == f"{old}: is now {RENAMED[old]}; type {RENAMED[old]}=value"
    content = "value"
    for part in reversed(old.split(".")):
        content = {part: content}
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\n" + json.dumps(content))
    with pytest.raises(UserError) as error:
        plan([f"hydra.searchpath=[file://{tmp_path}]", "experiment=mine"])
    how = "- override /rollout: OPTION under defaults" if RENAMED[old] == "rollout" else "that in the yaml file"
    assert str(error.value) == f"{old}: is now {RENAMED[old]}; write {how}"


# yaml of a user's experiment → what the one line must contain
REFUSED_YAML = [
    ("learner: {lrr: 1}", "did you mean learner.lr"),
    ("learner: {lr: fast}", "learner.lr=fast: expected a number"),
    ("lag: bounded", "- override /lag: OPTION"),
    ("learner: [", "mine.yaml"),
    ("algo: {epsilon: 1}", "no parameter of M2PO"),
    ("defaults: [{override /algo: m2p}]", "algo/m2p"),
]


@pytest.mark.parametrize(("text", "expected"), REFUSED_YAML, ids=lambda text: text[:30])
def test_a_mistake_in_a_users_yaml_is_told_in_one_line(text, expected, tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{text}\n")
    with pytest.raises(UserError) as error:
        plan([f"hydra.searchpath=[file://{tmp_path}]", "experiment=mine"])
    assert expected in str(error.value) and "\n" not in str(error.value)


def test_the_command_says_it_on_one_line_with_a_bad_exit_code(command, tmp_path):
    result = command("stalenes=3")
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("run.py: stalenes: no such key; did you mean staleness?")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_no_causal_model_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = tmp_path / "bert"
    model.mkdir()
    with pytest.raises(UserError, match=r"no config\.json"):
        plan([f"model.path={model}"])
    (model / "config.json").write_text(json.dumps({"model_type": "t5", "architectures": ["T5EncoderModel"]}))
    with pytest.raises(UserError, match="not a causal language model"):
        plan([f"model.path={model}"])


def test_help_names_every_group_its_options_and_what_each_key_means(command):
    result = command("--help")
    assert result.returncode == 0
    for word in ("algo:", "no_trust_region", "task:", "rollout: torch, vllm", "staleness=0", "sweep:", "demo, "):
        assert word in result.stdout
    for name, key in schema().items():
        if name not in ("algo", "task", "lag"):
            meaning = re.escape(key.meaning.split()[0])  # beside the key, or below it on a narrow terminal
            assert re.search(rf"^{re.escape(name)}=.*\n?.*{meaning}", result.stdout, re.MULTILINE), name
    assert "m2_threshold: 0.04" in command("--cfg", "job").stdout


def test_a_sweep_that_lists_its_runs_has_help_and_no_configuration_of_its_own(command):
    assert command("sweep=tune/carry", "--help").stdout == command("--help").stdout
    refused = command("sweep=tune/carry", "--cfg", "job")
    assert refused.returncode == 2 and "lists many runs" in refused.stderr and len(refused.stderr.splitlines()) == 1


def test_help_tells_of_one_group_or_key_and_of_what_is_chosen():
    learner = help_text(["--help", "learner"])
    assert "learner: adamw" in learner and "learner.truncated=grade" in learner and "(grade | zero | mask)" in learner
    assert "task:" not in learner and "seed=" not in learner
    assert help_text(["--help", "staleness"]).startswith("== Keys (KEY=VALUE) ==\nstaleness=0")
    grpo = " ".join(help_text(["--help", "algo=grpo"]).split())
    assert "algo=grpo: algorithms.grpo.GRPO (algorithms/grpo.py)" in grpo and "(arXiv 2402.03300)" in grpo
    assert " | ".join(AGGREGATIONS) in grpo
    assert "algo.dual_clip=null c > 1 also zeroes" in grpo and "(≥ 1; default null)" in grpo
    assert "learner.lr" not in grpo and "reward_noise=0.0 probability that" in " ".join(
        help_text(["--help", "task"]).split()
    )
    assert "model.path=???" in help_text(["--help", "model", "model=hf"])
    for line, expected in ((["algo=grop"], "did you mean grpo"), (["learnr"], "did you mean learner")):
        with pytest.raises(UserError, match=expected):
            help_text(["--help", *line])


@pytest.mark.parametrize("columns", [60, 80, 140])
def test_help_is_as_wide_as_the_terminal(columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(sys, "argv", ["run.py"])
    shown = help_text(["--help"]).splitlines()
    typed = [line for line in shown if not line.startswith(("algo._target_", "task._target_", "rollout._target_"))]
    assert max(map(len, typed)) <= max(columns, 72)  # what is typed is never broken
    assert any("one run" in line for line in shown) and any("learning rate of AdamW" in line for line in shown)


def test_the_version_is_ours():
    assert version().startswith("LagRange ")


def test_the_defaults_that_help_reads_are_those_that_hydra_composes():
    set_project_root()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose_one([])
    values, choices = defaults()
    assert {name: value for name, value in OmegaConf.to_container(cfg).items() if name != "hydra"} == {
        name: value for name, value in values.items() if name not in ("choices", "interpolated", "forked")
    }
    assert choices.items() <= cfg.hydra.runtime.choices.items()


def test_the_page_about_the_configuration_is_current():
    assert (ROOT / "docs" / "configuration.md").read_text() == page(), "make reference"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished small run, and how it was made."""
    folder = tmp_path_factory.mktemp("finished")
    arguments = [*SMALL, "staleness=4", "record.tokens=[9,10]"]
    done = subprocess.run([sys.executable, str(ROOT / "run.py"), *arguments], cwd=folder, check=True, text=True,
                          capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip
    return folder, arguments, done


def test_a_run_leaves_the_promised_records(finished):
    folder, _, done = finished
    run = only_run(folder)
    assert str(run.relative_to(folder)) in done.stdout
    assert manifest(run)["status"] == "finished" and len(manifest(run)["final_weights_sha256"]) == 64
    assert manifest(run)["machine"].startswith(manifest(run)["depends_on"]["cpu"] + ", ")
    assert manifest(run)["depends_on"]["cpu"] in machine()  # by which golden hashes are kept
    rows = read_rows(run / "metrics.jsonl")
    names = (
        "update version reward surrogate staleness_min staleness_mean staleness_max masked_fraction clip_fraction "
        "m2_before m2_after m2_valid trust_region_fraction k1 k2 k3 ess entropy grad_norm"
    )
    assert [row["update"] for row in rows] == list(range(1, 17))
    assert all(set(names.split()) <= set(row) for row in rows)
    evaluations = read_rows(run / "eval.jsonl")
    assert [(e["update"], e["split"]) for e in evaluations] == [
        (update, split) for update in (0, 8, 16) for split in ("validation", "test")
    ]
    assert {p.name for p in (run / "checkpoints").iterdir()} == {"000008", "000016"}
    import pandas as pd

    tokens = pd.read_parquet(run / "tokens.parquet")
    assert sorted(tokens["update"].unique()) == [9, 10]
    assert {
        "token_id",
        "text",
        "abs_ratio_minus_1",
        "entropy",
        "kept",
        "advantage_sign",
        "staleness",
        "position",
    } <= set(tokens)


def test_a_few_lines_where_nobody_watches(finished):
    lines = finished[2].stderr.splitlines()
    assert len(lines) <= 8  # one more a minute
    (line,) = (line for line in lines if "the first prompt" in line)
    assert "problems without end to train on, to evaluate 8 validation, 8 test; the first prompt: " in line


def test_the_same_command_skips_what_is_finished(finished, command):
    folder, arguments, _ = finished
    before = {p: p.stat().st_mtime_ns for p in only_run(folder).rglob("*") if p.name != "lock"}
    result = command(*arguments, cwd=folder)
    assert result.returncode == 0
    assert {p: p.stat().st_mtime_ns for p in only_run(folder).rglob("*") if p.name != "lock"} == before


def test_another_runs_dir_gives_the_same_bits(finished, command):
    folder, arguments, _ = finished
    result = command(*arguments, "runs_dir=elsewhere", cwd=folder)
    assert result.returncode == 0
    (other,) = (folder / "elsewhere").glob("**/manifest.json")
    first = next(p for p in (folder / "runs").glob("**/manifest.json")).parent
    assert manifest(first)["final_weights_sha256"] == manifest(other.parent)["final_weights_sha256"]
    assert without_clock(read_rows(first / "metrics.jsonl")) == without_clock(read_rows(other.parent / "metrics.jsonl"))


def test_an_interrupted_run_carries_on_to_the_same_bits(command, tmp_path_factory, tmp_path):
    folder = tmp_path_factory.mktemp("whole")
    arguments = [*SMALL, "staleness=4", "updates=200", "eval.every=40"]  # long beside the time a signal takes
    command(*arguments, cwd=folder)
    typed = [sys.executable, str(ROOT / "run.py"), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(typed, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
    until(lambda: any(rows.read_text().count("\n") >= 4 for rows in tmp_path.glob("runs/**/metrics.jsonl")))
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1 and "the same command carries on" in said
    assert manifest(only_run(tmp_path))["status"] == "interrupted"
    subprocess.run(typed, cwd=tmp_path, env=environment, check=True, capture_output=True)
    first = next((folder / "runs").glob("**/manifest.json")).parent
    resumed = only_run(tmp_path)
    assert manifest(resumed)["final_weights_sha256"] == manifest(first)["final_weights_sha256"]
    for name in ("metrics.jsonl", "eval.jsonl"):
        assert without_clock(read_rows(resumed / name)) == without_clock(read_rows(first / name))


def test_a_sweep_writes_its_cells_figures_and_summary(command, tmp_path):
    result = command(
        "-m", "algo=grpo,m2po", "staleness=0,4", *SMALL, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"
    )
    assert result.returncode == 0, result.stderr
    (sweep,) = tmp_path.glob("runs/sweeps/*/sweep.json")
    cells = json.loads(sweep.read_text())["cells"]
    assert len(cells) == 4
    assert all(manifest(sweep.parent / cell["folder"])["status"] == "finished" for cell in cells)
    assert (sweep.parent / "figures" / "accuracy_vs_updates.png").is_file()
    assert "4 cells: 4 finished" in result.stdout


def test_a_failing_cell_stops_no_other_and_is_named(command, tmp_path):
    # A loss above max_loss is refused, and here one refusal ends the cell.
    result = command("-m", "learner.max_loss=1e-12,1e6", "learner.max_refused_in_a_row=1", *SMALL)
    assert result.returncode == 1
    assert "1 failed, 1 finished" in result.stdout
    assert "max_loss" in result.stderr
    statuses = sorted(manifest(p.parent)["status"] for p in Path(tmp_path).glob("runs/carry/*/manifest.json"))
    assert statuses == ["failed", "finished"]


def test_no_words_at_all_are_the_default_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (cell,) = plan([]).cells
    assert (cell.choices["algo"], cell.staleness, cell.updates) == ("m2po", 0, 400)


def test_what_is_typed_next_keeps_what_was_typed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    typed = ["algo=grpo", "algo.epsilon_high=0.3", "staleness=4", "seed=7", "task.terms=4", "repeat=2", *SMALL]
    (line,) = [line for line in next_steps(plan(typed)).splitlines() if "algo=grpo,m2po" in line]
    words = shlex.split(line)
    words = words[words.index("-m") :]
    assert words == ["-m", "algo=grpo,m2po", "staleness=4", f"seed={SEEDS}", "task.terms=4", *SMALL]
    assert len(plan(words).cells) == 12


def test_seeds_that_are_advised_can_show_a_difference():
    advised = len(SEEDS.split(","))
    assert smallest_p(advised) < ALPHA <= smallest_p(advised - 1)


def test_what_is_typed_next_has_the_consent_and_the_path_that_code_from_outside_needs(tmp_path, monkeypatch):
    (tmp_path / "my_rewards.py").write_text("def score(problem, response, row):\n    return 1.0\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    steps = next_steps(plan(["allow_code=[my_rewards]", "runs_dir=there", *SMALL])).splitlines()
    run = [line.strip() for line in steps if "checkpoint=" in line or "seed=" in line]
    assert len(run) == 2 and all(line.startswith(f"PYTHONPATH={tmp_path} ") for line in run)
    assert all({"allow_code=[my_rewards]", "runs_dir=there"} <= set(shlex.split(line)) for line in run)


def test_what_starts_this_python_is_its_path_where_the_shell_finds_another_one(tmp_path, monkeypatch):
    (here := tmp_path / "env" / "bin").mkdir(parents=True)
    for file in (here / "python", here / "lagrange"):
        file.touch(mode=0o755)
    monkeypatch.setattr(sys, "executable", str(here / "python"))
    monkeypatch.setattr(sys, "argv", [str(here / "lagrange")])
    monkeypatch.chdir(tmp_path)
    assert python() == "env/bin/python" and starter() == "env/bin/lagrange"
    monkeypatch.chdir(here)
    monkeypatch.setenv("PATH", str(here))
    assert python() == "python" and starter() == "lagrange"


def test_a_folder_of_configurations_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"hydra.searchpath=\[.*cof\]: no such folder; expected"):
        plan([f"hydra.searchpath=[file://{tmp_path}/cof]", *SMALL])


def test_a_run_without_a_right_answer_says_where_the_answers_are(tmp_path):
    rows = [{"split": "validation", "update": update, "sampled_accuracy": 0.0} for update in (0, 8)]
    (tmp_path / "eval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "from 0.000 to 0.000 in 8 updates; no answer was right (they stand in samples.jsonl" in learned(tmp_path)


def test_a_line_of_a_cell_says_what_tells_it_from_the_others(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    planned = plan(["-m", "learner.lr=1e-5,3e-5", "seed=1,2", *SMALL])
    monkeypatch.setenv(VARIED, ",".join(varied(planned)))
    assert [label_of(cell) for cell in planned.cells[::2]] == ["m2po s=0 seed=1 lr=1e-05", "m2po s=0 seed=1 lr=3e-05"]
    monkeypatch.setenv(VARIED, "")
    assert label_of(planned.cells[0]) == "m2po s=0 seed=1"
    evaluated = plan(["mode=evaluate", f"checkpoint={ROOT / 'harness' / 'assets' / 'carry'}", *SMALL]).cells[0]
    assert label_of(evaluated) == "evaluate carry seed=1", "of its method nothing is known"
