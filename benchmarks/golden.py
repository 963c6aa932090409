"""`make golden`: the final-weights hashes of every method, on this machine against those of a fixed commit.

tests/golden_hashes.json holds, for each processor model and torch version it was made on, the hash that every method
ends with after 40 updates at staleness 0 and 16. Floating-point sums depend on the processor, so on a machine that is
not in the file the only fair comparison is with the same machine: this command checks the file's commit out beside
the working tree, runs both, and names every case that differs. `--write` adds this machine and new methods to the file
and names the commit that is checked out; a hash that stands there for this machine and differs is named, and nothing is
written: delete it by hand if it should differ.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from algorithms import names
from harness import PROJECT
from harness.records.manifest import processor

FILE = PROJECT / "tests" / "golden_hashes.json"
COMMON = ("updates=40", "eval.every=40", "tracking=none")
VARIANTS = ("released", "all_tokens_mean", "areal")
TIGHT = "algo=m2po algo.m2_threshold=0.0005"  # the default threshold masks nothing this early
STALENESS = (0, 16)


def cases() -> list[str]:
    """Overrides of every case, one string each."""
    settings = [f"algo={name}" for name in names()]
    settings += [f"algo=m2po algo.variant={variant}" for variant in VARIANTS]
    settings += [TIGHT] + [f"{TIGHT} algo.variant={variant}" for variant in VARIANTS]
    return [f"{setting} staleness={s}" for setting in settings for s in STALENESS]


def machine() -> str:
    """Processor model and torch version: what the bits of a run depend on beside the code."""
    return f"{processor()} · torch {torch.__version__}"


def stored() -> dict[str, Any]:
    """{"commit": sha, "machines": {machine: {case: hash}}}."""
    return dict(json.loads(FILE.read_text()))


def final_hash(tree: Path, case: str) -> str:
    """`final_weights_sha256` of one case, run by the code in `tree`. Raises RuntimeError with what the run said."""
    with tempfile.TemporaryDirectory(prefix="golden-") as folder:
        ended = subprocess.run(
            [sys.executable, str(tree / "run.py"), *case.split(), *COMMON, f"runs_dir={folder}"],
            cwd=folder,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(tree)},
            capture_output=True,
            text=True,
            check=False,
        )
        manifests = list(Path(folder).glob("*/*/manifest.json"))
        if ended.returncode or len(manifests) != 1:
            raise RuntimeError(f"{case}: {ended.stderr.strip()[-300:]}")
        return str(json.loads(manifests[0].read_text())["final_weights_sha256"])


def hashes(tree: Path) -> dict[str, str]:
    """The hash of every case, two runs at a time."""
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(cases(), pool.map(lambda case: final_hash(tree, case), cases()), strict=True))


@contextmanager
def checkout(commit: str) -> Iterator[Path]:
    """The tree of a commit of this repository, in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="golden-tree-") as folder:
        archive = subprocess.run(["git", "-C", str(PROJECT), "archive", commit], capture_output=True, check=True)
        subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
        yield Path(folder)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.golden", description=__doc__)
    parser.add_argument("--write", action="store_true", help="add this machine and new methods to the file")
    options = parser.parse_args()
    known: dict[str, Any] = stored() if FILE.is_file() else {"commit": "", "machines": {}}
    mine = hashes(PROJECT)
    if options.write:
        expected = known["machines"].get(machine(), {})
    else:
        with checkout(known["commit"]) as tree:
            expected = hashes(tree)
    differing = [case for case in expected if mine.get(case) != expected[case]]
    if options.write and not differing:
        known["commit"] = subprocess.check_output(["git", "-C", str(PROJECT), "rev-parse", "HEAD"], text=True).strip()
        known["machines"][machine()] = mine
        FILE.write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n")
        print(f"{len(mine)} hashes of {machine()} written to {FILE}")
    print(f"{len(expected) - len(differing)} of {len(expected)} cases end with the hash of {known['commit'][:10]}")
    print("".join(f"differs: {case}\n" for case in differing), end="")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
