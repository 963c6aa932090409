"""What the paper's later version adds: TIS combined with GRPO and M2PO, asymmetric clipping, M2PO vs GRPO, time."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from analysis import scores, statistics, style
from analysis.errors import MissingData
from analysis.figures import common, selection
from analysis.figures.common import Drawing
from analysis.study import Study

LOSS_TIMES = ("time/loss_s", "time/update_s")  # the first that was recorded


def tis_with_grpo_and_m2po(study: Study) -> Drawing:
    """Truncated importance sampling alone, and on top of GRPO (decoupled, truncate) and M2PO (areal)."""
    one, missing = selection.one_model(study)
    variants = {
        "GRPO": ("grpo", {}),
        "TIS": ("tis", {}),
        "GRPO with TIS": ("decoupled", {"algo.mode": "truncate"}),
        "M2PO": ("m2po", {}),
        "M2PO with decoupled weights": ("m2po", {"algo.variant": "areal"}),
    }
    return _variants(one, variants, "TIS with GRPO and M2PO (later version).", missing, at_least=3)


def asymmetric_clipping(study: Study) -> Drawing:
    """GRPO with a higher upper bound beside symmetric GRPO and M2PO."""
    one, missing = selection.one_model(study)
    grpo = one.used[one.used["algorithm"] == "grpo"]
    uppers = {json.loads(config).get("algo.epsilon_high") for config in grpo["config"]} - {None}
    if len(uppers) < 2:
        raise MissingData("needs grpo runs at several algo.epsilon_high")
    variants: dict = {f"GRPO, ε_high = {e:g}": ("grpo", {"algo.epsilon_high": e}) for e in sorted(uppers)}
    variants["M2PO"] = ("m2po", {})
    return _variants(one, variants, "Asymmetric clipping (later version).", missing, at_least=2)


def m2po_and_grpo(study: Study) -> Drawing:
    """Best accuracy of M2PO and GRPO against staleness."""
    one, missing = selection.reference(study)
    runs = scores.per_run(one, common.metric())
    runs = runs[runs["algorithm"].isin(["m2po", "grpo"])]
    if runs["algorithm"].nunique() < 2 or runs["staleness"].nunique() < 2:
        raise MissingData("needs runs of m2po and grpo at several staleness values")
    table = scores.summarise(runs, "best")
    figure, (ax,) = common.canvas(1, 3.1)
    handles = []
    for algorithm in style.order(table["algorithm"]):
        look, part = style.look(algorithm), table[table["algorithm"] == algorithm].sort_values("staleness")
        single = runs[runs["algorithm"] == algorithm]
        seeds = single["staleness"], single["best"]
        handles.append(common.draw_estimates(ax, part["staleness"], part, look, seeds))
    common.staleness_axis(ax, table["staleness"])
    ax.set_ylabel(f"best accuracy ({scores.reported_split(one)})")
    caption = f"Best chosen on validation (later version). {common.sampling_words(table['n'])}"
    return common.finish(figure, table, caption, missing, handles)


def loss_time(study: Study) -> Drawing:
    """Seconds the loss takes in an update (else: a whole update), the median of each run."""
    one, missing = selection.reference(study)
    name = next((n for n in LOSS_TIMES if n in one.updates and one.updates[n].notna().any()), None)
    if name is None:
        raise MissingData(f"needs {' or '.join(LOSS_TIMES)} in metrics.jsonl")
    if name != LOSS_TIMES[0]:
        missing.append(f"{LOSS_TIMES[0]}; shown: {name}, the whole update")
    if one.used["algorithm"].nunique() < 2:
        raise MissingData("needs runs of several methods")
    medians = one.updates.groupby("run", observed=True)[name].median().rename("seconds")
    runs = one.used.merge(medians, on="run")
    rows = [
        {"algorithm": algorithm, "metric": name, **vars(statistics.estimate(group["seconds"].to_numpy()))}
        for algorithm, group in runs.groupby("algorithm")
    ]
    table = pd.DataFrame(rows).set_index("algorithm").loc[style.order(runs["algorithm"])].reset_index()
    figure, (ax,) = common.canvas(1, 0.9 + 0.26 * len(table))
    index = range(len(table))
    ax.barh(index, 1000 * table["value"], color=[style.look(a).colour for a in table["algorithm"]], height=0.65)
    has_interval = table["low"].notna()
    ax.hlines(
        [p for p in index if has_interval[p]],
        1000 * table["low"][has_interval],
        1000 * table["high"][has_interval],
        color="#777777",
    )
    row = {algorithm: p for p, algorithm in enumerate(table["algorithm"])}
    ax.plot(1000 * runs["seconds"], [row[a] + 0.2 for a in runs["algorithm"]], ".", color="#777777", markersize=2)
    ax.set_yticks(index, [style.look(a).label for a in table["algorithm"]])
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("loss (ms an update)" if name == LOSS_TIMES[0] else "whole update (ms)")
    caption = (
        f"Median over each run's updates, all staleness values (later version). {common.sampling_words(table['n'])}"
    )
    return common.finish(figure, table, caption.replace("seed", "run"), missing)


def _variants(study: Study, variants: dict, caption: str, missing: list[str], at_least: int) -> Drawing:
    """Accuracy curves of configurations at the largest staleness; a method may appear in several settings."""
    s = selection.stalest(study)
    configs = {run: json.loads(config) for run, config in zip(study.used["run"], study.used["config"], strict=True)}
    rows = selection.over_seeds(study, selection.evaluated(study))
    shown, taken = {}, set()
    for name, (algorithm, keys) in variants.items():
        used = study.used[(study.used["algorithm"] == algorithm) & (study.used["staleness"] == s)]
        if keys:
            has = [all(configs[run].get(k) == v for k, v in keys.items()) for run in used["run"]]
            used = used[np.array(has, dtype=bool)]
        else:
            used = used[used["reference"]]
        settings = [setting for setting in used["setting"].unique() if (algorithm, setting) not in taken]
        if not settings:
            missing.append(f"{name} at s = {s}")
            continue
        taken.add((algorithm, settings[0]))
        shown[name] = rows[
            (rows["algorithm"] == algorithm) & (rows["staleness"] == s) & (rows["setting"] == settings[0])
        ]
    if len(shown) < at_least:
        raise MissingData(f"needs {'; '.join(missing)}")
    figure, (ax,) = common.canvas(1, 3.2)
    handles: list[Line2D] = []
    dash: dict[str, int] = {}
    for name, part in shown.items():
        look = style.look(part["algorithm"].iloc[0])
        index = dash[look.label] = dash.get(look.label, -1) + 1
        handles.append(
            common.draw_series(
                ax,
                part,
                look.colour,
                ("-", "--", ":", "-.")[index % 4],
                width=look.width,
                marker=look.marker,
                label=name,
            )
        )
    common.thin_updates(ax)
    ax.set_ylabel(f"accuracy ({scores.reported_split(study)})")
    common.accuracy_scale([ax])
    data = pd.concat([part.assign(series=name) for name, part in shown.items()], ignore_index=True)
    caption = f"{caption} s = {s}. {common.sampling_words(selection.counts(data))}"
    return common.finish(figure, data, caption, missing, handles)
