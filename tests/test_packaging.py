"""The installed command: a wheel in an environment of its own, typed where and as users type it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT, SMALL, manifest

PARTS = ("run.py", "pyproject.toml", "README.md", "LICENSE", "algorithms", "analysis", "harness", "conf", "sweeps")


def run(command: list[str], cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    unwanted = ("HOME", "PYTHONPATH", "LAGRANGE_ROOT", "COLUMNS")
    environment = {name: value for name, value in os.environ.items() if name not in unwanted}
    environment |= {"OMP_NUM_THREADS": "1", **more}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of an environment that holds the wheel and, of the rest, what this one has."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in PARTS:
        here, there = ROOT / name, folder / "source" / name
        if here.is_dir():
            shutil.copytree(here, there, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            there.parent.mkdir(exist_ok=True)
            shutil.copy(here, there)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    offline = ["--no-deps", "--no-build-isolation", "--no-index"]
    built = run([*pip, "wheel", *offline, "-w", str(folder), str(folder / "source")], folder)
    assert built.returncode == 0, built.stderr
    (wheel,) = folder.glob("*.whl")
    venv = folder / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    python = venv / "bin" / "python"
    site = sysconfig.get_path("purelib", vars={"base": str(venv)})
    Path(site, "rest.pth").write_text(sysconfig.get_path("purelib") + "\n")
    put = run([*pip, "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)], folder)
    assert put.returncode == 0, put.stderr
    return venv / "bin"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    folder = tmp_path / "a folder of mine"
    folder.mkdir()
    return folder


def test_the_wheel_holds_every_package_and_every_configuration(installed: Path) -> None:
    names = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    folders = {
        p.parent.relative_to(ROOT) for top in ("algorithms", "analysis", "harness") for p in ROOT.glob(f"{top}/**/*.py")
    }
    assert names == {"lagrange", *(".".join(folder.parts) for folder in folders)}
    code = "import lagrange.run, harness; print(harness.SETTINGS)"
    settings = Path(run([str(installed / "python"), "-c", code], installed).stdout.strip())
    for top in ("conf", "sweeps"):
        ours, theirs = ({p.relative_to(base) for p in (base / top).rglob("*.yaml")} for base in (ROOT, settings))
        assert ours and ours == theirs and settings != ROOT
    assert (settings / "run.py").is_file()  # what a job of Slurm runs


def test_the_installed_command_does_what_run_py_does(installed: Path, place: Path) -> None:
    lagrange = str(installed / "lagrange")
    assert "m2po" in run([lagrange, "--help"], place).stdout
    refused = run([lagrange, "stalenes=3"], place)
    assert refused.returncode == 2 and refused.stderr.startswith(
        "lagrange: stalenes: no such key; did you mean staleness"
    )
    planned = run([lagrange, "sweep=demo", "dry_run=true"], place)
    assert planned.stdout.startswith("dry run: 8 cells"), planned.stderr
    assert not list(place.iterdir())
    typed = ["-m", "algo=grpo,m2po", "staleness=4", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", *SMALL]
    done = run([lagrange, *typed], place)
    assert done.returncode == 0, done.stderr
    runs = sorted((place / "runs" / "carry").iterdir())
    assert [manifest(one)["status"] for one in runs] == ["finished"] * 2
    assert manifest(runs[0])["git"]["sha"] == ""
    assert (next((place / "runs" / "sweeps").iterdir()) / "report" / "index.html").is_file()
    assert "found: " in done.stdout and "next:" in done.stdout
    once_more = run(
        [lagrange, "mode=evaluate", f"checkpoint={runs[0]}", "tracking=none", "task.test_problems=8"], place
    )
    assert once_more.returncode == 0 and "avg@4" in once_more.stdout, once_more.stderr
    assert run([str(installed / "python"), "-m", "harness.status", "runs"], place).stdout.count("finished") >= 3


def test_the_bits_of_the_installed_command_are_those_of_the_checkout(installed: Path, place: Path) -> None:
    words = [*SMALL, "updates=4", "staleness=4"]
    for name, typed in (("one", [str(installed / "lagrange")]), ("two", [sys.executable, str(ROOT / "run.py")])):
        done = run([*typed, *words, f"runs_dir={name}"], place)
        assert done.returncode == 0, done.stderr
    first, second = (manifest(next((place / name).glob("carry/*")))["final_weights_sha256"] for name in ("one", "two"))
    assert first == second


def test_why_an_installation_failed_is_said(tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\necho collecting\necho 'ERROR: no space left on this device' >&2\nexit 1\n")
    python.chmod(0o755)
    done = run(["make", "setup"], tmp_path)
    assert done.returncode != 0 and "no space left on this device" in done.stderr and ".venv/pip.log" in done.stderr
    assert not (tmp_path / ".venv" / ".base").exists()


def test_the_citation_names_this_version() -> None:
    held = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert held["version"] == project["version"] and held["license"] == project["license"] and held["authors"]


def test_tests_of_a_group_run_in_one_process(request: pytest.FixtureRequest) -> None:
    """The name of a group stands behind those of its tests, where pytest-xdist looks for it."""
    in_parallel = hasattr(request.config, "workerinput")
    grouped = [item for item in request.session.items if item.get_closest_marker("xdist_group")]
    assert not in_parallel or all("@" in item.nodeid for item in grouped)
