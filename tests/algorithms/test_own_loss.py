"""The documented loss from outside the repository, executed as written: the class, and the command."""

import importlib
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from algorithms import TokenStats
from tests.conftest import SMALL, manifest, only_run, read_rows

PAGE = Path(__file__).parents[2] / "docs" / "adding-an-algorithm.md"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """my_package and my_conf as the page has them."""
    text = PAGE.read_text()
    code, configuration = (re.search(rf"```{kind}\n(.*?)```", text, re.S).group(1) for kind in ("python", "yaml"))
    for path, content in {
        "my_package/__init__.py": "",
        "my_package/half_clip.py": code,
        "my_conf/algo/my_loss.yaml": configuration,
    }.items():
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in ("my_package.half_clip", "my_package"):
        sys.modules.pop(name, None)


def test_the_documented_loss_runs(package: Path):
    code = (package / "my_package" / "half_clip.py").read_text()
    assert len([line for line in code.splitlines() if line.strip()]) <= 20
    settings = yaml.safe_load((package / "my_conf" / "algo" / "my_loss.yaml").read_text())
    module, name = settings.pop("_target_").rsplit(".", 1)
    method = getattr(importlib.import_module(module), name)

    logp = torch.tensor([[0.1, 1.0, float("nan")]], dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[True, True, False]])
    out = method(**settings)(TokenStats(logp, torch.zeros(1, 3), torch.ones(1), mask))
    out.loss.backward()
    r = logp.detach().exp()
    torch.testing.assert_close(logp.grad, -torch.tensor([[r[0, 0], r[0, 1] / 2, 0.0]]) / 2)
    assert out.metrics["clip_fraction"] == 0.5 and "m2_before" in out.metrics

    with pytest.raises(ValueError, match="epsilon=-1; expected a number from 0 to inf"):
        method(epsilon=-1)
    with pytest.raises(TypeError, match="epsilom"):
        method(epsilom=0.1)


def test_the_documented_command_runs(package: Path, command: Callable, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTHONPATH", str(package))
    (line,) = re.findall(r"^PYTHONPATH=\$PWD python run\.py (algo=my_loss .*)$", PAGE.read_text(), re.M)
    given = [*shlex.split(line), *SMALL, "updates=8", "algo.epsilon=0.0001"]

    done = command(*given)
    assert done.returncode == 0, done.stderr[-2000:]
    run = only_run(package)
    assert manifest(run)["status"] == "finished"
    rows = read_rows(run / "metrics.jsonl")
    assert len(rows) == 8 and all("m2_before" in row and "clip_fraction" in row for row in rows)
    assert any(row["clip_fraction"] > 0 for row in rows)

    for change, expected in (
        ([a for a in given if "allow_code" not in a], "allow_code=[my_package]"),
        ([*given, "algo.epsilon=-1"], "epsilon=-1"),
        ([*given, "algo.epsilom=0.1"], "epsilom"),
    ):
        refused = command(*change, "runs_dir=elsewhere")
        assert refused.returncode == 2 and expected in refused.stderr, refused.stderr[-500:]
        assert "Traceback" not in refused.stderr and not (package / "elsewhere").exists()
