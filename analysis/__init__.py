"""From run folders to figures, tables and a report. Needs neither torch nor a live process.

`load` gives a Study: DataFrames of runs, updates and evaluations (docs/analysis.md, with an example).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from analysis.study import Study


def load(
    paths: str | Path | Sequence[str | Path], *, incomplete: bool = False, tracking_uri: str | None = None
) -> Study:
    """Reads runs from anywhere as one study.

    paths: one or several run folders, sweep folders, folders above them, packs (.parquet), or "mlflow:EXPERIMENT".
    incomplete: also use runs that have not finished.
    tracking_uri: where MLflow experiments are (default: $MLFLOW_TRACKING_URI, else runs/mlflow.db).
    Raises AnalysisError (one line) when no run is found or none can be used.
    """
    from analysis import runs  # pandas takes a second: `--help` does without

    several = [paths] if isinstance(paths, str | Path) else paths
    return runs.load(several, incomplete=incomplete, tracking_uri=tracking_uri)


def write_all(
    runs: Sequence[str | Path], out: str | Path, say: Callable[[str], None] = lambda text: None
) -> list[Path]:
    """Draws figures, writes tables and the report: what run.py calls after a sweep.

    runs: run folders, sweep folders, packs or experiments. out: folder to write below.
    say: is told what is drawn, while it is.
    Returns every file written.
    Raises AnalysisError (one line) when no run can be used, when the runs are of different tasks, or when `out` cannot
    be written.
    """
    from analysis import figures, leaderboard, report, tables, tabular
    from analysis.runs import load

    study, out = load(runs), Path(out)
    figures.one_task(study)
    for folder in ("figures", "tables", "report"):
        figures.prepare(out / folder)
    for name, table in tables.of_a_sweep(study).items():
        tabular.write(table, out / "tables", name)
    tabular.write(tabular.made("leaderboard", leaderboard.leaderboard, study), out / "tables", "leaderboard")
    report.write(study, out / "report", drawings=figures.saving(figures.draw(study, say=say), out / "figures"))
    return sorted(path for folder in ("figures", "tables", "report") for path in (out / folder).iterdir())


def answer(runs: str | Path | Sequence[str | Path]) -> str:
    """The sentence that a report of these runs begins with: what they say about what was varied.

    runs: as in `load`. Raises AnalysisError (one line) when none can be used.
    """
    from analysis import findings

    return findings.answer(load(runs))


def write_choices(sweep: str | Path) -> list[Path]:
    """Writes what a tuning sweep chose into its folder: what run.py calls after one.

    sweep: folder of sweep.json. Returns every file written, below `tuning/`.
    Raises AnalysisError (one line) while runs are missing, or where the folder cannot be written.
    """
    from analysis import figures, tuned, tuning

    out = Path(sweep) / "tuning"
    read = tuning.read(Path(sweep))
    figures.prepare(out)
    return tuned.write(read, out)
