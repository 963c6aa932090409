"""Every figure by name: a function of a study that returns a Drawing, or raises MissingData with the reason."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from analysis.errors import AnalysisError, reason, unknown
from analysis.figures import axis, gradients, main, methods, paper, paper_v3, settings, staleness, tokens
from analysis.figures.common import Drawing, options, save
from analysis.study import Study


class Figure(NamedTuple):
    """A title a reader knows, and the function that draws it."""

    title: str
    draw: Callable[[Study], Drawing]


# Under the names of their files; those of the M2PO paper's figures are the paper's numbers.
FIGURES: dict[str, Figure] = {
    "outcome_by_axis": Figure("The ranking outcome along what was varied", axis.outcome_by_axis),
    "accuracy_vs_updates": Figure("Accuracy along the run", main.accuracy_vs_updates),
    "accuracy_by_setting": Figure("Accuracy along the run, by setting", axis.accuracy_by_setting),
    "masked_fraction_vs_updates": Figure("Masked or clipped tokens along the run", main.masked_fraction_vs_updates),
    "final_accuracy_vs_staleness": Figure("Final accuracy against staleness", main.final_accuracy_vs_staleness),
    "stabilisers": Figure("Every method beside GRPO", methods.stabilisers),
    "accuracy_by_base": Figure("Accuracy along the run, by base policy", methods.accuracy_by_base),
    "difference_by_method": Figure("Paired difference to GRPO, by method", methods.difference_by_method),
    "difference_to_grpo": Figure("Paired difference to GRPO", staleness.difference_to_grpo),
    "cost_of_staleness": Figure("Updates to a target accuracy", staleness.cost_of_staleness),
    "diagnostics_vs_staleness": Figure("How far stale data are off policy", staleness.diagnostics_vs_staleness),
    "shadow_agreement": Figure("What other methods would have done", gradients.shadow_agreement),
    "fidelity_vs_staleness": Figure("Stale gradients against fresh ones", gradients.fidelity_vs_staleness),
    "staleness_protocols": Figure("Realised staleness by protocol", staleness.staleness_protocols),
    "accuracy_by_protocol": Figure("Final accuracy, exact and bounded lag", staleness.accuracy_by_protocol),
    "threshold_heatmap": Figure("M2PO over staleness and threshold", settings.threshold_heatmap),
    "final_accuracy_vs_learning_rate": Figure(
        "Final accuracy against the learning rate", settings.final_accuracy_vs_learning_rate
    ),
    "f1_left": Figure("Accuracy under the largest staleness (paper, 1 left)", paper.accuracy_when_stale),
    "f1_right": Figure("Clipping ratio under the largest staleness (paper, 1 right)", paper.clipping_when_stale),
    "f2": Figure("GRPO by staleness (paper, 2)", paper.grpo_by_staleness),
    "f3": Figure("With and without a trust region (paper, 3)", paper.with_and_without_trust_region),
    "f4a": Figure("Clipping ratio of GRPO (paper, 4a)", paper.clipping_of_grpo),
    "f4b": Figure("Token entropy by ratio (paper, 4b)", tokens.entropy_by_ratio),
    "f5": Figure("Training reward (paper, 5)", paper.training_reward),
    "f6": Figure("Other stabilisers (paper, 6)", paper.other_stabilisers),
    "f7a": Figure("Clipping ratio along the run (paper, 7a)", paper.clipping_along_the_run),
    "f7b": Figure("Mean clipping ratio (paper, 7b)", paper.mean_clipping_ratio),
    "f8": Figure("Best accuracy against M2PO's threshold (paper, 8)", settings.accuracy_by_threshold),
    "f9a": Figure("Second moment before and after the mask (paper, 9a)", paper.second_moment),
    "f9b": Figure("KL to the behaviour policy (paper, 9b)", paper.kl),
    "f10": Figure("Masked tokens (paper, 10)", tokens.masked_tokens),
    "f11": Figure("M2PO by staleness (paper, 11)", paper.m2po_by_staleness),
    "later_tis": Figure("TIS combined with GRPO and M2PO (paper, v3)", paper_v3.tis_with_grpo_and_m2po),
    "later_asymmetric": Figure("Asymmetric clipping (paper, v3)", paper_v3.asymmetric_clipping),
    "later_m2po_vs_grpo": Figure("M2PO and GRPO against staleness (paper, v3)", paper_v3.m2po_and_grpo),
    "later_loss_time": Figure("Time of the loss (paper, v3)", paper_v3.loss_time),
}


def title(name: str) -> str:
    """The title of a figure, or of an extra curve, by the name of its file."""
    return FIGURES[name].title if name in FIGURES else name.replace("_", " ")


def draw(
    study: Study,
    only: Sequence[str] = (),
    curves: Sequence[str] = (),
    *,
    columns: int | None = None,
    metric: str = "sampled_accuracy",
    along: tuple[str, str, str] = ("", "", ""),
    say: Callable[[str], None] = lambda text: None,
) -> Iterable[tuple[str, Drawing | str]]:
    """Draws figures one after the other.

    only: names of figures (default: all). curves: metrics of metrics.jsonl to draw against updates as well.
    columns: width, 1 or 2 columns of a paper (default: each figure's own). metric: the accuracy, a name in eval.jsonl.
    along: column or key for the horizontal axis, the colours and the panels of outcome_by_axis ("": what is varied).
    say: is told which figure is drawn, while it is.
    Returns (name, drawing) of each figure, or (name, why it is not drawn).
    Raises AnalysisError for an unknown figure or metric.
    """
    for name in only:
        if name not in FIGURES:
            raise unknown("figure", name, FIGURES)
    for name in curves:
        if name not in study.updates.columns:
            raise unknown("metric", name, study.updates.select_dtypes("number").columns)
    chosen = {name: FIGURES[name].draw for name in only or FIGURES}
    if "outcome_by_axis" in chosen:
        for name in filter(None, along):
            study.column(name)  # an unknown one is refused before anything is drawn
        chosen["outcome_by_axis"] = axis.outcome(*along)
    chosen |= {f"{name.replace('/', '_')}_vs_updates": main.curve_of(name) for name in curves}
    with options(columns, metric):
        for number, (name, figure) in enumerate(chosen.items(), 1):
            say(f"drawing {name.replace('_', ' ')}, {number} of {len(chosen)} figures …")
            try:
                yield name, figure(study)
            except Exception as error:
                yield name, reason(error)


def write(study: Study, out: Path, **choices) -> dict[str, dict]:
    """Draws into a folder, as PNG, PDF and CSV, with an index figures.json.

    out: folder, made if it is missing. choices: those of `draw`.
    Returns the index: name → title and caption, or why it is not there.
    Raises AnalysisError for runs of several tasks, an unknown name, or a folder that cannot be written.
    """
    one_task(study)
    prepare(out)
    for _ in saving(draw(study, **choices), out):
        pass
    index: dict[str, dict] = json.loads((out / "figures.json").read_text(encoding="utf-8"))
    return index


def saving(drawings: Iterable[tuple[str, Drawing | str]], out: Path) -> Iterable[tuple[str, Drawing | str]]:
    """Writes each figure as it passes by, and the index after the last: drawn once, for the files and for a report.

    drawings: of `draw`. out: folder that exists. Returns what came in.
    """
    index: dict[str, dict] = {}
    for name, drawn in drawings:
        index[name] = {"drawn": False, "why_not": drawn} if isinstance(drawn, str) else _saved(drawn, out, name)
        yield name, drawn
    (out / "figures.json").write_text(json.dumps(index, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _saved(drawing: Drawing, out: Path, name: str) -> dict[str, Any]:
    """Writes one figure and returns its entry: what matplotlib refuses shows only when the file is made."""
    try:
        save(drawing, out, name)
    except OSError:
        raise
    except Exception as error:
        for kind in ("png", "pdf", "csv"):
            (out / f"{name}.{kind}").unlink(missing_ok=True)
        return {"drawn": False, "why_not": reason(error)}
    return {"drawn": True, "title": title(name), "caption": drawing.caption, "missing": drawing.missing}


def one_task(study: Study) -> None:
    """Accuracies on different tasks are different quantities: refuse to draw them on one axis."""
    tasks = study.used["task"].value_counts()
    if len(tasks) > 1:
        counts = ", ".join(f"{task} ({n} {'run' if n == 1 else 'runs'})" for task, n in sorted(tasks.items()))
        first = sorted(tasks.index)[0]
        raise AnalysisError(f"runs of different tasks: {counts}; choose one with --where task={first}")


def prepare(out: Path) -> None:
    """Makes the output folder. Raises AnalysisError, in one line, if it cannot be written."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise AnalysisError(f"cannot write to {out}: {error.strerror or error}") from error
