"""`python -m benchmarks.soak`: what a long run and many short ones leave behind, and whether that is within bounds.

memory     one real run at staleness 256, watched from outside: its resident memory from an update at which the
           rollout queue has long been full, to its end
leftovers  short runs one after the other in this process, which then must hold the files, threads and child processes
           that it held after the first of them

Reads /proc, so it needs Linux. Exit status 1 if a bound is broken.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from benchmarks.small_runs import TINY, config_of, prepare, start
from harness.command.cell import run_cell
from harness.config import Config
from harness.records.state import status_of

# Responses end at the task's usual length, so that every batch is equally large: the largest so far is what a process
# keeps, and a policy that may write longer responses would be measured instead of a leak.
LONG = ("algo=m2po", "staleness=256", "eval.every=100", "checkpoint_every=100", "rollout.max_new_tokens=15")
SHORT = ("algo=m2po", "staleness=4", "updates=8")
TINY_BATCH = TINY[:5]  # what the above leaves of it
DRIVERS = ("serial", "overlapped")
MAX_GROWTH = 0.01
SAMPLES = 200
PATIENCE_S = 30.0
MEGABYTES_A_PAGE = os.sysconf("SC_PAGE_SIZE") / 1e6

Part = tuple[bool, str]  # within bounds, and the table that shows it


# One long run ----------------------------------------------------------------------------------------


def memory(updates: int, bound: float, sizes: tuple[str, ...], scratch: Path) -> Part:
    overrides = (*sizes, *LONG, f"updates={updates}")
    samples = resident(config_of(overrides, scratch, sizes=()))
    settled = min(1000, updates // 3)
    late = {update: size for update, size in samples.items() if update >= settled}
    first, before = next(iter(late.items()))
    growth = max(late.values()) / before - 1
    shown = [list(late.items())[i * (len(late) - 1) // 8] for i in range(9)]
    rows = "\n".join(f"| {update} | {size:.1f} | {size / before - 1:+.2%} |" for update, size in shown)
    return (
        growth <= bound,
        f"""## One run of {updates} updates

| update | resident memory, MB | since update {first} |
|---:|---:|---:|
{rows}

Largest growth: {growth:+.2%}, at most {bound:.0%} expected, {len(late)} samples.
`{" ".join(overrides)}`
""",
    )


def resident(config: Config) -> dict[int, float]:
    """Megabytes of resident memory by the number of recorded updates. Raises RuntimeError if the run fails."""
    samples: dict[int, float] = {}
    rows, read = 0, 0
    child = start(config)
    while not os.waitpid(child, os.WNOHANG)[0]:
        time.sleep(0.05)
        with suppress(FileNotFoundError), (config.folder / "metrics.jsonl").open("rb") as file:
            file.seek(read)
            new = file.read()
            rows, read = rows + new.count(b"\n"), read + len(new)
        pages = int(Path(f"/proc/{child}/statm").read_text().split()[1])
        due = rows >= len(samples) * config.updates / SAMPLES or rows == config.updates
        if pages and due:  # a process that has just ended has none
            samples[rows] = pages * MEGABYTES_A_PAGE
    if status_of(config.folder) != "finished":
        raise RuntimeError(f"the long run ended {status_of(config.folder)}")
    return samples


# Many short runs -------------------------------------------------------------------------------------


def leftovers(runs: int, scratch: Path) -> Part:
    rows, good = [], True
    for driver in DRIVERS:
        config = config_of((*SHORT, f"driver={driver}"), scratch)
        finished = [run_cell(config)]
        time.sleep(1.0)  # threads that have been joined still have to leave the kernel
        before = held()
        finished += [run_cell(replace(config, seed=seed)) for seed in range(2, runs + 2)]
        after = held()
        deadline = time.monotonic() + PATIENCE_S
        while more(before, after) and time.monotonic() < deadline:  # a worker may still be at its last request
            time.sleep(0.1)
            after = held()
        assert set(finished) == {"finished"}, finished
        good &= not more(before, after)
        rows += [(driver, what, before[what], after[what]) for what in before]
    table = "\n".join(
        f"| {driver} | {what} | {len(first)} | {len(last)} | {', '.join(sorted(last - first)) or '–'} |"
        for driver, what, first, last in rows
    )
    return (
        good,
        f"""## {runs} short runs in one process

| driver | held | after a first run | after {runs} more | new |
|---|---|---:|---:|---|
{table}

`{" ".join((*TINY_BATCH, *SHORT))}`, a seed each.
""",
    )


def more(before: dict[str, set[str]], after: dict[str, set[str]]) -> bool:
    return any(len(after[what]) > len(before[what]) for what in before)


def held() -> dict[str, set[str]]:
    """What this process holds that outlives a run, by kind."""
    files, children = set(), set()
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the one that lists the folder
            files.add(f"{number} {os.readlink(f'/proc/self/fd/{number}')}")
    tasks = set(os.listdir("/proc/self/task"))
    for task in tasks:
        with suppress(OSError):  # a thread that has just ended
            children |= set(Path(f"/proc/self/task/{task}/children").read_text().split())
    return {
        "open files": files,
        "Python's threads": {f"{thread.name} {thread.ident}" for thread in threading.enumerate()},
        "the kernel's threads": tasks,
        "child processes": children,
    }


# All of it -------------------------------------------------------------------------------------------


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=("memory", "leftovers"), default=("memory", "leftovers"))
    parser.add_argument("--updates", type=int, default=10_000, help="of the long run")
    parser.add_argument("--tiny", action="store_true", help="tiny batches in the long run, not the default's")
    parser.add_argument("--growth", type=float, default=MAX_GROWTH, help="share of memory it may grow by")
    parser.add_argument("--runs", type=int, default=50, help="of each driver")
    parser.add_argument("--out", type=Path, help="write the tables there too")
    options = parser.parse_args()
    parts: dict[str, Callable[[Path], Part]] = {
        "memory": lambda scratch: memory(options.updates, options.growth, TINY_BATCH if options.tiny else (), scratch),
        "leftovers": lambda scratch: leftovers(options.runs, scratch),
    }
    prepare()
    good, tables = True, []
    for name in options.only:
        with tempfile.TemporaryDirectory(prefix="soak-") as scratch:
            within, table = parts[name](Path(scratch))
        print(table + ("\nwithin bounds\n" if within else "\nOUT OF BOUNDS\n"), flush=True)
        good &= within
        tables.append(table)
    if options.out:
        verdict = "Everything within bounds." if good else "**A bound is broken.**"
        head = f"# What runs leave behind\n\nWritten by `make soak`. {verdict}\n\n"
        options.out.write_text(head + "\n".join(tables), encoding="utf-8")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
