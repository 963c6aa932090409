"""What staleness costs: CPU time and peak memory of the default run at s = 256 against s = 0, in turns.

python -m benchmarks.staleness_cost [--rounds 2] [--updates 400]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def run(staleness: int, updates: int) -> tuple[float, float]:
    """CPU seconds and peak resident memory (MB) of one whole command."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(ROOT / "run.py"), f"staleness={staleness}", f"updates={updates}"]
        more = [f"eval.every={updates}", "tracking=none", f"runs_dir={folder}"]
        process = subprocess.Popen([*command, *more], stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise RuntimeError(f"run.py ended with status {status}")
        return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--updates", type=int, default=400)
    options = parser.parse_args()
    rounds = [(run(0, options.updates), run(256, options.updates)) for _ in range(options.rounds)]
    time = statistics.median(stale[0] / fresh[0] for fresh, stale in rounds)
    memory = statistics.median(stale[1] - fresh[1] for fresh, stale in rounds)
    cpu = statistics.median(fresh[0] for fresh, _ in rounds)
    print(f"{options.rounds} rounds of {options.updates} updates: s = 0 takes {cpu:.1f} s of CPU, start-up included")
    print(f"s = 256 against s = 0: CPU time × {time:.3f} (≤ 1.05), peak memory {memory:+.0f} MB (≤ 50)")


if __name__ == "__main__":
    main()
