"""One self-contained HTML page about a study: it opens from disk, asks no network, and runs no foreign string.

The curves use plotly.js from the Python package, deflated into the page (1.9 of its 4.8 MB) and unpacked by the
browser's DecompressionStream. A content security policy allows exactly the page's two scripts, by their hashes,
so that a hostile run name or model answer would stay inert even where escaping failed.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from analysis import axes, figures, findings, leaderboard, samples, scores, series, style, tables, tabular
from analysis.errors import MissingData, reason
from analysis.figures import common, selection
from analysis.figures.main import acting_fraction
from analysis.study import Study

CURVES = {  # what can be looked at run by run: label and whether a log scale suits it
    "accuracy": ("accuracy", False),
    "acting_fraction": ("masked or clipped fraction of tokens", True),
    "reward": ("training reward", False),
    "m2_before": ("M2 before the mask", True),
    "k1": ("KL, k1 (nats)", False),
    "ess": ("effective sample size (share)", False),
    "entropy": ("entropy (nats)", False),
    "grad_norm": ("gradient norm before clipping", True),
    "staleness_mean": ("mean token staleness (updates)", False),
}
DPI = 120
FIRST = ("outcome_by_axis", "accuracy_vs_updates")  # the picture on the first screen: the first of them that is drawn


@dataclass(frozen=True)
class Picture:
    """A figure as the page shows it. paper: it repeats one of the M2PO paper."""

    name: str
    title: str
    caption: str
    paper: bool
    data: str  # base64 PNG
    narrow: str  # the same for a phone, where there is one
    width: int
    height: int


def write(
    study: Study,
    out: Path,
    title: str = "",
    metric: str = "sampled_accuracy",
    notice: Sequence[str] = (),
    budget: tabular.Table | None = None,
    drawings: Iterable[tuple[str, common.Drawing | str]] | None = None,
) -> Path:
    """Writes the page into a folder.

    out: folder that exists. title: "" for one made from what was run. metric: the accuracy, a name in eval.jsonl.
    notice: paragraphs that stand above everything else: what a reader must know of this study.
    budget: what tuning chose and cost (`tuned.table`); without it the page says that no budget is known.
    drawings: the figures, of `figures.draw`, where they serve somebody else, too.
    Returns the path of index.html.
    """
    path = out / "index.html"
    path.write_text(page(study, title, metric, notice, budget, drawings), encoding="utf-8")
    return path


def page(
    study: Study,
    title: str = "",
    metric: str = "sampled_accuracy",
    notice: Sequence[str] = (),
    budget: tabular.Table | None = None,
    drawings: Iterable[tuple[str, common.Drawing | str]] | None = None,
) -> str:
    """The page as text; the same study gives the same text. Parameters as in `write`."""
    first, pictures, absent = _pictures(
        study, metric, figures.draw(study, metric=metric) if drawings is None else drawings
    )
    library = _plotly()
    boot = _read("report.js")
    environment = Environment(
        loader=PackageLoader("analysis"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("report.html.j2").render(
        title=title or _title(study),
        answer=findings.answer(study, metric),
        first=first,
        ranking=_ranking(study, metric),
        budget=budget and _shown("What tuning chose, and what it cost", budget),
        notice=notice,
        findings=findings.findings(study, metric),
        pictures=pictures,
        absent=absent,
        tables=_tables(study, metric),
        runs=study.used.to_dict("records"),
        settings=bool((~study.used["reference"]).mean() > 0.5),
        unused=study.unused.to_dict("records"),
        notes=study.notes,
        configuration=_configuration(study),
        samples=samples.of_study(study),
        # base64 holds nothing that could end a script element
        library=Markup(base64.b64encode(gzip.compress(library, 9, mtime=0)).decode()),
        curves=Markup(base64.b64encode(gzip.compress(_json(curves(study, metric)), 9, mtime=0)).decode()),
        style=Markup(_read("report.css")),
        boot=Markup(boot),
        hashes=Markup(f"'{_hash(boot.encode())}' '{_hash(library)}'"),
    )


def curves(study: Study, metric: str) -> dict[str, Any]:
    """The data of the interactive plot.

    metric: the accuracy. Returns series with their look, and each run's points by quantity.
    """
    study, _ = selection.one_model(study)
    quantities = {}
    for name, (label, log) in CURVES.items():
        rows = _curve(study, name, metric)
        if rows is not None:
            quantities[name] = {"label": label, "log": log, "runs": rows}
    dash = style.dashes(study.used["staleness"])
    runs = []
    for row in study.used.sort_values(["algorithm", "staleness", "seed"]).to_dict("records"):
        look = style.look(row["algorithm"])
        runs.append(
            {
                "run": row["run"],
                "algorithm": look.label,
                "staleness": row["staleness"],
                "setting": row["setting"],
                "reference": row["reference"],
                "seed": row["seed"],
                "colour": look.colour,
                "dash": _plotly_dash(dash[row["staleness"]]),
            }
        )
    order = [style.look(name).label for name in style.order(study.used["algorithm"])]
    return {"quantities": quantities, "runs": runs, "algorithms": order}


def _curve(study: Study, name: str, metric: str) -> dict[str, list] | None:
    try:
        if name == "accuracy":
            with common.options(metric=metric):
                rows = selection.evaluated(study)
        elif name == "acting_fraction":
            rows = acting_fraction(study)
        else:
            rows = selection.windowed(study, name)
    except MissingData:
        return None
    return {
        str(run): [part["update"].tolist(), [float(f"{v:.4g}") for v in part["value"]]]
        for run, part in rows.groupby("run", observed=True)
    }


def _plotly_dash(dash: Any) -> str:
    """A matplotlib line style as plotly's."""
    named = {"-": "solid", "-.": "dashdot", ":": "dot"}
    return named[dash] if isinstance(dash, str) else ",".join(f"{2 * length:g}px" for length in dash[1])


def _pictures(
    study: Study, metric: str, drawings: Iterable[tuple[str, common.Drawing | str]]
) -> tuple[Picture | None, list[Picture], dict[str, str]]:
    """The picture of the first screen, the others, and why there are no more."""
    first, pictures, absent = None, [], {}
    for name, drawn in drawings:
        if isinstance(drawn, str):
            absent[name] = drawn
            continue
        try:
            if name in FIRST and not first:
                first = _picture(name, drawn, _narrow(study, name, metric))
            else:
                pictures.append(_picture(name, drawn, ""))
        except Exception as error:  # what matplotlib refuses shows only when the picture is made
            absent[name] = reason(error)
    return first, pictures, absent


def _narrow(study: Study, name: str, metric: str) -> str:
    """A figure in one column, which a phone shows without making its text small."""
    ((_, drawn),) = figures.draw(study, [name], columns=1, metric=metric)
    return "" if isinstance(drawn, str) else _png(drawn)[0]


def _picture(name: str, drawing: common.Drawing, narrow: str) -> Picture:
    data, width, height = _png(drawing)
    missing = f" Missing: {'; '.join(drawing.missing)}." if drawing.missing else ""
    title = figures.title(name)
    return Picture(name, title, drawing.caption + missing, "(paper" in title, data, narrow, width, height)


def _png(drawing: common.Drawing) -> tuple[str, int, int]:
    """A small PNG in base64, its width and height: 128 colours suffice for a chart and take a third of the room."""
    raw, small = io.BytesIO(), io.BytesIO()
    drawing.figure.supxlabel("")  # the caption is text on the page
    drawing.figure.savefig(raw, format="png", dpi=DPI, metadata={"Software": None})
    image = Image.open(raw).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    image.save(small, "PNG", optimize=True)
    return base64.b64encode(small.getvalue()).decode(), *image.size


def _tables(study: Study, metric: str) -> list[dict[str, Any]]:
    titles = {
        "summary": "Every method and staleness",
        "decodings": "By decoding",
        "stability": "How far accuracy fell",
        "to_target": "Updates to a target accuracy",
        "table1": "By benchmark (the shape of the paper's Table 1)",
    }
    made = tables.of_a_sweep(study, metric)
    if len(scores.reported_splits(study)) < 2:
        made.pop("table1", None)
    return [_shown(titles[name], table) for name, table in made.items()]


def _ranking(study: Study, metric: str) -> dict[str, Any]:
    """The table of the first screen: methods, or where other things were varied all combinations of them."""
    names = axes.of_sweep(study)
    if set(names) <= {axes.METHOD, axes.STALENESS}:
        title = "Methods, in the order of the outcome that ranks"
        return _shown(title, tabular.made(title, leaderboard.leaderboard, study, metric))
    title = "What was varied, in the order of the outcome that ranks"
    return _shown(title, tabular.made(title, tables.grouped, study, names, metric))


def _shown(title: str, table: tabular.Table) -> dict[str, Any]:
    return {"title": title, "columns": table.columns, "rows": tabular.texts(table), "caption": table.caption}


def _title(study: Study) -> str:
    """The question that the study's own axes ask."""
    tasks, names = ", ".join(sorted(study.used["task"].unique())), axes.of_sweep(study)
    others = [name for name in names if name not in (axes.METHOD, axes.STALENESS)]
    if axes.STALENESS in names and not others:
        return f"How stale may rollouts be? ({tasks})"
    varied = ", ".join("method" if name == axes.METHOD else name for name in names) or "one setting"
    return f"Accuracy by {varied} ({tasks})"


def _configuration(study: Study) -> dict[str, list[tuple[str, str]]]:
    """Keys that all used runs share, and those that vary with their values."""
    configs = [json.loads(config) for config in study.used["config"]]
    same: list[tuple[str, str]] = []
    varied: list[tuple[str, str]] = []
    for key in sorted({key for config in configs for key in config}):
        values = {json.dumps(config.get(key), default=str) for config in configs}
        text = ", ".join(sorted(values, key=lambda v: (len(v), v)))
        (same if len(values) == 1 else varied).append((key, text))
    return {"same": same, "varied": varied, "reference": [("", series.reference_words(study.runs))]}


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=True).encode()


def _plotly() -> bytes:
    from plotly.offline import get_plotlyjs

    return get_plotlyjs().encode()


def _hash(script: bytes) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(script).digest()).decode()


def _read(name: str) -> str:
    return (Path(__file__).parent / "templates" / name).read_text(encoding="utf-8")
