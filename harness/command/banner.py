"""First and last lines of a command: what will run and where its records go; what was found, what to type next."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import textwrap
from collections.abc import Iterator
from pathlib import Path

from harness import build
from harness.command.output import python, starter
from harness.command.plan import Plan
from harness.command.watch import labels
from harness.config import Config
from harness.errors import printable
from harness.records.layout import SAMPLES
from harness.records.state import status_of
from harness.records.tail import validation_scores
from harness.tracking.store import default_uri, store_uri

OWN_KEYS = re.compile(r"\+?(algo|staleness|seed|repeat|fork|stop_at)\b")  # of one run, not of its comparison
NOT_OF_A_RUN = re.compile(r"\+?(allow_code|sandbox|runs_dir|device|tracking)\b")  # an evaluation has to be told again
SEEDS = "1,2,3,4,5,6"  # fewer pairs than six can show nothing: of five, 2/2⁵ is above .05


def header(plan: Plan) -> str:
    """What will run, where its records go, and how to know when it ends; "" where everything has finished before."""
    first, due = plan.cells[0], sum(status_of(cell.folder) != "finished" for cell in plan.cells)
    if not due:
        return ""
    where = plan.sweep_folder if plan.is_sweep else first.folder
    model = f", model {first.model.path}" if first.mode == "train" else ""
    task = f"task {first.choices['task']}{model}, {first.device}"
    estimated = first.mode == "train" and max(cell.updates for cell in plan.cells) > 10
    how_long = "the time left is shown after ten updates; " if estimated else ""
    stop = "Slurm's jobs go on after Ctrl-C" if plan.on_slurm else "Ctrl-C stops"
    lines = [f"{_count(plan, due)}: {task}", f"into {where}", f"{how_long}{stop}, the same command carries on"]
    return "\n".join(wrapped(printable(line)) for line in [*lines, *never_reached(plan)])


def never_reached(plan: Plan) -> list[str]:
    """A line for each staleness that its run is too short for."""
    short = [
        f"staleness={cell.staleness} is never reached: in {cell.updates} updates nothing is more than "
        f"{cell.updates - 1} updates old"
        for cell in plan.cells
        if cell.mode == "train" and not build.staleness_policy(cell).is_reached(cell.batches)
    ]
    return list(dict.fromkeys(short))


def _count(plan: Plan, due: int) -> str:
    if not plan.is_sweep:
        first = plan.cells[0]
        return (
            f"{labels(plan)[0]}, {first.updates} updates"
            if first.mode == "train"
            else f"evaluation of {first.checkpoint}"
        )
    done = len(plan.cells) - due
    lengths = sorted({cell.updates for cell in plan.cells})
    length = str(lengths[0]) if len(lengths) == 1 else f"{lengths[0]} to {lengths[-1]}"
    what = "evaluations" if plan.cells[0].mode == "evaluate" else f"runs of {length} updates"
    jobs = f", {plan.jobs} at a time" if plan.jobs > 1 else ""
    finished = f" ({done} finished before)" if done else ""
    return f"{len(plan.cells)} {what}{finished}{jobs}"


def learned(folder: Path) -> str:
    """What one finished training run shows, in a sentence; "" where it was never evaluated."""
    scores = validation_scores(folder)
    if not scores:
        return ""
    first, last = min(scores), max(scores)
    best = max(scores, key=lambda update: scores[update])
    more = "" if scores[best] == scores[last] else f"; the best was {scores[best]:.3f} after {best}"
    if not scores[best]:
        more = f"; no answer was right (they stand in {SAMPLES}; python -m harness.grade says how one is read)"
    return (
        f"accuracy on validation went from {scores[first]:.3f} to {scores[last]:.3f} in {last} updates{more} "
        "(one run: no comparison)"
    )


def next_steps(plan: Plan) -> str:
    """Commands that make sense after this one, each with what it is for; "" where there is none."""
    first = plan.cells[0]
    folder = plan.sweep_folder if plan.is_sweep else first.folder
    steps = [f"  {command}\n      {what}" for command, what in _steps(plan, first, folder)]
    return "\n".join(["next:", *steps]) if steps else ""


def _steps(plan: Plan, first: Config, folder: Path) -> Iterator[tuple[str, str]]:
    quoted = shlex.quote(str(folder))
    if plan.rungs:
        yield f"{python()} -m analysis tune {quoted} --final FILE.yaml", "the choices as a sweep on fresh seeds"
    elif plan.is_sweep:
        yield f"{python()} -m analysis leaderboard {quoted}", "the methods in order, with intervals and tests"
    elif first.mode == "train":
        given = plan.overrides[0]
        again = [shlex.quote(word) for word in given if NOT_OF_A_RUN.match(word)]
        evaluation = [_program(first), "mode=evaluate", f"checkpoint={quoted}", *again]
        yield " ".join(evaluation), "its best checkpoint, evaluated once more"
        other = "grpo" if first.choices["algo"] != "grpo" else "m2po"
        words = [f"algo={first.choices['algo']},{other}", f"staleness={first.staleness}", f"seed={SEEDS}"]
        typed = [shlex.quote(word) for word in given if not OWN_KEYS.match(word)]
        yield " ".join([_program(first), "-m", *words, *typed]), "is the method ahead of another one?"
    if first.tracking.backend == "mlflow":
        yield _browser(first), "every run side by side, in the browser"


def _program(config: Config) -> str:
    """What starts LagRange, with where code from outside is found."""
    path = os.environ.get("PYTHONPATH") if config.allow_code else None
    return f"PYTHONPATH={shlex.quote(path)} {starter()}" if path else starter()


def _browser(config: Config) -> str:
    runs = Path(config.runs_dir)
    uri = store_uri(config.tracking.uri, runs)
    if uri != default_uri(runs):
        return uri if uri.startswith("http") else f"mlflow ui --backend-store-uri {shlex.quote(uri)}"
    if Path("Makefile").is_file() and Path("run.py").is_file():
        return "make ui" + ("" if config.runs_dir == "runs" else f" RUNS={shlex.quote(config.runs_dir)}")
    return f"{python()} -m harness.ui --runs {shlex.quote(config.runs_dir)}"


def wrapped(text: str) -> str:
    """A sentence in lines that fit the terminal, or 80 columns; a path is never divided."""
    width = min(shutil.get_terminal_size().columns, 120) - 1
    return textwrap.fill(text, max(40, width), subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
