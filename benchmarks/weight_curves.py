"""`python -m benchmarks.weight_curves`: every method's weight w against the log-ratio l, into docs/figures/weights/.

One picture a method, and one of all. What a rule sees beside the token drawn is stated here:

- token rules: that token alone, π_behav(a) = 0.2;
- sequence rules: a sequence of four tokens that all have this l; the weight is that of the last;
- batch rules: the token in a batch of 400 others, l at the quantiles of N(0, 0.3²), for A > 0 and for A < 0 alike;
- π_prox halfway between behaviour and current, log π_prox = log π_behav + l/2.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from torch import Tensor

import algorithms
from algorithms import Algorithm, TokenStats
from analysis.style import RC, label

OUT = Path(__file__).resolve().parents[1] / "docs" / "figures" / "weights"
REQUIRED = {"opsm": {"delta": 0.5}}
LOG_RATIOS = torch.linspace(-1.6, 1.6, 161, dtype=torch.float64)
LENGTH = {"token": 1, "sequence": 4, "batch": 1}
# The wide line is seen behind the dashed one where the two are the same.
SIGNS = {1.0: ("A > 0", "#6BA3D6", "-", 3.0), -1.0: ("A < 0", "#B34700", "--", 1.3)}


def background() -> tuple[Tensor, Tensor]:
    """l and A of the 400 other tokens of a batch, [400] each."""
    shares = (torch.arange(200, dtype=torch.float64) + 0.5) / 200
    log_ratio = 0.3 * math.sqrt(2) * torch.erfinv(2 * shares - 1)
    return torch.cat([log_ratio, log_ratio]), torch.cat([torch.ones(200), -torch.ones(200)]).double()


def statistics(log_ratio: Tensor, advantages: Tensor) -> TokenStats:
    """log_ratio: [B,T], advantages: [B]."""
    behaviour = torch.full_like(log_ratio, math.log(0.2))
    proximal, staleness = behaviour + log_ratio / 2, torch.full_like(log_ratio, 2)
    mask = torch.ones_like(log_ratio, dtype=torch.bool)
    return TokenStats(behaviour + log_ratio, behaviour, advantages, mask, proximal, behaviour, staleness)


def curve(method: Algorithm, sign: float) -> Tensor:
    """w at LOG_RATIOS for an advantage of this sign."""
    if method.scope != "batch":
        log_ratio = LOG_RATIOS[:, None].repeat(1, LENGTH[method.scope])
        return method.weights(statistics(log_ratio, torch.full_like(LOG_RATIOS, sign))).weights[:, -1]
    others, advantages = background()
    own = torch.tensor([sign], dtype=torch.float64)
    rows = (statistics(torch.cat([own_l[None], others])[:, None], torch.cat([own, advantages])) for own_l in LOG_RATIOS)
    return torch.stack([method.weights(stats).weights[0, 0] for stats in rows])


def draw(axes: Axes, name: str) -> None:
    """One method's two curves."""
    method = algorithms.make(name, **REQUIRED.get(name, {}))
    for sign, (text, colour, dash, width) in SIGNS.items():
        axes.plot(LOG_RATIOS, curve(method, sign), dash, color=colour, label=text, linewidth=width)
    axes.set(title=label(name), xlim=(-1.6, 1.6), ylim=(-0.1, 3.1))


def save(names: Iterable[str], columns: int, file: Path) -> None:
    """The methods' panels in one picture."""
    names = list(names)
    rows = math.ceil(len(names) / columns)
    figure, grid = plt.subplots(
        rows, columns, figsize=(2.1 * columns + 0.6, 1.7 * rows + 0.4), sharex=True, sharey=True, squeeze=False
    )
    for axes, name in zip(grid.flat, names, strict=False):
        draw(axes, name)
    for axes in grid.flat[len(names) :]:
        axes.set_axis_off()
    for axes in grid[:, 0]:
        axes.set_ylabel("w")
    for axes in grid[-1]:
        axes.set_xlabel("l = log π/π_behav")
    grid.flat[0].legend(loc="upper left")
    figure.savefig(file, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT)
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    with plt.rc_context({**RC, "savefig.dpi": 140}):
        save(algorithms.names(), 4, out / "all.png")
        for name in algorithms.names():
            save([name], 1, out / f"{name}.png")


if __name__ == "__main__":
    main()
