"""Token figures: which tokens are masked (F10), and how their entropy grows with |r − 1| (F4b)."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis import statistics, style, token_tables
from analysis.errors import MissingData
from analysis.figures import common, selection
from analysis.figures.common import Drawing
from analysis.study import Study

FEWEST = 10  # tokens in a bin, or masked tokens of a word, below which a mean says nothing


def entropy_by_ratio(study: Study) -> Drawing:
    """Mean token entropy in bins of |r − 1|, GRPO's clip marked."""
    one, missing = selection.reference(study)
    algorithm, staleness, runs = _recorded(one, token_tables.by_ratio(one), missing)
    table = _entropy_table(runs)
    figure, (ax, below) = common.canvas(1, 3.9, 2, rows=2, height_ratios=[3, 1], sharex=True)
    look = style.look(algorithm)
    has_interval = table["low"].notna()
    ax.plot(table["ratio"], table["value"], color=look.colour, marker=look.marker, markersize=3)
    ax.fill_between(
        table["ratio"][has_interval],
        table["low"][has_interval],
        table["high"][has_interval],
        color=look.colour,
        alpha=0.15,
    )
    ax.set_ylabel("mean token entropy (nats)")
    below.bar(table["ratio"], table["tokens"], token_tables.WIDTH * 0.9, color="#999999")
    below.set_yscale("log")
    below.set_ylabel("tokens")
    below.set_xlabel("|r − 1|")
    for axes in (ax, below):
        axes.axvline(0.2, color="#b00020", linewidth=0.9, linestyle="--")
    ax.annotate("ε = 0.2", (0.2, 0), xycoords=("data", "axes fraction"), xytext=(3, 4), textcoords="offset points",
                fontsize=7, color="#b00020")  # fmt: skip
    beyond = float(runs.loc[runs["bin"] >= 0.2 / token_tables.WIDTH - 1e-9, "count"].sum() / runs["count"].sum())
    caption = (
        f"{style.label(algorithm, staleness)}: entropy by |r − 1| in bins of {token_tables.WIDTH} (F4b); "
        f"{beyond:.2%} of tokens lie beyond 0.2; bins with fewer than {FEWEST} tokens are left out. "
        f"{common.sampling_words(table['n'])}"
    )
    return common.finish(figure, table, caption, missing)


def masked_tokens(study: Study) -> Drawing:
    """The most masked tokens: the paper's word cloud, and beside it their enrichment over the base rate."""
    one, missing = selection.reference(study)
    words = token_tables.by_text(one)
    masked = words.groupby("run")["masked"].transform("sum") if len(words) else pd.Series(dtype=float)
    algorithm, staleness, runs = _recorded(one, words[masked > 0], missing, "with masked tokens")
    table = _enrichment(runs)
    if table.empty:
        raise MissingData(f"needs a token that is masked {FEWEST} times")
    figure, (left, right) = common.canvas(2, 3.2, 2)
    left.imshow(_cloud(runs), interpolation="bilinear")
    left.set_axis_off()
    left.set_title("by how often they are masked")
    shown = table.head(14).iloc[::-1]
    colour = style.look(algorithm).colour
    right.barh(range(len(shown)), shown["value"], color=colour, height=0.7)
    has_interval = shown["low"].notna().to_numpy()
    right.hlines(
        np.flatnonzero(has_interval),
        shown["low"][has_interval],
        shown["high"][has_interval],
        color="#222222",
        linewidth=1,
    )
    right.axvline(1, color="#888888", linewidth=0.8, linestyle="--")
    right.set_yticks(range(len(shown)), [visible(text) for text in shown["text"]], family="monospace")
    right.set_xlabel("share among masked tokens / share among all tokens")
    right.set_title("by enrichment over the base rate")
    right.grid(axis="y", visible=False)
    caption = (
        f"{style.label(algorithm, staleness)}: most masked tokens (F10), {runs['masked'].sum():,} of "
        f"{runs['count'].sum():,}; tokens masked at least {FEWEST} times. {common.sampling_words(table['n'])}"
    )
    return common.finish(figure, table, caption, missing)


def visible(text: str) -> str:
    """A token with its white space made visible, and nothing that matplotlib reads as mathematics."""
    shown = text.replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥")
    shown = "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in shown)
    return shown[:16].replace("$", r"\$") or "(empty)"


def _recorded(
    study: Study, table: pd.DataFrame, missing: list[str], what: str = "that recorded tokens"
) -> tuple[str, int, pd.DataFrame]:
    """The token rows of GRPO at the largest staleness recorded; failing that, of the next best method."""
    if table.empty:
        raise MissingData(f"needs runs {what} (record.tokens=[from,to])")
    rows = table.merge(study.used[["run", "algorithm", "staleness"]], on="run")
    names = rows["algorithm"].unique()
    algorithm = "grpo" if "grpo" in names else style.order(names)[0]
    if algorithm != "grpo":
        missing.append(f"GRPO {what}; shown: {style.look(algorithm).label}")
    rows = rows[rows["algorithm"] == algorithm]
    staleness = int(rows["staleness"].max())
    return algorithm, staleness, rows[rows["staleness"] == staleness]


def _entropy_table(runs: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for index in range(token_tables.BINS):
        group = runs[runs["bin"] == index]
        if group["count"].sum() < FEWEST:
            continue
        filled = group[group["count"] > 0]
        means = (filled["entropy"] / filled["count"]).to_numpy()
        rows.append(
            {"ratio": (index + 0.5) * token_tables.WIDTH, "tokens": int(group["count"].sum())}
            | vars(statistics.estimate(means))
        )
    return pd.DataFrame(rows)


def _enrichment(runs: pd.DataFrame) -> pd.DataFrame:
    """Per token: its share among the masked over its share among all, a value a run, then over the runs."""
    of_run = runs.groupby("run")[["count", "masked"]].transform("sum")
    ratio = (runs["masked"] / of_run["masked"]) / (runs["count"] / of_run["count"])
    rows = []
    for text, group in runs.assign(ratio=ratio).groupby("text"):
        if group["masked"].sum() >= FEWEST:
            counts = {"text": text, "masked": int(group["masked"].sum()), "tokens": int(group["count"].sum())}
            rows.append(counts | vars(statistics.estimate(group["ratio"].to_numpy())))
    table = pd.DataFrame(rows)
    return table.sort_values(["value", "text"], ascending=[False, True]) if rows else table


def _cloud(runs: pd.DataFrame) -> np.ndarray:
    from wordcloud import WordCloud

    frequency = runs.groupby("text")["masked"].sum()
    frequency = frequency[frequency > 0].sort_index().sort_values(ascending=False, kind="stable").head(60)
    words = {visible(str(text)).replace(r"\$", "$"): float(count) for text, count in frequency.items()}
    cloud = WordCloud(width=1000, height=760, background_color="white", random_state=1, prefer_horizontal=1.0,
                      colormap="cividis", font_path=_font())  # fmt: skip
    return cloud.generate_from_frequencies(words).to_array()


def _font() -> str:
    from matplotlib.font_manager import findfont

    return findfont("DejaVu Sans")  # which has the signs for white space
