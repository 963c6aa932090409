"""The documented way to add a loss inside the repository, followed in a copy of it: no test is left red."""

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NEEDED = ("algorithms", "conf", "harness", "parity", "tests", "docs/algorithms", "pyproject.toml")
PAGE = (ROOT / "docs" / "adding-an-algorithm.md").read_text()


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """As much of the repository as these tests need, without what records and caches hold."""
    for name in NEEDED:
        source, target = ROOT / name, tmp_path / name
        target.parent.mkdir(exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    for page in (ROOT / "docs").glob("*.md"):
        shutil.copy(page, tmp_path / "docs")
    return tmp_path


def insert(file: Path, before: str, text: str) -> None:
    content = file.read_text()
    assert before in content, f"{file.name} has no {before!r}"
    file.write_text(content.replace(before, text + before, 1))


def run_tests(copy: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(copy)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_method_added_as_documented_leaves_no_test_red(copy: Path):
    blocks = [block for _, block in re.findall(r"```(\w*)\n(.*?)```", PAGE, re.S)]
    code = next(b for b in blocks if "class HalfClip" in b)
    settings = next(b for b in blocks if b.startswith("_target_"))
    case = next(b for b in blocks if b.startswith("Case("))
    row = next(b for b in blocks if b.startswith("| [Half clip]"))
    inside, entry = "algorithms.half_clip.HalfClip", '"half_clip": HalfClip,'
    assert f"_target_: {inside}" in PAGE and entry in PAGE and "`from algorithms.interface`" in PAGE

    package, cases = copy / "algorithms", copy / "tests" / "algorithms" / "cases.py"
    (package / "half_clip.py").write_text(code.replace("from algorithms import", "from algorithms.interface import"))
    insert(package / "__init__.py", "from algorithms.interface", "from algorithms.half_clip import HalfClip\n")
    insert(package / "__init__.py", '    "m2po": M2PO,', f"    {entry}\n")
    (copy / "conf" / "algo" / "half_clip.yaml").write_text(settings.replace("my_package.half_clip.HalfClip", inside))
    insert(cases, '    Case("no_trust_region"', textwrap.indent(case.rstrip(), "    ") + ",\n")
    (copy / "docs" / "algorithms" / "half_clip.md").write_text("# Half clip (`algo=half_clip`)\n")
    insert(copy / "docs" / "algorithms" / "index.md", "| [M2PO](m2po.md)", row)

    # Every test of the new row, and those that go through the methods as a whole.
    files = [f"tests/algorithms/test_{name}.py" for name in ("interface", "parity_catalogue", "methods", "edge_cases")]
    chosen = "half_clip or test_interface or test_parity_catalogue"
    done = run_tests(copy, "-rp", "-k", chosen, *files, "tests/test_every_option.py")
    failed = [line for line in done.stdout.splitlines() if not line.startswith("PASSED")]
    assert done.returncode == 0, "\n".join(failed)[-3000:]
    assert len(re.findall(r"PASSED .*half_clip", done.stdout)) >= 30, "the row runs through every test there is"
