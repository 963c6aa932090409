"""`python -m harness.lag.imported verl|areal FOLDER …`: the schedule of another system's run, for lag=replay.

    verl 0.9.1    trainer.rollout_data_dir     STEP.jsonl, a line a trajectory: step, min_global_steps, max_global_steps
    AReaL 1.0.4   rollout.dump_to_file=true    VERSION/TASK.jsonl, a line a response: tail_version, head_version

A system's batch i becomes batch i here. The age of a trajectory, in steps, is how many steps had been made since the
weights that sampled it; docs/lags.md says what is lost on the way.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import UserError, first_line
from harness.lag.ages import in_fair_parts

VERL_ENDS = {"first": "min_global_steps", "last": "max_global_steps"}
AREAL_ENDS = {"first": "head_version", "last": "tail_version"}
WHOLE = re.compile(r"\d{1,12}", re.ASCII)
LARGEST = 10**9  # step or version, of any run there will be
MOST = 10**5  # chunks, updates or tasks a step


def verl(folder: Path, end: str = "last", steps_per_version: int = 1) -> list[np.ndarray]:
    """Ages in steps of the trajectories of each step, int [n] each, from what verl 0.9.1 dumps.

    folder: its trainer.rollout_data_dir.
    end: whether a trajectory counts as sampled by the "first" or the "last" version that it spans.
    steps_per_version: its async_training.trigger_parameter_sync_step; 1 where weights are published every step.

    Its step s, from 1, trains weights that s − 1 steps have made; its version v was made by v · steps_per_version.
    Raises UserError.
    """
    steps: dict[int, list[int]] = defaultdict(list)
    for file in folder.glob("*.jsonl"):
        for row in _rows(file):
            step, version = (_number(file, row, name) for name in ("step", VERL_ENDS[end]))
            if file.stem != str(step):
                raise UserError(f"{file}: holds step {step}; expected one STEP.jsonl for each step of a run")
            steps[step].append(step - 1 - version * steps_per_version)
    gaps = [step for step in sorted(steps)[:-1] if step + 1 not in steps]
    if not steps or gaps:
        missing = f"; {folder / f'{gaps[0] + 1}.jsonl'} is missing or empty" if gaps else ""
        raise UserError(f"{folder}: expected one STEP.jsonl for each step of a run; got {len(steps)} steps{missing}")
    return [_ages(f"{folder}: step {step}", steps[step]) for step in sorted(steps)]


def areal(folder: Path, end: str, tasks: int) -> list[np.ndarray]:
    """Ages in steps of the tasks (prompts with their group) of each step, int [tasks] each, from AReaL 1.0.4's dump.

    folder: `rollout` in the folder of its logs. end: as verl's.
    tasks: that it trains on in a step, its train_dataset.batch_size.

    The dump does not say when a task was trained on: it is taken to be in the order of the versions, batch i at
    version i. Raises UserError.
    """
    dumped = [file for file in folder.glob("*/*.jsonl") if file.parent.name.isdecimal()]
    files = sorted(dumped, key=lambda file: (int(file.parent.name), file.name))
    if len(files) < tasks:
        raise UserError(f"{folder}: holds {len(files)} VERSION/TASK.jsonl, fewer than the {tasks} tasks of a step")
    versions = [_version_of_task(file, AREAL_ENDS[end]) for file in files]
    whole = range(len(versions) // tasks)
    return [_ages(f"{folder}: batch {i}", [i - v for v in versions[i * tasks : (i + 1) * tasks]]) for i in whole]


def quantiles(ages: np.ndarray, count: int) -> np.ndarray:
    """As many ages as stand for those of a batch, ascending, int [count]: the middle one of each of `count` parts."""
    return np.sort(ages)[((np.arange(count) + 0.5) * len(ages) / count).astype(int)]


def schedule(steps: Sequence[np.ndarray], chunks: int, unit: int) -> Iterator[dict[str, Any]]:
    """The lines of a schedule behind its first.

    steps: ages in steps of the trajectories of each step. chunks: of a batch. unit: updates a step.
    Chance says which chunk has which age, the same in every call; where chunks are a multiple of the updates, every
    update of a step gets its part. Yields a line a batch.
    """
    for number, ages in enumerate(steps):
        dealt = in_fair_parts(quantiles(ages, chunks), 0, number, unit if chunks % unit == 0 else 1)
        yield {
            "batch": number,
            "chunks": [number * chunks + place for place in range(chunks)],
            "versions": [unit * max(0, number - int(age)) for age in dealt],
            "trained": [True] * chunks,
            "time": 0.0,
        }


def said(steps: Sequence[np.ndarray], chunks: int) -> str:
    """What of a log is kept, in a line for the reader."""
    kept = [np.minimum(quantiles(ages, chunks), number) for number, ages in enumerate(steps)]
    (theirs, most), (ours, top) = ((f"{ages.mean():.2f}", ages.max()) for ages in map(np.concatenate, (steps, kept)))
    cut = sum(int((ages > number).sum()) for number, ages in enumerate(steps))
    return (
        f"{len(steps)} steps; ages in steps: mean {theirs}, largest {most} in the log; mean {ours}, largest {top} with "
        f"{chunks} chunks a batch" + (f"; {cut} trajectories older than the log became as old as it" if cut else "")
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes a schedule to stdout, and what was kept to stderr; bad input is one line and exit code 2."""
    parser = argparse.ArgumentParser(prog="python -m harness.lag.imported", description="A schedule for lag=replay.")
    parser.add_argument("system", choices=("verl", "areal"), help="that wrote the log: verl 0.9.1 or AReaL 1.0.4")
    parser.add_argument("folder", type=Path, help="verl's trainer.rollout_data_dir, AReaL's folder of dumped rollouts")
    parser.add_argument("--chunks", type=_positive, required=True, help="rollout.chunks of the run that will replay it")
    parser.add_argument("--updates-per-step", type=_positive, default=4, help="of that run (default: 4)")
    parser.add_argument("--version", choices=("first", "last"), default="last",
                        help="which of the versions that a trajectory spans counts (default: last)")  # fmt: skip
    parser.add_argument("--steps-per-version", type=_positive, default=1, help="verl: trigger_parameter_sync_step")
    parser.add_argument("--tasks", type=_positive, help="AReaL: tasks a step, train_dataset.batch_size")
    asked = parser.parse_args(arguments)
    try:
        steps = _read(asked)
    except (UserError, OSError) as error:
        print(f"error: {first_line(error)}", file=sys.stderr)
        return 2
    facts = {"from": asked.system, "log": asked.folder.name, "version": asked.version}
    identity = {"updates_per_step": asked.updates_per_step, "rollout.chunks": asked.chunks}
    for line in ({"imported": facts, "identity": identity}, *schedule(steps, asked.chunks, asked.updates_per_step)):
        print(json.dumps(line))
    print(said(steps, asked.chunks), file=sys.stderr)
    return 0


def _read(asked: argparse.Namespace) -> list[np.ndarray]:
    if asked.system == "verl":
        return verl(asked.folder, asked.version, asked.steps_per_version)
    if not asked.tasks:
        raise UserError("areal: needs --tasks N, the tasks of a step: its dump does not say which step trained on one")
    return areal(asked.folder, asked.version, asked.tasks)


def _version_of_task(file: Path, name: str) -> int:
    """Of its first response, which stands for the prompt's group."""
    rows = _rows(file)
    if not rows:
        raise UserError(f"{file}: is empty; expected a line for each response of a task")
    if name == "head_version" and rows[0].get(name) == -1:
        raise UserError(
            f"{file}: head_version is -1, as AReaL writes it where the prompt's tokens count; expected --version last"
        )
    return _number(file, rows[0], name)


def _ages(where: str, ages: list[int]) -> np.ndarray:
    if min(ages) < 0:
        raise UserError(
            f"{where} trains on what was sampled by later weights; expected the --steps-per-version, or the --tasks, "
            "that the run had"
        )
    return np.array(ages)


def _rows(file: Path) -> list[dict[str, Any]]:
    try:
        lines = file.read_text(encoding="utf-8").removesuffix("\n").split("\n")  # others may stand in a response
        rows = [json.loads(line) for line in lines if len(lines) > 1 or line]
    except ValueError as error:
        raise UserError(f"{file}: expected a JSON object a line ({first_line(error)})") from error
    if not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{file}: expected a JSON object a line")
    return rows


def _number(file: Path, row: dict[str, Any], name: str) -> int:
    if name not in row:
        raise UserError(
            f"{file}: a line without the number {name}; docs/lags.md says how the system is made to write it"
        )
    value = row[name]
    number = int(value) if isinstance(value, str) and WHOLE.fullmatch(value) else value  # verl writes some as text
    if type(number) is not int or not 0 <= number <= LARGEST:
        raise UserError(f"{file}: {name} is {str(value)[:40]}; expected a whole number from 0")
    return number


def _positive(text: str) -> int:
    number = int(text)
    if not 1 <= number <= MOST:
        raise argparse.ArgumentTypeError(f"expected 1 to {MOST}")
    return number


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `… | head` is no error
    sys.exit(main())
