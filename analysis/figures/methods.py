"""Every method beside GRPO: a panel each, on the same stale data."""

from __future__ import annotations

from analysis import scores, style
from analysis.errors import MissingData
from analysis.figures import common, selection
from analysis.figures.common import Drawing
from analysis.study import Study

BASELINE = "grpo"
AT_LEAST = 6  # methods; with fewer, accuracy_vs_updates shows them in one panel


def stabilisers(study: Study) -> Drawing:
    """Accuracy against updates at the largest staleness, a panel a method, GRPO as a wide grey line in each."""
    study, missing = selection.reference(study)
    rows = selection.over_seeds(study, selection.evaluated(study))
    stalest = selection.stalest(study)
    rows = rows[rows["staleness"] == stalest]
    methods = [name for name in style.order(rows["algorithm"]) if name != BASELINE]
    if len(methods) < AT_LEAST:
        raise MissingData(f"needs runs of at least {AT_LEAST} methods beside GRPO at one staleness")
    figure, axes = common.canvas(2, 1.5, len(methods), rows=-(-len(methods) // 4), sharex=True, sharey=True)
    figure.set_size_inches(style.PAGE, 1.3 * -(-len(methods) // 4) + 0.5)
    for index, (ax, method) in enumerate(zip(axes, methods, strict=True)):
        common.draw_series(ax, rows[rows["algorithm"] == BASELINE], "#c4c4c4", "-", width=3.2)
        look = style.look(method)
        common.draw_series(ax, rows[rows["algorithm"] == method], look.colour, "-")
        ax.set_title(look.label, fontsize=7.5, loc="left", pad=2)
        common.thin_updates(ax)
        if index < len(methods) - 4:
            ax.set_xlabel("")  # the bottom row says it for its column
    common.accuracy_scale(axes[:1])  # shared
    figure.supylabel(f"accuracy ({scores.reported_split(study)})", fontsize=8)
    caption = (
        f"Each method (in colour) beside GRPO (grey), s = {stalest}, against updates. "
        f"{common.sampling_words(selection.counts(rows))}"
    )
    return common.finish(figure, rows, caption, missing)
