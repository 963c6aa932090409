"""Nothing that is loaded can run code: a search of our own sources, and hostile command lines."""

from __future__ import annotations

import ast
import json
import re
import shutil
from pathlib import Path

import pytest

from harness.command.compose import check_shown, compose_cells
from harness.command.plan import plan
from harness.command.points import compose, file_of
from harness.errors import UserError
from tests.conftest import ROOT, SMALL

PACKAGES = ("algorithms", "harness", "analysis")
FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_METHODS = {("torch", "load"), ("yaml", "load"), ("yaml", "unsafe_load"), ("os", "system"), ("np", "load")}


def sources() -> list[Path]:
    return [ROOT / "run.py", *(path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py")))]


def test_no_source_unpickles_or_evaluates() -> None:
    found = []
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            where = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Import):
                found += [f"{where} import {a.name}" for a in node.names if a.name.split(".")[0] in FORBIDDEN_MODULES]
            elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in FORBIDDEN_MODULES:
                found.append(f"{where} from {node.module}")
            elif isinstance(node, ast.Call):
                f = node.func
                if isinstance(f, ast.Name) and f.id in FORBIDDEN_CALLS:
                    found.append(f"{where} {f.id}()")
                named = isinstance(f, ast.Attribute) and isinstance(f.value, ast.Name)
                if named and tuple(ast.unparse(f).split(".")) in FORBIDDEN_METHODS and "Safe" not in ast.unparse(node):
                    found.append(f"{where} {ast.unparse(f)}()")
                if any(
                    k.arg in ("shell", "trust_remote_code", "allow_pickle") and _true(k.value) for k in node.keywords
                ):
                    found.append(f"{where} shell, remote code or pickles switched on")
    assert not found, "\n".join(found)


def _true(node: ast.expr) -> bool:
    return not (isinstance(node, ast.Constant) and node.value is False)


EVIL = "{_target_: os.system, command: 'touch pwned'}"
THROUGH_HYDRA = {
    "a callback": [f"+hydra.callbacks.x={EVIL}"],
    "a callback's argument": ["+hydra.callbacks.x={_target_: logging.StreamHandler, stream: " + EVIL + "}"],
    "a callback by interpolation": [f"+task.options={EVIL}", "+hydra.callbacks.x=${task.options}"],
    "a launcher": ["hydra.launcher._target_=os.system"],
    "a sweeper": ["hydra.sweeper._target_=os.system"],
    "a log handler": ["+hydra.job_logging.handlers={x: {class: os.system, command: 'touch pwned'}}"],
    "a name that logging imports": [
        "+hydra.job_logging.handlers={x: {class: logging.StreamHandler, stream: 'ext://a.b'}}"
    ],
    "a log file": ["+hydra.job_logging.handlers={x: {class: logging.FileHandler, filename: pwned}}"],
    "a name that only a running job knows": ["+hydra.callbacks.x={_target_: '${hydra:job.name}'}"],
    "a log handler's class": ["+hydra.hydra_logging.handlers={x: {class: logging.os.system}}"],
}


@pytest.mark.parametrize("way", THROUGH_HYDRA)
def test_what_hydra_would_call_needs_allow_code(tmp_path: Path, way: str) -> None:
    """The same check in each of the ways to run, to sweep and to show a configuration."""
    words = [word.replace(": ", ":") for word in THROUGH_HYDRA[way]]
    for look in (plan, check_shown):
        with pytest.raises(UserError, match=r"hydra\..*code from outside.*allow_code=\[") as refused:
            look([*words, f"runs_dir={tmp_path}", *SMALL])
        assert "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("word", ["+hydra.job.env_set.LD_PRELOAD=x.so", "hydra.output_subdir=.hydra"])
def test_hydra_sets_no_variable_and_writes_no_file(tmp_path: Path, word: str) -> None:
    for look in (plan, check_shown):
        with pytest.raises(UserError, match=word.strip("+").partition("=")[0]):
            look([word, f"runs_dir={tmp_path}", *SMALL])


def test_a_shared_experiment_file_runs_nothing(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    text = "# @package _global_\nhydra:\n  callbacks:\n    x: {_target_: sympy.sympify, a: 'print(1)'}\n"
    (tmp_path / "experiment" / "shared.yaml").write_text(text)
    words = [f"hydra.searchpath=[file://{tmp_path}]", "experiment=shared", "dry_run=true", *SMALL]
    with pytest.raises(UserError, match=r"hydra.callbacks.x._target_=sympy.sympify.*allow_code=\[sympy\]"):
        plan(words)
    plan([*words, "allow_code=[sympy]"])


ROOT_PACKAGE = "# @package _global_\n"
SLURM = ROOT_PACKAGE + "defaults:\n  - override /hydra/launcher: slurm\nhydra:\n  launcher:\n    "
SWEEP = ROOT_PACKAGE + "hydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n      seed: 1,2\n      "
POINTS = "staleness: [0]\nseeds: [1]\nsettings: {allow_code: [sympy]}\nmethods:\n  grpo: [{}]\n"
GIVEN_BY_A_FILE = {  # file → what it holds, and the word that gives the same leave
    "experiment/packages": (ROOT_PACKAGE + "allow_code: [sympy]", "allow_code=[sympy]"),
    "experiment/reference": (ROOT_PACKAGE + "allow_code: ['${algo.x}']\nalgo: {x: sympy}", "allow_code=[sympy]"),
    "experiment/sandbox": (ROOT_PACKAGE + "sandbox: 'off'", "sandbox=off"),
    "experiment/cluster": (ROOT_PACKAGE + "ray: {address: '10.0.0.1:6379'}", "ray.address=10.0.0.1:6379"),
    "experiment/commands": (SLURM + "setup: [touch pwned]", "hydra.launcher.setup=[touch pwned]"),
    "experiment/options": (
        SLURM + "additional_parameters: {reservation: course}",
        "hydra.launcher.additional_parameters.reservation=course",
    ),
    "hydra/launcher/mine": ("defaults: [slurm]\nsetup: [touch pwned]", "hydra.launcher.setup=[touch pwned]"),
    "sweep/grid": (SWEEP + "+allow_code: '[sympy]'", "allow_code=[sympy]"),
    "sweep/points": (POINTS, "allow_code=[sympy]"),
}


@pytest.mark.parametrize("file", GIVEN_BY_A_FILE)
def test_leave_to_run_code_counts_only_where_it_is_typed(tmp_path: Path, file: str) -> None:
    text, word = GIVEN_BY_A_FILE[file]
    path = tmp_path / f"{file}.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    group, _, option = file.rpartition("/")
    words = [f"hydra.searchpath=[file://{tmp_path}]", f"{group}={option}", "task=bandit"]
    key = word.partition("=")[0]
    with pytest.raises(UserError, match=re.escape(f"{key}: set by a file")) as refused:
        composed(words)
    assert str(refused.value).replace("'", "").endswith(f"add {word}")
    composed([*words, word])


def composed(words: list[str]) -> None:
    file = file_of(words)
    compose_cells(words) if file is None else compose(words, file)


def test_a_launchers_setting_of_several_lines_is_a_command(tmp_path: Path) -> None:
    """sbatch reads it in a comment of a script, which ends with the line."""
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "shared.yaml").write_text(SLURM + 'partition: "gpu\\ntouch pwned"\n')
    with pytest.raises(UserError, match=r"hydra\.launcher\.partition: set by a file") as refused:
        check_shown([f"hydra.searchpath=[file://{tmp_path}]", "experiment=shared"])
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("launcher", ["basic", "joblib", "submitit_local", "submitit_slurm", "ray", "slurm"])
def test_stock_launchers_need_nothing(launcher: str) -> None:
    check_shown([f"hydra/launcher={launcher}"])


@pytest.mark.parametrize("flag", ["--config-dir=x", "-cn=other", "--config-path=x", "--experimental-rerun=x.pickle"])
def test_flags_that_swap_the_configuration_are_refused(flag: str) -> None:
    with pytest.raises(UserError, match=flag.partition("=")[0]):
        plan([flag, *SMALL])


def test_an_index_of_weights_that_names_a_pickle_is_refused(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "harness" / "assets" / "carry", tmp_path / "model")
    index = {"metadata": {}, "weight_map": {"a": "pytorch_model.bin"}}
    (tmp_path / "model" / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"names pytorch_model.bin; expected \*.safetensors"):
        plan([f"model.path={tmp_path / 'model'}", f"runs_dir={tmp_path / 'runs'}", *SMALL])
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "target", ["os.system", "subprocess.Popen", "builtins.eval", "harness.command.launch.sweep_context"]
)
def test_a_target_outside_our_packages_is_refused(tmp_path: Path, target: str) -> None:
    with pytest.raises(UserError, match=r"algo\._target_") as refused:
        plan([f"algo._target_={target}", f"runs_dir={tmp_path}", *SMALL])
    assert "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []
