"""`python -m benchmarks.faults`: a seeded campaign of faults against small runs, and the table of what became of them.

Each run is a process of its own, forked so that nobody waits for imports, and struck from outside: a real SIGKILL at a
chosen byte of a record or at the n-th file call, real errors of the disk, real damage to files. After each fault the
same command is given again until the run has finished, and its weights, records and tokens are compared with those of a
run that nobody disturbed. The campaign is split over processes, and each keeps its seed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.fault_files import compiled
from benchmarks.fault_trial import CASES, GRADED, SIZES, Problem, Result, campaign, kinds

ALL = "lost", "hung", "traceback", "other"


def table(results: Sequence[Result], seed: int) -> str:
    """The campaign as Markdown."""
    tried = Counter(name for result in results for name in result.struck)
    wrong = {kind: Counter(_blamed(results, kind)) for kind in ALL}
    rows = "\n".join(
        f"| {name} | {tried[name]} | {' | '.join(str(wrong[kind][name]) for kind in ALL)} |" for name in kinds()
    )
    total = {kind: sum(problem.kind == kind for result in results for problem in result.problems) for kind in ALL}
    problems = [f"- {r.case}: {', '.join(r.struck)}: {p.kind}: {p.text}" for r in results for p in r.problems]
    skipped = "" if any(name in tried for name in ("power loss", "EIO, once")) else (
        "\nFaults at file calls were skipped: they need a C compiler.\n"
    )  # fmt: skip
    return f"""# The fault campaign

Written by `python -m benchmarks.faults --seed {seed}`: small real runs, each struck one to three times, given again
until finished, and compared with a run that nobody disturbed.

**{sum(tried.values())} faults over {len(results)} runs: {total["lost"]} lost, {total["hung"]} hung, \
{total["traceback"]} tracebacks, {total["other"]} other problems.**
{skipped}
| fault | tried | lost | hung | tracebacks | other |
|---|---:|---:|---:|---:|---:|
{rows}

Lost: the run did not finish, or ended with another hash of the final weights, other records (timings aside), other
token rows, an update twice or not at all, or another `config.yaml`. Hung: a process that took more than two minutes.
Traceback: on the terminal, or in `error.txt`. Other: files left over, an exit code that no command should have, an
error without a word or without the name of the file, an escape code on the terminal.

- A file call is an open that makes or empties a file, write, rename, unlink, mkdir, fsync, truncate or flock below
  `runs_dir`, drawn evenly over the run, and every fourth from its last tenth. Power loss: every file falls back to its
  size at its last fsync.
- Damage: each file of a run folder in turn is cut, emptied, removed, lengthened, gets a bit flipped or is replaced by
  rubbish of its kind. Then come `harness.status`, the same command, `mode=evaluate` of a checkpoint, and of
  `python -m analysis` `table`, `pack`, `compare` and in turn `leaderboard`, `figures`, `report`, over a good run and
  the damaged one.

Runs: {", ".join(f"`{' '.join(case)}`" for case in (*CASES, GRADED))}; {" ".join(f"`{key}`" for key in SIZES)}.
""" + ("\n## Problems\n\n" + "\n".join(problems) + "\n" if problems else "")


def _blamed(results: Sequence[Result], kind: str) -> list[str]:
    return [
        name for result in results for name in set(result.struck) if any(p.kind == kind for p in result.problems)
    ]  # fmt: skip


def parts(faults: int, jobs: int, seed: int) -> list[Result]:
    """Runs the campaign in several processes and returns all results. Raises SystemExit where one of them fails."""
    with tempfile.TemporaryDirectory(prefix="faults-") as scratch:
        library = compiled(Path(scratch))
        environment = os.environ | {"OMP_NUM_THREADS": "1"} | ({"LD_PRELOAD": str(library)} if library else {})
        files = [Path(scratch) / f"{part}.jsonl" for part in range(jobs)]
        command = [sys.executable, "-m", "benchmarks.faults", "--faults", str(-(-faults // jobs)), "--seed", str(seed)]
        processes = [
            subprocess.Popen([*command, "--part", str(part), "--jobs", str(jobs), "--out", str(file)], env=environment)
            for part, file in enumerate(files)
        ]
        codes = [process.wait() for process in processes]
        if any(codes):
            sys.exit(f"faults: a part of the campaign exited {max(codes, key=abs)}")
        rows = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    return [Result(r["case"], r["struck"], [Problem(**p) for p in r["problems"]]) for r in rows]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faults", type=int, default=600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2, help="processes side by side")
    parser.add_argument("--part", type=int, help="only this part, as JSON lines; the command itself uses it")
    parser.add_argument("--out", type=Path, help="write the table there too")
    options = parser.parse_args()
    if options.part is not None:
        results = campaign(options.faults, options.seed, options.part, options.jobs)
        options.out.write_text("".join(json.dumps(asdict(result)) + "\n" for result in results))
        return 0
    started = time.monotonic()
    results = parts(options.faults, options.jobs, options.seed)
    text = table(results, options.seed)
    print(text)
    print(f"{time.monotonic() - started:.0f} s")
    if options.out:
        options.out.write_text(text, encoding="utf-8")
    return 1 if any(result.problems for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
