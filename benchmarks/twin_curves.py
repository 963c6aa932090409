"""`python -m benchmarks.twin_curves`: the exact twin's figures against staleness, into docs/figures/twin.png.

The task, the methods and what the figures mean: docs/twin.md and harness/learner/twin.py.
"""

from __future__ import annotations

import matplotlib.pyplot as plt

from analysis.style import RC, look
from benchmarks.weight_curves import OUT
from harness.learner.twin import expected, methods, twin

STALENESS = (0, 4, 8, 16, 32, 48, 64, 96, 128, 160, 192)
SHOWN = {
    "exact importance sampling: tis level=sequence ratio_cap=1e6": ("exact sequence IS", "0.6", "None"),
    "m2po": (look("m2po").label, look("m2po").colour, look("m2po").marker),
    "grpo": (look("grpo").label, look("grpo").colour, look("grpo").marker),
    "gspo, ε = 0.2": ("GSPO, ε = 0.2", look("gspo").colour, look("gspo").marker),
    "tis": (look("tis").label, look("tis").colour, look("tis").marker),
    "topr": (look("topr").label, look("topr").colour, look("topr").marker),
    "reinforce": (look("reinforce").label, look("reinforce").colour, look("reinforce").marker),
    "naive proximal: decoupled mode=none": ("naive proximal", look("naive_proximal").colour, "P"),
}
PANELS = {
    "cosine": "cosine with the true gradient",
    "norm_ratio": "norm ÷ true norm",
    "noise": "noise ÷ true norm",
}


def main() -> None:
    task, known = twin(), methods()
    figures = {name: [expected(task, known[name], s) for s in STALENESS] for name in SHOWN}
    with plt.rc_context({**RC, "savefig.dpi": 190}):
        figure, axes = plt.subplots(1, len(PANELS), figsize=(7.8, 3.3), layout="constrained")
        for panel, (column, title) in zip(axes, PANELS.items(), strict=True):
            for name, (label, colour, marker) in SHOWN.items():
                values = [getattr(found, column) for found in figures[name]]
                panel.plot(STALENESS, values, color=colour, marker=marker, markersize=4, label=label)
            panel.set(title=title, xlabel="staleness s (updates)")
        axes[0].axhline(0, color="0.3", linewidth=0.8)
        axes[2].set_ylim(0, 2)
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
        figure.savefig(OUT.parent / "twin.png", metadata={"Software": None})


if __name__ == "__main__":
    main()
