"""Every benchmark, one after the other → docs/benchmarks.md, which is written by this command alone.

python -m benchmarks [--rounds 25]
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path

from benchmarks import end_to_end
from benchmarks.pace import ROOT

PAGE = ROOT / "docs" / "benchmarks.md"
PACKAGES = ("torch", "transformers", "numpy")

# Title, module of this package and its arguments. Each is a command of its own as well.
OTHERS = (
    ("Tokens a second against transformers' generate", "generate", ()),
    ("The floor, and where the rest goes", "floor", ()),
    ("Losses against the peers that are importable", "losses", ()),
    ("Log-prob kernels", "logprobs", ()),
    ("Drivers", "drivers", ()),
    ("Checkpoints against staleness", "checkpoints", ()),
    ("Graders", "grading", ()),
    ("Analysis", "analysis", ()),
)


def machine() -> str:
    names = [line.split(":")[1].strip() for line in _cpu_info() if line.startswith("model name")]
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return (
        f"{len(names) or os.cpu_count()} × {names[0] if names else platform.processor()}, Python "
        f"{platform.python_version()}, {versions}; load {load} at the start; {time.strftime('%Y-%m-%d')}. No GPU "
        "was at hand: nothing here was measured on one."
    )


def _cpu_info() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.is_file() else []


def output_of(module: str, arguments: tuple[str, ...]) -> str:
    if not (Path(__file__).parent / f"{module}.py").is_file():
        return "(not here)"
    command = [sys.executable, "-m", f"benchmarks.{module}", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        return f"Failed with exit status {done.returncode}: `{last}`"
    text = done.stdout.strip()
    return text if "|---" in text else f"```\n{text}\n```"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--only", nargs="*", help="modules to run besides the end-to-end comparison")
    options = parser.parse_args()
    parts = [
        "# Benchmarks",
        f"Written by `make bench`; do not edit. {machine()}",
        "## End to end against TRL 1.16",
        "`python -m benchmarks.end_to_end`. Same base policy, task, prompts, 512 responses a batch, four updates of "
        "128, learning rate and threads; records and diagnostics on; rounds in turn.",
        *["\n".join(end_to_end.report(options.rounds, [1, 2], ROOT / "docs" / "figures", 3))],
        "![Both learning curves](figures/bench_trl_curves.png)",
    ]
    for title, module, arguments in OTHERS:
        if options.only is None or module in options.only:
            print(f"{title} …", file=sys.stderr, flush=True)
            parts += [f"## {title}", f"`python -m benchmarks.{module}`", output_of(module, arguments)]
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    parts.append(f"Largest child process: {peak:.0f} MB.")
    PAGE.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    main()
