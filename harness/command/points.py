"""A sweep that lists its points, each method's own: `sweeps/sweep/tune/*.yaml`, where a grid of Hydra's will not do.

Such a file holds `methods`. For each it lists points (overrides of one cell), which are run at every staleness and
seed of the file; with `rungs` only the best go on at each of them (docs/tuning.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml
from hydra import initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Transformer
from omegaconf import DictConfig

from harness.command.arguments import overrides_of, refuse_flags
from harness.command.compose import (
    CONF,
    build_config,
    compose_one,
    forget_hydra,
    search_path,
    set_project_root,
    with_values,
)
from harness.command.help import typed
from harness.config import Config
from harness.errors import UserError, nearest, require
from harness.lag.ages import canonical

Point = dict[str, Any]  # key → value
DIMENSIONS = ("algo", "staleness", "seed")  # the command line may choose among them


@dataclass(frozen=True)
class Points:
    """What a file says, and what the command line chose of it.

    methods: option of algo → its points. seeds, staleness: at which every point is run (a point may name its own
    staleness); a staleness is a number of updates or a distribution, as harness/lag/ages.py spells it.
    settings: overrides of all.
    rungs: updates at which the points of a method and staleness are compared, and only a share `keep` goes on.
    metric, outcome: what they are compared by, on validation.
    needs: method → methods whose published point it was made from; each counts as one of its points.
    """

    methods: dict[str, list[Point]]
    seeds: list[int]
    staleness: list[int | str] = field(default_factory=list)
    settings: Point = field(default_factory=dict)
    rungs: list[int] = field(default_factory=list)
    keep: float = 1 / 3
    metric: str = "sampled_accuracy"
    outcome: str = "area"
    needs: dict[str, list[str]] = field(default_factory=dict)

    def cells(self, method: str, number: int) -> Iterator[tuple[int | str, int]]:
        """Staleness and seed of every cell of a point."""
        own = self.methods[method][number].get("staleness")
        lags = self.staleness if own is None else [own] if not self.staleness or own in self.staleness else []
        yield from ((lag, seed) for lag in lags for seed in self.seeds)

    def overrides(self, method: str, number: int) -> list[str]:
        """Of a point's cells, staleness and seed aside."""
        values = {**self.settings, **self.methods[method][number]}
        return [f"algo={method}", *(f"{key}={typed(value)}" for key, value in values.items() if key != "staleness")]


@dataclass(frozen=True)
class Cell:
    """One cell of a list of points: its config and overrides, and the method and number of its point."""

    config: Config
    overrides: list[str]
    method: str
    number: int


def file_of(arguments: Sequence[str]) -> Path | None:
    """The file of the sweep that a command line names, if it lists points."""
    given = overrides_of(arguments)
    names = [word.removeprefix("sweep=") for word in given if word.startswith("sweep=")]
    found = [root / "sweep" / f"{name}.yaml" for name in names for root in search_path(given)]
    return next((file for file in found if file.is_file() and "\nmethods:" in file.read_text(encoding="utf-8")), None)


def compose(arguments: Sequence[str], file: Path) -> tuple[Points, list[Cell], DictConfig]:
    """Every cell of a sweep that lists its points, not yet checked.

    Returns the points, their cells, and the settings of Hydra's launcher.
    Raises UserError.
    """
    refuse_flags(arguments)
    given = overrides_of(arguments)
    points = read(file, given)
    cells: list[Cell] = []
    launcher = DictConfig({})
    set_project_root()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for method, own in points.methods.items():
            for number in range(len(own)):
                line = points.overrides(method, number)
                composed = compose_one(line, given)
                launcher = composed.hydra.launcher
                forget_hydra(composed)
                for lag, seed in points.cells(method, number):
                    words = [f"staleness={lag}", f"seed={seed}"]  # other values may follow from them: model=carry_rare
                    config = build_config(with_values(composed, words))
                    _check_rungs(points, config)
                    cells.append(Cell(config, [*line, *words], method, number))
    return points, cells, launcher


def read(file: Path, typed: Sequence[str] = ()) -> Points:
    """The points of a file.

    typed: overrides of the command line; those of DIMENSIONS choose, the others are settings of every cell.
    Raises UserError for a file that is no list of points, methods with different budgets, or an override with several
    values.
    """
    points = _checked(file, yaml.safe_load(file.read_text(encoding="utf-8")))
    settings, chosen = dict(points.settings), {}
    for override in OverridesParser.create().parse_overrides(list(typed)):
        name = override.get_key_element()
        if name == "sweep":
            continue
        if name in DIMENSIONS:
            chosen[name] = (
                list(override.sweep_iterator(Transformer.identity))
                if override.is_sweep_override()
                else [override.value()]
            )
        elif override.is_sweep_override() or any(name in point for own in points.methods.values() for point in own):
            raise UserError(
                f"{override.input_line}: {file.name} lists what is varied; edit it, or give one value of another key"
            )
        else:
            settings[name] = override.value()
    methods = [str(name) for name in chosen.get("algo", points.methods)]
    for name in methods:
        if name not in points.methods:
            raise UserError(f"algo={name}: {file.name} has no points of it; {nearest(name, points.methods)}")
    held = {name: getattr(points, name) for name in (f.name for f in fields(Points))}
    held |= {
        "methods": {name: points.methods[name] for name in methods},
        "needs": {name: points.needs[name] for name in methods if name in points.needs},
        "staleness": [_lag(value) for value in chosen.get("staleness", points.staleness)],
        "seeds": _numbers("seed", chosen.get("seed", points.seeds)),
        "settings": settings,
    }
    return Points(**held)


def _lag(value: Any) -> int | str:
    """A staleness in the spelling that counts: 64, "uniform:0:128". Raises UserError."""
    lag: int | str = canonical(int(str(value)) if str(value).isdigit() else value)
    return lag


def _numbers(name: str, values: Sequence[Any]) -> list[int]:
    for value in values:
        require(str(value).isdigit(), name, value, "whole numbers, at least 0")
    return [int(value) for value in values]


def _checked(file: Path, held: dict[str, Any]) -> Points:
    names = [f.name for f in fields(Points) if f.name != "needs"]
    for name in held:
        if name not in names:
            raise UserError(f"{file}: {name}: no such key; {nearest(name, names)}")
    methods: dict[str, list[Point]] = {}
    needs: dict[str, list[str]] = {}
    for method, listed in held["methods"].items():
        own = listed if isinstance(listed, dict) else {"points": listed}
        methods[method] = [_point(point or {}) for point in own["points"]]
        needs |= {method: list(own["needs"])} if own.get("needs") else {}
    points = Points(**{**held, "methods": methods, "needs": needs})
    _check_budget(file, points)
    return points


def _point(point: Point) -> Point:
    return point | ({"staleness": _lag(point["staleness"])} if "staleness" in point else {})


def _check_budget(file: Path, points: Points) -> None:
    """With rungs every method has as many points as the next, its published one among them."""
    if not points.rungs:
        return
    if not 0 < points.keep < 1 or not math.isfinite(points.keep):
        raise UserError(f"{file}: keep: {points.keep}: expected the share of points that goes on, between 0 and 1")
    budget = {name: len(own) + len(points.needs.get(name, [])) for name, own in points.methods.items()}
    if len(set(budget.values())) > 1:
        told = ", ".join(f"{name} {n}" for name, n in budget.items())
        raise UserError(f"{file}: every method needs the same number of points, the runs it needs included; got {told}")
    for name, own in points.methods.items():
        if {} not in own:
            raise UserError(f"{file}: {name}: add the point {{}}: the method as published")
        for other in points.needs.get(name, []):
            if other not in points.methods:
                raise UserError(f"{file}: {name} needs {other}, which has no points here")


def _check_rungs(points: Points, config: Config) -> None:
    """Every rung is an update before the last at which a run is evaluated."""
    for rung in points.rungs:
        fits = 0 < rung < config.updates and rung % config.eval.every == 0
        require(fits, "rungs", rung, f"multiples of eval.every={config.eval.every} below updates={config.updates}")
