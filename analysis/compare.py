"""Two sides, A and B: what differs in their configuration, and by how much the one is better, seed by seed."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
from matplotlib.ticker import MaxNLocator

from analysis import inference, problems, rows, scores, statistics, style
from analysis.errors import AnalysisError
from analysis.figures import common, selection
from analysis.statistics import Estimate
from analysis.study import Study

PAIRED_BY = ["staleness", "seed", "repeat"]
SCORES = ("area", "final", "best", "last_k")
METRICS = ("reward", "masked_fraction", "k1", "m2_before", "ess", "entropy", "grad_norm", "time/update_s")
OVER_PROBLEMS = "area over seeds ×"
_BARS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Comparison:
    """`differences`: configuration key → (A, B). `metrics`: name → (A, B, paired A − B). `curves`: long rows.

    `claims`: accuracy → what may be said of A − B, the accuracies being the family.
    """

    names: tuple[str, str]
    differences: dict[str, tuple[str, str]]
    metrics: dict[str, tuple[Estimate, Estimate, Estimate]]
    claims: dict[str, inference.Claim]
    curves: pd.DataFrame
    pairs: int


def compare(a: Study, b: Study, metric: str = "sampled_accuracy") -> Comparison:
    """Compares two series seed by seed.

    a, b: studies of one series each. metric: the accuracy, a name in eval.jsonl.
    Returns what differs in their configurations, each side's numbers with the paired difference, and both curves.
    Raises AnalysisError when a side is not one series, or the sides are of different tasks.
    """
    sides = [_one_series(a, "A"), _one_series(b, "B")]
    tasks = [side.used["task"].iloc[0] for side in sides]
    if tasks[0] != tasks[1]:
        raise AnalysisError(f"runs of different tasks: A is {tasks[0]}, B is {tasks[1]}")
    values = [_values(side, metric).assign(**_keys(side)) for side in sides]
    by = PAIRED_BY if _common(values, PAIRED_BY) else ["seed", "repeat"]
    seeds = _common(values, by)
    values = [side.set_index([*by, "span"]) for side in values]
    pairs = len(values[0].index.intersection(values[1].index))
    metrics = {}
    for name in values[0].columns.intersection(values[1].columns):
        if name not in PAIRED_BY:
            x, y = values[0][name], values[1][name]
            difference = statistics.paired_difference(x, y)
            metrics[name] = (statistics.estimate(x.to_numpy()), statistics.estimate(y.to_numpy()), difference)
    metrics |= _over_problems(sides, metric)
    family = {
        name: statistics.differences(values[0][name], values[1][name]).to_numpy()
        for name in metrics
        if name not in METRICS and not name.startswith(OVER_PROBLEMS)
    }
    same = frozenset(family) if rows.same_runs(sides[0].used, sides[1].used) else frozenset()
    curves = [
        selection.over_seeds(side, scores.accuracy_curves(side, metric).rename(columns={"accuracy": "value"}))
        for side in sides
    ]
    both = pd.concat([c.assign(side=name) for c, name in zip(curves, "AB", strict=True)], ignore_index=True)
    claims = inference.claims(family, same)
    if seeds and not pairs:
        claims = {name: replace(claim, words=inference.OTHER_SPAN) for name, claim in claims.items()}
    return Comparison(_titles(sides), _differences(sides), metrics, claims, both, pairs)


def _one_series(side: Study, name: str) -> Study:
    series = side.used[["algorithm", "staleness", "setting"]].drop_duplicates()
    if len(series) > 1:
        first, option = series.iloc[0], f"--{name.lower()}"
        keys = sorted({part.split("=")[0] for text in series["setting"] for part in text.split(", ") if "=" in part})
        told = f"; they differ in {', '.join(keys)} ({option} KEY=none: those without it)" if keys else ""
        raise AnalysisError(
            f"{name} holds {len(series)} series; name one with {option}, e.g. "
            f"{option} algorithm={first['algorithm']} {option} staleness={first['staleness']}{told}"
        )
    return side


def _titles(sides: list[Study]) -> tuple[str, str]:
    first = [side.used.iloc[0] for side in sides]
    a, b = (style.label(str(row["algorithm"]), int(row["staleness"]), str(row["setting"])) for row in first)
    return f"A: {a}", f"B: {b}"


def _common(values: list[pd.DataFrame], by: list[str]) -> int:
    return len(values[0][by].drop_duplicates().merge(values[1][by].drop_duplicates(), on=by))


def _keys(side: Study) -> dict[str, pd.Series]:
    runs = side.used.set_index("run")
    return {key: runs[key] for key in PAIRED_BY}


def _values(side: Study, metric: str) -> pd.DataFrame:
    """One row a run: its scores, the area under every other decoding, the mean over its updates of each metric."""
    reached = scores.per_run(side, metric).set_index("run")[[*SCORES, "span"]]
    reached = reached.rename(columns={name: f"{name} accuracy" for name in SCORES})
    for name in scores.other_decodings(side, metric):
        reached[f"area {name}"] = scores.per_run(side, name).set_index("run")["area"]
    there = [name for name in METRICS if name in side.updates]
    means = side.updates.groupby("run", observed=True)[there].mean().dropna(axis=1, how="all")
    means.index = means.index.astype(str)
    return reached.join(means, how="left")


def _over_problems(sides: list[Study], metric: str) -> dict[str, tuple[Estimate, Estimate, Estimate]]:
    """The area with an interval over seeds and problems, where the counts of problems were recorded."""
    a, b = (problems.areas(side, metric) for side in sides)
    difference = problems.difference(a, b)
    if difference is None:
        return {}
    own = statistics.hierarchical(a.to_numpy()), statistics.hierarchical(b.to_numpy())
    return {f"{OVER_PROBLEMS} {a.shape[1]} problems": (own[0], own[1], difference)}


def _differences(sides: list[Study]) -> dict[str, tuple[str, str]]:
    """Keys whose set of values over the runs of A is not that of B's, seeds and places apart."""
    configs = [[json.loads(config) for config in side.used["config"]] for side in sides]
    keys = sorted({key for side in configs for config in side for key in config})
    result = {}
    for key in keys:
        if key in ("seed", "repeat", "runs_dir") or key.startswith("tracking."):
            continue
        a, b = (" | ".join(sorted({_text(config.get(key)) for config in side})) for side in configs)
        if a != b:
            result[key] = (a, b)
    return result


def _text(value: object) -> str:
    return "–" if value is None else str(value)


# -------------------------------------------------------------------------------------------- showing


def show(comparison: Comparison) -> None:
    """Prints a comparison: the configuration, the metrics, and both curves in a line each."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    a, b = comparison.names
    plural = "" if comparison.pairs == 1 else "s"
    console.print(
        Text(
            f"{a}\n{b}\n{comparison.pairs} pair{plural} of runs with the same seed, evaluated over the same updates",
            style="bold",
        )
    )
    config = Table("configuration", "A", "B", title="what differs", title_justify="left")
    for key, values in comparison.differences.items():
        config.add_row(*(Text(cell) for cell in (key, *values)))
    console.print(config if comparison.differences else "the configurations are the same")
    metrics = Table("metric", "A", "B", "A − B (paired)", title="what came out", title_justify="left")
    for name, estimates in comparison.metrics.items():
        metrics.add_row(Text(name), *(Text(_short(e)) for e in estimates))
    console.print(metrics)
    for name, claim in comparison.claims.items():
        tested = "" if math.isnan(claim.p) else f" (p = {claim.p:.3g}, detectable: {_number(claim.detectable)})"
        console.print(Text(f"{name}: A against B: {claim.words}{tested}"))
    console.print(
        f"[…]: 95 % t interval, none from fewer than 3 runs. p: sign-flip test, Holm over {len(comparison.claims)} "
        "accuracies. detectable: the smallest true difference that a t test finds with 90 % power. "
        f"last_k: mean of the last {scores.LAST} evaluations.",
        style="dim", markup=False,
    )  # fmt: skip
    for side, name in zip("AB", comparison.names, strict=True):
        console.print(Text(f"{sparkline(comparison.curves, side)}  {name}"))


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3g}"


def _short(e: Estimate) -> str:
    if e.n == 0:
        return "–"
    interval = f" [{e.low:.4g}, {e.high:.4g}]" if e.low == e.low else ""
    return f"{e.value:.4g}{interval}"


def sparkline(curves: pd.DataFrame, side: str, width: int = 48) -> str:
    """The centre of a side as block characters, both sides on one scale.

    curves: rows of `Comparison.curves`. side: "A" or "B". width: characters.
    """
    centre = curves[curves["kind"] == "centre"]
    low, high = centre["value"].min(), centre["value"].max()
    mine = centre.loc[centre["side"] == side, "value"].to_numpy()
    places = [int(i * len(mine) / min(width, len(mine))) for i in range(min(width, len(mine)))]
    scale = (len(_BARS) - 1) / (high - low or 1)
    return "".join(_BARS[round((mine[index] - low) * scale)] for index in places)


def write(comparison: Comparison, out: Path) -> None:
    """Writes compare.png, .pdf and .csv: both curves, and the paired differences beside them.

    out: folder that exists.
    """
    with common.options():
        common.save(draw(comparison), out, "compare")


def draw(comparison: Comparison) -> common.Drawing:
    """Both accuracy curves, and the paired difference of the accuracies with its interval."""
    figure, (left, right) = common.canvas(2, 3.1, 2, width_ratios=[1.6, 1])
    handles = []
    for side, name, dash in zip("AB", comparison.names, ("-", "--"), strict=True):
        rows = comparison.curves[comparison.curves["side"] == side]
        look = style.look(str(rows["algorithm"].iloc[0]))
        handles.append(common.draw_series(left, rows, look.colour, dash, width=look.width, marker=look.marker,
                                          label=name))  # fmt: skip
    common.thin_updates(left)
    left.set_ylabel("accuracy")
    shown = [(name, e[2]) for name, e in comparison.metrics.items() if name in comparison.claims and e[2].n]
    for index, (_, e) in enumerate(shown):
        right.plot(e.value, index, "o", color="#222222")
        right.hlines(index, e.low, e.high, color="#222222")
    right.axvline(0, color="#888888", linewidth=0.8, linestyle="--")
    right.set_yticks(range(len(shown)), [name for name, _ in shown])
    right.set_ylim(len(shown) - 0.5, -0.5)
    right.xaxis.set_major_locator(MaxNLocator(4))
    right.set_xlabel("A − B, paired")
    right.grid(axis="y", visible=False)
    caption = f"{comparison.pairs} paired. {common.sampling_words(selection.counts(comparison.curves))}"
    return common.finish(figure, comparison.curves, caption, [], handles)
