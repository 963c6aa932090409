"""The ratios that matter, in two minutes, against those of the last release: information, never a test.

python -m benchmarks.quick            prints them and flags what fell by more than 15 %
python -m benchmarks.quick --store    writes them to benchmarks/ratios.json

A ratio, too, is of a kind of processor: release 0.1.0 made 2.8 times TRL's updates on an AMD EPYC and 1.9 times on an
Intel Xeon. So the file holds them by processor and torch, and nothing is compared across two of them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks import end_to_end, floor, generate
from benchmarks.golden import machine
from benchmarks.workbench import workbench

STORED = Path(__file__).with_name("ratios.json")
ALLOWED_FALL = 0.15


def ratios() -> Iterator[tuple[str, float]]:
    """Larger is better. All of CPU time, which a busy neighbour moves less than the clock on the wall, and all
    against something that ran in turn with ours, since milliseconds are the machine's."""
    trl = end_to_end.compare("default, 1 thread", "harness/assets/carry", 1, 6)
    yield "updates/s against TRL", statistics.median(trl.cpu_ratios())
    bench = workbench()
    _, faster = generate.measured(6, bench, generate.contenders(bench))
    yield "tokens/s of the torch engine against generate", statistics.median(faster[generate.ENGINE])
    yield "the same with the trainer's log-probs", statistics.median(faster[generate.ENGINE_SCORED])
    _, over_floor = floor.report(repeats=3)
    yield "share of the floor in an update", 1 / over_floor


def line(name: str, value: float, before: float | None) -> str:
    if before is None:
        return f"{name:46} {value:6.2f}"
    fell = value < before * (1 - ALLOWED_FALL)
    return f"{name:46} {value:6.2f}   last release {before:.2f}{'   FELL' if fell else ''}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    releases = json.loads(STORED.read_text())
    stored = releases.get(machine(), {})
    if not stored and not options.store:
        print(
            f"{machine()}: nothing to compare with; `python -m benchmarks.quick` in a checkout of the last release "
            "prints its ratios on this machine",
            file=sys.stderr,
        )
    found = {}
    for name, value in ratios():
        found[name] = round(value, 3)
        print(line(name, value, stored.get(name)), flush=True)
    if options.store:
        STORED.write_text(json.dumps(releases | {machine(): found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
