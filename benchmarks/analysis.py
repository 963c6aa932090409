"""How long the analysis of a large study takes: 200 runs of 2,000 updates, made up on the spot.

    python benchmarks/analysis.py [--runs 200] [--updates 2000] [--out results.json]

"Cold" means an empty cache of the analysis; the files may lie in the operating system's.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/analysis")]

from benchmarks import targets  # noqa: E402

BOUNDS = {"load_cold_s": 5, "load_cached_s": 1, "figures_s": 60, "report_mb": 6, "pack_mb": 5}
UNITS = {"s": "s", "mb": "MB"}
MADE = "tables.of_a_sweep(study); analysis.leaderboard.leaderboard(study)"
TIMED = """
import sys, time
from pathlib import Path
from analysis import {module}
import analysis.runs
folder, out = Path(sys.argv[1]), Path(sys.argv[2])
started = time.perf_counter()
{statement}
print(time.perf_counter() - started)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--updates", type=int, default=2000)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        os.environ["LAGRANGE_CACHE"] = str(place / "cache")
        write_study(place / "runs", options.runs, options.updates)
        found = measure(place)
    rows = []
    for name, value in found.items():
        what, _, unit = name.rpartition("_")
        rows.append(
            targets.row(
                f"analysis: {what.replace('_', ' ')}",
                [value],
                f"≤ {BOUNDS[name]}" if name in BOUNDS else "–",
                UNITS[unit],
            )
        )
    print(targets.table(rows))
    if options.out:
        sizes = {"runs": options.runs, "updates": options.updates}
        options.out.write_text(json.dumps(found | sizes, indent=1) + "\n")


def write_study(root: Path, runs: int, updates: int) -> None:
    """5 algorithms × 4 staleness values × as many seeds as it takes, tokens in the first of each."""
    import synthetic

    algorithms, staleness = ("grpo", "gspo", "tis", "m2po", "no_trust_region"), (0, 16, 64, 256)
    cells = [(a, s) for a in algorithms for s in staleness]
    for number in range(runs):
        algorithm, lag = cells[number % len(cells)]
        seed = 1 + number // len(cells)
        synthetic.write_run(
            root / f"{algorithm}-s{lag}-seed{seed}",
            algorithm,
            lag,
            seed,
            updates=updates,
            eval_every=40,
            tokens=seed < 4,
        )


def measure(place: Path) -> dict[str, float]:
    """Each step in a process of its own, as on the command line, imports not counted."""
    runs, load = place / "runs", "study = analysis.runs.load([folder])"
    found = {
        "load_cold_s": timed("runs", load, runs, place),
        "load_cached_s": min(timed("runs", load, runs, place) for _ in range(3)),
        "figures_s": timed("figures", f"{load}\nfigures.write(study, out / 'figures')", runs, place),
        "tables_s": timed("tables", f"{load}\nimport analysis.leaderboard\n{MADE}", runs, place),
        "report_s": timed("report", f"{load}\nreport.write(study, out)", runs, place),
        "pack_s": timed("pack", f"{load}\npack.write(study, out / 'study.parquet')", runs, place),
    }
    found["report_mb"] = (place / "index.html").stat().st_size / 1e6
    found["pack_mb"] = (place / "study.parquet").stat().st_size / 1e6
    return found


def timed(module: str, statement: str, folder: Path, out: Path) -> float:
    code = TIMED.format(module=module, statement=statement)
    command = [sys.executable, "-c", code, str(folder), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    return float(done.stdout)


if __name__ == "__main__":
    main()
