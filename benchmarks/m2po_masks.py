"""`python -m benchmarks.m2po_masks`: how M2PO's variants cut one recorded mini-batch, into docs/figures/weights/.

The mini-batch is docs/figures/weights/m2po_minibatch.parquet, update 397 of `python run.py algo=m2po staleness=256
updates=400 record.tokens=[397,397]`: the first of its step, whose proximal policy is the current one, so that all
variants see the same ratios.
"""

from __future__ import annotations

import math

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes

import algorithms
from algorithms import TokenStats
from analysis.style import RC
from benchmarks.weight_curves import OUT

RECORD = OUT / "m2po_minibatch.parquet"
VARIANTS = {"paper": "#00549F", "released": "#D55E00", "all_tokens_mean": "#009E73", "areal": "#7F3F98"}
THRESHOLD = 0.04


def minibatch(tokens: pd.DataFrame) -> TokenStats:
    """The recorded tokens as a batch, padded; only log-ratios matter, so log π_behav is 0."""
    shape = int(tokens["row"].max()) + 1, int(tokens["position"].max()) + 1
    at = tokens["row"].to_numpy(), tokens["position"].to_numpy()
    log_ratio, mask, sign = np.zeros(shape), np.zeros(shape, bool), np.zeros(shape[0])
    log_ratio[at], mask[at] = tokens["log_ratio"], True
    sign[tokens["row"]] = tokens["advantage_sign"]
    current, behaviour = torch.from_numpy(log_ratio), torch.zeros(shape, dtype=torch.float64)
    return TokenStats(current, behaviour, torch.from_numpy(sign), torch.from_numpy(mask), logp_proximal=current)


def cuts(stats: TokenStats) -> dict[str, tuple[float, int]]:
    """Of every variant the cap on l² (nats², Inf where nothing is cut) and the tokens it masks."""
    result = {}
    for variant in VARIANTS:
        answer = algorithms.make("m2po", variant=variant, m2_threshold=THRESHOLD).weights(stats)
        cap = float(answer.metrics["m2_cap"].nan_to_num(math.inf))
        result[variant] = cap, int((stats.mask & ~answer.kept).sum())
    return result


def draw(axes: Axes, values: np.ndarray, region: str, caps: dict[str, tuple[float, int]]) -> None:
    """Sorted l², the running mean, τ, and where each variant of this region cuts."""
    rank = np.arange(1, len(values) + 1)
    axes.plot(rank, values, color="0.2", linewidth=1.6, label="l², sorted")
    axes.plot(rank, values.cumsum() / rank, color="0.55", linewidth=1.4, label="mean of l² up to here")
    axes.axhline(THRESHOLD, color="0.2", linewidth=0.8, linestyle=":", label=f"τ = {THRESHOLD:g}")
    for variant, (cap, masked) in caps.items():
        kept = int((values <= cap).sum())
        axes.axvline(kept + 0.5, color=VARIANTS[variant], linewidth=1.4, linestyle="--",
                     label=f"{variant}: masks {masked}, √cap = {math.sqrt(cap):.2f}")  # fmt: skip
    axes.set(title=f"{region}: {len(values)} tokens", yscale="log", xlabel="tokens, smallest l² first", ylabel="nats²")
    axes.set_ylim(1e-5, 2 * values.max())
    axes.set_xlim(0.6 * len(values), len(values) * 1.005)
    axes.legend(loc="upper left", bbox_to_anchor=(0, -0.17), ncols=2, fontsize=7, frameon=False)


def main() -> None:
    stats = minibatch(pd.read_parquet(RECORD))
    caps = cuts(stats)
    everywhere = stats.log_ratio64.square()
    of = {"trust region T": stats.trust_region & stats.mask, "all valid tokens": stats.mask}
    with plt.rc_context({**RC, "savefig.dpi": 110}):
        figure, axes = plt.subplots(1, 2, figsize=(9.6, 3.6))
        for panel, (region, where) in zip(axes, of.items(), strict=True):
            whole = region != "trust region T"
            own = {name: cap for name, cap in caps.items() if (name == "areal") == whole}
            draw(panel, everywhere[where].sort().values.numpy(), region, own)
        figure.savefig(OUT / "m2po_masks.png", bbox_inches="tight", metadata={"Software": None})


if __name__ == "__main__":
    main()
