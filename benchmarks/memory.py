"""Peak resident memory against staleness, batch and vocabulary, each case in a process of its own.

    python -m benchmarks.memory

Staleness and batch: three steps of the default run, the queue full. Vocabulary: log-probs of 2,048 tokens forward
and backward (`benchmarks/logprobs.py`), above the inputs; plain is `log_softmax` and `gather`.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys

from benchmarks import targets
from benchmarks.drivers import step, training
from benchmarks.turns import ROOT

STEPS = 3
CASES = {
    "the default: staleness 0, 64 prompts a batch": "staleness=0",
    "staleness 64": "staleness=64",
    "staleness 256": "staleness=256",
    "batch × 4": "rollout.prompts_per_step=256",
    "batch × 16": "rollout.prompts_per_step=1024",
}
VOCABULARIES = (1_024, 16_384, 151_936)


def peak_mb(overrides: list[str]) -> float:
    """Of this very process, after some steps."""
    with training("driver=serial", "staleness=0", *overrides) as run:
        for _ in range(STEPS):
            step(run)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def output(*arguments: str) -> str:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout


def logprobs_mb(variant: str, vocabulary: int) -> float:
    sizes = ("--vocabulary", str(vocabulary), "--hidden", "64", "--repeats", "1")
    return float(json.loads(output("benchmarks/logprobs.py", "--variant", variant, *sizes))["peak_mb"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(peak_mb(options.case))
        return
    found: dict[str, float] = {}
    print("| case | peak MB | against the default |\n|---|---|---|")
    for label, override in CASES.items():
        found[label] = float(output("-m", "benchmarks.memory", "--case", override).splitlines()[-1])
        print(f"| {label} | {found[label]:,.0f} | {found[label] - next(iter(found.values())):+,.0f} |", flush=True)
    print("\n| vocabulary | plain MB | chunked MB |\n|---|---|---|")
    for vocabulary in VOCABULARIES:
        plain, chunked = (logprobs_mb(variant, vocabulary) for variant in ("plain", "chunked"))
        print(f"| {vocabulary:,} | {plain:,.0f} | {chunked:,.0f} |", flush=True)
    more = found["staleness 256"] - next(iter(found.values()))
    print(targets.table([targets.row("peak memory at s = 256 above s = 0", [more], "≤ 50", "MB")]))


if __name__ == "__main__":
    main()
