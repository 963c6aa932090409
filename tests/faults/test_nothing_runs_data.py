"""Nothing that is loaded can run code: a search of our own sources, and hostile command lines."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from harness.command.plan import plan
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


@pytest.mark.parametrize(
    "target", ["os.system", "subprocess.Popen", "builtins.eval", "harness.command.launch.sweep_context"]
)
def test_a_target_outside_our_packages_is_refused(tmp_path: Path, target: str) -> None:
    with pytest.raises(UserError, match=r"algo\._target_") as refused:
        plan([f"algo._target_={target}", f"runs_dir={tmp_path}", *SMALL])
    assert "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []
