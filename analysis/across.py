"""Methods beside one of them in several places at once, a place being a task and a staleness: one family of tests.

`python -m analysis across` makes three tables: differences with what they allow to say, whether another decoding orders
the methods alike, and how many seeds ended far below their best. In a place each method has one setting, the one that
was chosen for it there.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from analysis import inference, leaderboard, outcomes, problems, rows, scores, statistics, style
from analysis.errors import AnalysisError, MissingData
from analysis.study import Study
from analysis.tables import SEEDS
from analysis.tabular import Table

METRIC, OTHER = "sampled_accuracy", "greedy_accuracy"
PLACE = ["task", "staleness"]
MOST_ORDERED = 8  # methods up to which every order is tried: 8! = 40,320
DRAWS = 20_000


def per_seed(study: Study) -> pd.DataFrame:
    """What every run reached.

    A run that was evaluated less often than others of its place (it failed) is carried forward at its last value.

    study: of one or more places. Returns a row a run: task, staleness, algorithm, seed, status, the area under each
    accuracy under its name, `end` and `best` (of its last and its best evaluation, sampled), `short` (evaluated less
    far than others of its place), final_weights_sha256.
    Raises AnalysisError where a method has two settings in a place, or two runs of a seed.
    """
    parts = []
    for place, runs in study.used.groupby(PLACE, sort=True):
        for name, group in runs.groupby("algorithm", sort=False):
            one_setting(group, f"{name} on {place[0]} at s = {place[1]}")
        parts.append(reached(study.keep(runs)))
    if not parts or METRIC not in pd.concat(parts):
        raise MissingData(f"needs evaluations with {METRIC}")
    return pd.concat(parts, ignore_index=True)


def one_setting(group: pd.DataFrame, words: str) -> None:
    """Refuses runs that are several settings, or two runs of a seed.

    group: rows of the run table. words: what they are.
    """
    if group["setting"].nunique() > 1 or group["seed"].duplicated().any():
        settings = " and ".join(sorted({str(name) or "the reference" for name in group["setting"]}))
        raise AnalysisError(f"{words}: expected one setting and one run a seed, got {settings}; choose with --where")


def reached(study: Study) -> pd.DataFrame:
    """What every run reached; one that stopped early is carried forward to the last update that any was evaluated at.

    study: runs that are evaluated at the same updates. Returns the columns of `per_seed`.
    Raises AnalysisError for a run that lacks an evaluation before its last, or has finished before others.
    """
    part = study.used.set_index("run")[[*PLACE, "algorithm", "seed", "status", "final_weights_sha256"]]
    for metric in scores.recorded(study, scores.decodings(study)):
        curves = _curves(study, metric)
        if metric == METRIC:
            part["short"] = curves.iloc[:, -1].reindex(part.index).isna()
            _check(curves, part)
        curves = curves.ffill(axis=1)
        part[metric] = pd.Series({run: outcomes.area(curves.columns.to_numpy(), row.to_numpy())
                                  for run, row in curves.iterrows()})  # fmt: skip
        if metric == METRIC:
            part["end"], part["best"] = curves.iloc[:, -1], curves.max(axis=1)
    return part.reset_index()


def _curves(study: Study, metric: str) -> pd.DataFrame:
    """Accuracy with a row a run and a column an evaluated update of the place, NaN where it was not evaluated."""
    rows = scores.accuracy_curves(study, metric)
    return rows.assign(run=rows["run"].astype(str)).pivot(index="run", columns="update", values="accuracy")


def _check(curves: pd.DataFrame, runs: pd.DataFrame) -> None:
    """Refuses what must not be filled in: a gap, and what is missing of a run that has finished."""
    gaps = curves.isna() & curves.bfill(axis=1).notna()
    if gaps.to_numpy().any():
        run = str(gaps.any(axis=1).idxmax())
        raise AnalysisError(f"{run}: no evaluation at update {gaps.loc[run].idxmax()}, which others of its place have")
    ended = runs.index[runs["short"] & (runs["status"] == "finished")]
    if len(ended):
        run = ended[0]
        until = curves.loc[run].last_valid_index() if run in curves.index else "none"
        raise AnalysisError(
            f"{run} has finished, its last evaluation at update {until}; others of its place have one at "
            f"{curves.columns[-1]}: leave one kind out with --where"
        )


def carried_forward(runs: pd.DataFrame) -> str:
    """Which runs count with their last value, for a caption. runs: with `run`, `short` and `status`."""
    names = [f"{row['run']} ({row['status']})" for row in runs[runs["short"]].to_dict("records")]
    return f"Carried forward at their last value: {', '.join(names) or 'none'}."


def differences(study: Study, against: str = "grpo", tested: Sequence[str] = (), planned: int = 0) -> Table:
    """Methods minus one of them, paired by seed, in every place: Holm over all of them.

    against: the algorithm that is subtracted. tested: those that are tested against it, all others if none is named.
    planned: comparisons of the family as registered, where more than were made; the missing ones count as p = 1.
    Raises AnalysisError where no place has that algorithm beside another.
    """
    runs = per_seed(study)
    sides: dict[Any, pd.DataFrame] = {
        key: group.set_index("seed", drop=False) for key, group in runs.groupby([*PLACE, "algorithm"], sort=False)
    }
    pairs = {
        "/".join(map(str, key)): (sides[key], sides[*key[:2], against])
        for key in sides
        if key[2] != against and (*key[:2], against) in sides and key[2] in (tested or [key[2]])
    }
    if not pairs:
        raise AnalysisError(f"--against {against}: no place has it beside a method that is tested")
    family = {name: (a[METRIC] - b[METRIC]).dropna().to_numpy() for name, (a, b) in pairs.items()}
    same = frozenset(
        name for name, (a, b) in pairs.items() if rows.same_runs(a.reset_index(drop=True), b.reset_index(drop=True))
    )
    claims = inference.claims(family, same, planned=planned)
    others = [name for name in scores.decodings(study) if name != METRIC and name in runs]
    lines = []
    for key, group in sorted(sides.items(), key=lambda item: (*item[0][:2], -item[1][METRIC].mean())):
        claim = claims.get("/".join(map(str, key)))
        over = "–" if claim is None else _over_problems(study, key, against)
        difference, *said = leaderboard.cells(claim)
        means = [float(group[name].mean()) for name in ["end", *others]]
        area = statistics.estimate(group[METRIC].to_numpy())
        lines.append([*key[:2], style.look(str(key[2])).label, len(group), area, *means, difference, over, *said])
    label = style.look(against).label
    caption = (
        f"{scores.OUTCOMES['area']} of {METRIC} on {scores.reported_split(study)}; beside it, untested, the last "
        f"evaluation and the area of {', '.join(others) or 'no other'}. {SEEDS} "
        f"{leaderboard.inference_words(claims.values(), planned)} "
        f"over problems: the interval over seeds and problems. {carried_forward(runs)}"
    )
    columns = [*PLACE, "algorithm", "n", "area", "last", *others, f"minus {label}", "over problems"]
    return Table([*columns, "p (Holm)", "detectable", "said"], lines, caption)


def _over_problems(study: Study, key: tuple[str, int, str], against: str) -> object:
    """The difference with its interval over seeds and problems, where the counts of problems were recorded."""
    a, b = (
        problems.areas(study.where(task=key[0], staleness=key[1], algorithm=name), METRIC) for name in (key[2], against)
    )
    return problems.difference(a, b) or "–"


def agreement(study: Study, planned: int = 0) -> Table:
    """Whether sampled and greedy accuracy order the methods of a place alike: Kendall's τ of their mean areas.

    The test is over the orders of the methods, exact up to eight of them; Holm over the places. A place with two
    methods has two orders, which nothing can tell apart: it is left out.
    planned: places of the family as registered, where more than were run; the missing ones count as p = 1.
    """
    runs = per_seed(study)
    if OTHER not in runs:
        raise MissingData(f"needs {OTHER}")
    means = runs.groupby([*PLACE, "algorithm"])[[METRIC, OTHER]].mean()
    found: dict[Any, tuple[float, float]] = {
        key: kendall(*group.to_numpy().T) for key, group in means.groupby(level=PLACE) if len(group) > 2
    }
    if not found:
        raise MissingData("needs three methods in a place")
    corrected = inference.holm(np.array([p for _, p in found.values()] + [1.0] * (planned - len(found))))
    lines = [
        [*key, len(means.xs(key, level=PLACE)), tau, f"{p:.3g}", "alike" if p < inference.ALPHA and tau > 0 else
         "opposite" if p < inference.ALPHA else "not told"]
        for (key, (tau, _)), p in zip(found.items(), corrected, strict=False)  # the missing ones come last
    ]  # fmt: skip
    family = f"{planned} places, of which {len(found)} were run" if planned > len(found) else "the places shown"
    caption = (
        f"Kendall's τ between the methods' mean areas of {METRIC} and {OTHER}; p: over all orders, Holm over {family}."
    )
    return Table([*PLACE, "methods", "τ", "p (Holm)", "ordered"], lines, caption)


def kendall(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Kendall's τ-a and its two-sided p over the orders of y, all of them up to eight values, else 20,000 at random.

    x, y: [n]. NaN for n < 2.
    """
    n = len(x)
    if n < 2:
        return math.nan, math.nan
    signs = np.sign(x[:, None] - x[None, :])
    if n <= MOST_ORDERED:
        orders = np.array(list(itertools.permutations(range(n))))
    else:
        rng = np.random.default_rng(statistics.SEED)
        orders = np.vstack([np.arange(n), rng.permuted(np.tile(np.arange(n), (DRAWS, 1)), axis=1)])
    pairs = np.sign(y[:, None] - y[None, :])
    sums = np.array([(signs * pairs[np.ix_(order, order)]).sum() for order in orders])  # the first is as observed
    return float(sums[0] / (n * (n - 1))), float((np.abs(sums) >= abs(sums[0]) - 0.5).mean())


def collapses(study: Study) -> Table:
    """The share of seeds whose last evaluation is below half of the run's best, with its exact 95 % interval."""
    runs = per_seed(study)
    lines = []
    for key, group in runs.groupby([*PLACE, "algorithm"], sort=True):
        fell, n = int((group["end"] < outcomes.SHARE * group["best"]).sum()), len(group)
        held = stats.binomtest(fell, n).proportion_ci(method="exact")
        lines.append([*key[:2], style.look(str(key[2])).label, f"{fell}/{n}", f"[{held.low:.2f}, {held.high:.2f}]",
                      "yes" if held.low > outcomes.SHARE else "–"])  # fmt: skip
    caption = (
        f"collapsed: seeds whose last evaluation ({METRIC}, {scores.reported_split(study)}) is below half of the run's "
        "best; 95 % interval after Clopper and Pearson. lastingly: its lower end is above .5."
    )
    return Table([*PLACE, "algorithm", "collapsed", "95 % interval", "lastingly"], lines, caption)
