"""How wide M2PO's mask was: the fixed clip it amounts to, which `algo=clip_at_width` takes."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis import rows
from analysis.errors import MissingData
from analysis.study import Study
from analysis.tabular import Table

LOW, HIGH, MASKED = "mask_ratio_low", "mask_ratio_high", "masked_fraction"  # of metrics.jsonl
METHODS = ("m2po", "areal_m2po")


def bounds(updates: pd.DataFrame) -> pd.DataFrame:
    """The clip that M2PO's mask amounted to in each run.

    M2PO masks by l², so its bound is the same on both sides of l = 0: in each update the largest |l| of a kept
    trust-region token, read off the recorded ratios. Its median is over the updates in which the mask acted; in the
    others the largest ratio bounds nothing.

    updates: rows of metrics.jsonl with their `run`.
    Returns a row a run: `log_ratio` (nats, NaN if it never acted), `acted` (share of its updates).
    """
    log_ratio = updates[[LOW, HIGH]].apply(np.log).abs().max(axis=1).where(updates[MASKED] > 0)
    grouped = updates[["run"]].assign(log_ratio=log_ratio).groupby("run", observed=True)["log_ratio"]
    found = pd.DataFrame({"log_ratio": grouped.median(), "acted": grouped.count() / grouped.size()})
    return found.set_axis(found.index.astype(str))


def width(study: Study) -> Table:
    """A row a setting of M2PO: the bounds [1 − ε_low, 1 + ε_high], and what to type for a clip fixed there.

    Raises MissingData without runs of M2PO that recorded their bounds.
    """
    runs = study.used[study.used["algorithm"].isin(METHODS)]
    if runs.empty or not {LOW, HIGH, MASKED} <= set(study.updates):
        raise MissingData(f"needs runs of m2po with {LOW} and {HIGH} in metrics.jsonl")
    found = bounds(study.updates[study.updates["run"].isin(runs["run"])])
    table = rows.series(study, runs)
    lines = []
    for names, group in table.rows:
        own = found.reindex(group["run"])  # without a row where none of metrics.jsonl could be read
        lines.append([*names, len(group), float(own["acted"].mean()), *_clip(float(own["log_ratio"].median()))])
    columns = [*table.columns, "n", "acted", "epsilon_low", "epsilon_high", "type"]
    caption = (
        "Median over the updates in which the mask acted (acted: their share), then over runs: the largest |log-ratio| "
        f"of a kept trust-region token, as bounds 1 − epsilon_low and 1 + epsilon_high. {table.words}"
    )
    return Table(columns, lines, caption.strip())


def _clip(log_ratio: float) -> list[object]:
    if np.isnan(log_ratio):
        return ["–", "–", "the mask never acted"]
    low, high = float(1 - np.exp(-log_ratio)), float(np.exp(log_ratio) - 1)
    return [low, high, f"algo=clip_at_width algo.epsilon_low={low:.3g} algo.epsilon_high={high:.3g}"]
