"""Until when can a collapsing run still be rescued? Bisected with forks of it, each the run `fork=RUN@UPDATE SWITCH`.

A switch is what a fork types: another method, another learning rate, `staleness=0`. A fork rescues if its last
evaluation on validation is at least a share of the best one that its parent ever had. docs/lags.md has the rule.
"""

from __future__ import annotations

import math
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from analysis import tuning
from analysis.errors import AnalysisError
from harness import SETTINGS
from harness.records.layout import CHECKPOINT, CHECKPOINTS, MANIFEST

REFUSED = 2  # exit code of run.py
DECIDED = ("fork", "updates", "runs_dir", "dry_run", "stop_at", "mode")  # of every fork

Curve = tuple[np.ndarray, np.ndarray]  # updates and accuracy of a run's evaluations on validation, [n] each
Launch = Callable[[Sequence[str]], int]  # runs what the words behind run.py say; its exit code


@dataclass(frozen=True)
class Parent:
    """The run that is forked.

    checkpoints: the updates before its end that can be forked, ascending.
    updates: of a whole run. curve: its evaluations. seconds: an update took, evaluations included.
    metric: of eval.jsonl. target: the accuracy that a fork must end at to count as rescued.
    """

    folder: Path
    checkpoints: list[int]
    updates: int
    curve: Curve
    seconds: float
    metric: str
    target: float


@dataclass
class Search:
    """The forks of one switch.

    switch: as it was typed. curves: update of a fork → its evaluations, those of a failed one up to there.
    ends: update of a fork → its last accuracy; −inf where it failed.
    """

    parent: Parent
    switch: str
    curves: dict[int, Curve] = field(default_factory=dict)
    ends: dict[int, float] = field(default_factory=dict)

    def rescues(self, update: int) -> bool:
        """Whether the fork of an update that has been run was rescued."""
        return self.ends[update] >= self.parent.target

    @property
    def last(self) -> int | None:
        """The last update found to rescue, None if none is."""
        return max(filter(self.rescues, self.ends), default=None)

    @property
    def first_lost(self) -> int | None:
        """The first later update found to be too late, None if none is."""
        return min((u for u in self.ends if not self.rescues(u) and u > (self.last or 0)), default=None)


def read(folder: Path, metric: str, share: float) -> Parent:
    """The run to be forked.

    share: of its best accuracy on validation that a fork must end at.
    Raises AnalysisError for one that has not ended, has not collapsed, or keeps no checkpoint before its end.
    """
    if not 0 < share <= 1:
        raise AnalysisError(f"--share {share:g}: expected a share of the best accuracy, above 0 and at most 1")
    record = tuning.record_of(folder)
    if record is None or record.manifest["status"] not in ("finished", "failed"):
        status = "no run" if record is None else str(record.manifest["status"])
        raise AnalysisError(f"{folder}: {status}; expected the folder of a run that has ended")
    updates, accuracy = curve = tuning.validation(record, metric)
    if not len(updates):
        raise AnalysisError(f"{folder}: no evaluation of it, so no collapse can be seen")
    target, end = share * accuracy.max(), accuracy[-1]
    if not target:
        raise AnalysisError(f"{folder}: no answer was right at any evaluation, so there is nothing to be rescued to")
    if record.manifest["status"] == "finished" and end >= target:
        raise AnalysisError(
            f"{folder}: ends at {end:.3f}, its best is {accuracy.max():.3f}: it did not fall below {target:.3f} and "
            "needs no rescue; another --share draws the line elsewhere"
        )
    length = int(record.config["updates"])
    there = sorted(int(path.parent.name) for path in (folder / CHECKPOINTS).glob(f"[0-9]*/{CHECKPOINT}"))
    before = [update for update in there if update < length]
    if not before:
        raise AnalysisError(
            f"{folder}: keeps no checkpoint before its end; run it with record.keep_checkpoints=all and a small "
            "checkpoint_every"
        )
    elapsed = np.diff(record.updates["time/elapsed_s"].to_numpy())
    return Parent(folder, before, length, curve, float(elapsed[elapsed > 0].mean()), metric, float(target))


def words(search: Search, update: int, out: Path, more: Sequence[str]) -> list[str]:
    """What is typed behind run.py for one fork. more: words of every fork, such as device=cuda."""
    fork = f"fork={search.parent.folder.resolve()}@{update}"
    return [fork, *shlex.split(search.switch), *more, f"runs_dir={out.resolve() / 'runs'}"]


def check_switch(switch: str) -> None:
    """Raises AnalysisError for a switch that changes nothing, several runs' words, or a key that the search decides."""
    try:
        typed = shlex.split(switch)
    except ValueError as error:
        raise AnalysisError(f"--switch {switch}: {error}; expected KEY=VALUE, several in one pair of quotes") from error
    for word in typed or [""]:
        key, is_set, _ = word.lstrip("+~").partition("=")
        if not is_set or key.startswith("-"):
            raise AnalysisError(f"--switch {switch!r}: expected KEY=VALUE, several in one pair of quotes")
        if key in DECIDED:
            raise AnalysisError(f"--switch {switch}: {key} is the same for every fork; drop it")


def due(search: Search, ends: Mapping[int, float]) -> int | None:
    """The update to fork next: half-way between the last that rescues and the first that does not; None at the end.

    ends: update → last accuracy of the forks that are known.
    """
    places, target = search.parent.checkpoints, search.parent.target
    low = max((places.index(update) for update, end in ends.items() if end >= target), default=-1)
    high = min((places.index(u) for u, end in ends.items() if end < target and places.index(u) > low), default=None)
    high = len(places) if high is None else high
    return places[(low + high) // 2] if high - low > 1 else None


def ahead(search: Search, out: Path, more: Sequence[str], ends: Mapping[int, float]) -> list[int]:
    """The updates whose forks have still to be run at most: those of the longest way that the bisection can take.

    ends: update → last accuracy of the forks that it has asked for.
    """
    update = due(search, ends)
    if update is None:
        return []
    known = outcome(search, update, out, more)
    ways = [
        ahead(search, out, more, {**ends, update: end}) for end in ((known[0],) if known else (math.inf, -math.inf))
    ]
    longest = max(ways, key=lambda way: (len(way), sum(search.parent.updates - u for u in way)))
    return longest if known else [update, *longest]


def announcement(searches: Sequence[Search], out: Path, more: Sequence[str]) -> str:
    """How many runs there will be and how long they take, in one line."""
    parent = searches[0].parent
    left = [update for search in searches for update in ahead(search, out, more, {})]
    seconds = sum(parent.updates - update for update in left) * parent.seconds
    spans = f"{len(parent.checkpoints)} checkpoints ({parent.checkpoints[0]} to {parent.checkpoints[-1]})"
    return (
        f"{len(searches)} switch{'es' if len(searches) > 1 else ''} over {spans}: at most {len(left)} runs to update "
        f"{parent.updates}, about {seconds / 60:.1f} minutes at the parent's {parent.seconds:.2g} s an update, one "
        f"after the other; rescued: ends at {parent.target:.3f} or above on validation"
    )


def bisect(search: Search, out: Path, more: Sequence[str], launch: Launch) -> Iterator[str]:
    """Runs the forks of a switch one after the other until the last update that rescues is known.

    A fork that has finished is not run again: the harness skips it. Yields a line about each that has ended.
    Raises AnalysisError where one was refused or stopped.
    """
    while (update := due(search, search.ends)) is not None:
        typed = words(search, update, out, more)
        refused = launch(typed) == REFUSED
        known = outcome(search, update, out, more)
        if known is None:
            why = "was refused, as it says above" if refused else "has not ended; the same command carries on"
            raise AnalysisError(f"{' '.join(typed[:-1])}: {why}")
        search.ends[update], search.curves[update] = known
        yield f"{search.switch} at update {update}: {'rescued' if search.rescues(update) else 'not rescued'}"


def outcome(search: Search, update: int, out: Path, more: Sequence[str]) -> tuple[float, Curve] | None:
    """Last accuracy and evaluations of a fork that has ended, found by the command that it says it was started by."""
    typed = words(search, update, out, more)
    for manifest in sorted((out / "runs").glob(f"*/*/{MANIFEST}")):
        record = tuning.record_of(manifest.parent)
        if record and record.manifest["command"] == typed and record.manifest["status"] in ("finished", "failed"):
            curve = tuning.validation(record, search.parent.metric)
            return (float(curve[1][-1]) if record.manifest["status"] == "finished" else -math.inf), curve
    return None


def launch(typed: Sequence[str]) -> int:
    """The exit code of `run.py` with these words. Asked to stop, it asks the run, which leaves a checkpoint."""
    run = subprocess.Popen([sys.executable, str(SETTINGS / "run.py"), *typed])
    passed_on: dict[int, Callable[..., None]] = {
        signal.SIGINT: lambda *_: None,  # it has reached the run, too
        signal.SIGTERM: lambda *_: run.terminate(),
    }
    before = {number: signal.signal(number, handler) for number, handler in passed_on.items()}
    try:
        return run.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
