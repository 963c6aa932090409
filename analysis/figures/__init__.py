"""Every figure by name: a function of a study that returns a Drawing, or raises MissingData with the reason."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from analysis.errors import AnalysisError, MissingData, unknown
from analysis.figures import later, main, methods, paper, settings, staleness, words
from analysis.figures.common import Drawing, options, save
from analysis.runs import Study

FIGURES: dict[str, Callable[[Study], Drawing]] = {
    "accuracy_vs_updates": main.accuracy_vs_updates,
    "masked_fraction_vs_updates": main.masked_fraction_vs_updates,
    "final_accuracy_vs_staleness": main.final_accuracy_vs_staleness,
    "stabilisers": methods.stabilisers,
    "difference_to_grpo": staleness.difference_to_grpo,
    "cost_of_staleness": staleness.cost_of_staleness,
    "diagnostics_vs_staleness": staleness.diagnostics_vs_staleness,
    "staleness_protocols": staleness.staleness_protocols,
    "accuracy_by_protocol": staleness.accuracy_by_protocol,
    "threshold_heatmap": settings.threshold_heatmap,
    "final_accuracy_vs_learning_rate": settings.final_accuracy_vs_learning_rate,
    "f1_left": paper.f1_left,
    "f1_right": paper.f1_right,
    "f2": paper.f2,
    "f3": paper.f3,
    "f4a": paper.f4a,
    "f4b": words.f4b,
    "f5": paper.f5,
    "f6": paper.f6,
    "f7a": paper.f7a,
    "f7b": paper.f7b,
    "f8": settings.f8,
    "f9a": paper.f9a,
    "f9b": paper.f9b,
    "f10": words.f10,
    "f11": paper.f11,
    "later_tis": later.later_tis,
    "later_asymmetric": later.later_asymmetric,
    "later_m2po_vs_grpo": later.later_m2po_vs_grpo,
    "later_loss_time": later.later_loss_time,
}


def draw(
    study: Study,
    only: Sequence[str] = (),
    curves: Sequence[str] = (),
    *,
    columns: int | None = None,
    metric: str = "sampled_accuracy",
) -> Iterable[tuple[str, Drawing | str]]:
    """(name, drawing) of each figure, or (name, why it is not drawn); `curves` adds metrics against updates."""
    for name in only:
        if name not in FIGURES:
            raise unknown("figure", name, FIGURES)
    for name in curves:
        if name not in study.updates.columns:
            raise unknown("metric", name, study.updates.select_dtypes("number").columns)
    chosen = dict(FIGURES) if not only else {name: FIGURES[name] for name in only}
    chosen |= {f"{name.replace('/', '_')}_vs_updates": main.curve_of(name) for name in curves}
    with options(columns, metric):
        for name, figure in chosen.items():
            try:
                yield name, figure(study)
            except MissingData as reason:
                yield name, str(reason)


def write(study: Study, out: Path, **choices) -> dict[str, dict]:
    """Draw into `out`; returns (and writes as figures.json) each figure's caption, or why it is not there."""
    one_task(study)
    prepare(out)
    index: dict[str, dict] = {}
    for name, drawn in draw(study, **choices):
        if isinstance(drawn, str):
            index[name] = {"drawn": False, "why_not": drawn}
            continue
        save(drawn, out, name)
        index[name] = {"drawn": True, "caption": drawn.caption, "missing": drawn.missing}
    (out / "figures.json").write_text(json.dumps(index, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return index


def one_task(study: Study) -> None:
    """Accuracies on different tasks are different quantities: refuse to draw them on one axis."""
    tasks = study.used["task"].value_counts()
    if len(tasks) > 1:
        told = ", ".join(f"{task} ({n} runs)" for task, n in sorted(tasks.items()))
        first = sorted(tasks.index)[0]
        raise AnalysisError(f"runs of different tasks: {told}; choose one with --where task={first}")


def prepare(out: Path) -> None:
    """Make the output folder, or say in one line why it cannot be written."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise AnalysisError(f"cannot write to {out}: {error.strerror or error}") from error
