"""Run folders → one tidy DataFrame per kind. Nothing is dropped silently: `Study.notes` says what and why.

RUNS may be run folders, sweep folders (their `sweep.json` is followed), any folder above run folders, packs
(`.parquet`), or MLflow experiments (`mlflow:NAME`). The columns are documented in docs/analysis.md.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from analysis import experiment, pack, series
from analysis.errors import AnalysisError, first_line, reason
from analysis.plain import printable
from analysis.records import ForeignFolder, Record, read_record
from analysis.study import Study, identify
from harness.records.layout import MANIFEST, SWEEP, TOKENS
from harness.records.limits import plain_size, read_json

_COUNTS = ["staleness", "seed", "repeat", "updates", "updates_done", "updates_per_step"]


def load(paths: Sequence[str | Path], *, incomplete: bool = False, tracking_uri: str | None = None) -> Study:
    """Reads runs from anywhere as one study.

    paths: run folders, sweep folders, any folder above them, packs (.parquet), "mlflow:EXPERIMENT".
    incomplete: also use runs that have not finished.
    tracking_uri: where MLflow experiments are (default: $MLFLOW_TRACKING_URI, else runs/mlflow.db).
    Raises AnalysisError when no run is found or none can be used.
    """
    experiments = [str(path) for path in paths if str(path).startswith(experiment.PREFIX)]
    packs = [Path(path) for path in paths if str(path).endswith(".parquet")]
    folders, notes = discover([path for path in paths if str(path) not in experiments and Path(path) not in packs])
    parts = [pack.read(path) for path in packs]
    parts += [_load_experiment(source, tracking_uri) for source in experiments]
    if folders:
        root = Path(os.path.commonpath([folder.parent for folder in folders]))
        parts.append(_load_records(_by_name(folders, root), notes))
    if not parts:
        looked = ", ".join(str(path) for path in paths) or "nowhere (no path given)"
        said = "; ".join(["", *notes])
        raise AnalysisError(f"no run found: looked for {MANIFEST}, {SWEEP} in and below {looked}{said}")
    return _finish(_concatenate(parts), incomplete)


def _by_name(folders: Sequence[Path], root: Path) -> dict[str, Path]:
    """The folders under the names of their runs, which are printable and no two alike."""
    named: dict[str, Path] = {}
    for folder in folders:
        name = plain = printable(folder.relative_to(root).as_posix())
        for number in range(2, len(folders) + 1):
            if name not in named:
                break
            name = f"{plain}#{number}"
        named[name] = folder
    return named


def discover(paths: Iterable[str | Path]) -> tuple[list[Path], list[str]]:
    """Finds run folders.

    paths: run folders, sweep folders, or any folder above them.
    Returns the folders in a stable order, and notes on cells that have not begun and sweeps that cannot be read.
    Raises AnalysisError for a path that is no folder.
    """
    folders: dict[Path, None] = {}
    notes: list[str] = []
    for path in map(Path, paths):
        if not path.is_dir():
            raise AnalysisError(
                f"no run found: {path} is neither a folder nor a pack (.parquet) nor an experiment (mlflow:NAME)"
            )

        def unread(error: OSError) -> None:
            notes.append(printable(f"not used: {error.filename}: {first_line(error.strerror or error)}"))

        for place, below, files in os.walk(path, onerror=unread):
            below.sort()
            if SWEEP in files:
                below.clear()
                folders.update(dict.fromkeys(_cells(Path(place), notes)))
            elif MANIFEST in files:
                below.clear()
                folders[Path(place).resolve()] = None
    return list(folders), notes


def _cells(sweep: Path, notes: list[str]) -> list[Path]:
    try:
        folders = [(sweep / cell["folder"]).resolve() for cell in read_json(sweep / SWEEP)["cells"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        notes.append(printable(f"not used: {sweep / SWEEP} is not a sweep's record ({first_line(error)})"))
        return []
    begun = [folder for folder in folders if _has_begun(folder)]
    if len(begun) < len(folders):
        notes.append(f"sweep {sweep.name}: {len(folders) - len(begun)} of {len(folders)} cells not begun")
    return begun


def _has_begun(folder: Path) -> bool:
    try:
        return (folder / MANIFEST).is_file()
    except OSError:  # no right to look: its reader says why it is not used
        return True


def _load_experiment(source: str, uri: str | None) -> Study:
    located, notes = experiment.fetch(source, uri)
    if not located:
        raise AnalysisError(f"no run found: {source} holds none")
    study = _load_records({printable(name): place for name, place in located.items()}, notes)
    return replace(study, notes=(*study.notes, *_thinned(study, source)))


def _thinned(study: Study, source: str) -> list[str]:
    """What was mirrored, where that is not every update."""
    mirrored = study.updates.groupby("run", observed=True)["update"]
    apart = sorted({int(np.diff(updates, prepend=0).max()) for _, updates in mirrored} - {1})
    if not apart:
        return []
    words = " to ".join(dict.fromkeys([str(apart[0]), str(apart[-1])]))
    return [f"{source}: one update in {words} was mirrored (tracking.every); means of metrics are over those"]


def _load_records(located: Mapping[str, Path | str], notes: list[str]) -> Study:
    """found: name of each run → its folder, or why it has none."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        read = list(pool.map(_read_or_reason, located, located.values()))
    rows, updates, evaluations = [], [], []
    for (name, folder), (row, record) in zip(located.items(), read, strict=True):
        if record is None:
            place = str(folder) if isinstance(folder, Path) else ""
            rows.append({"run": name, "folder": place, "used": False, **row})
            continue
        notes += [f"{name}: {note}" for note in record.notes]
        rows.append(row)
        updates.append(_named(record.updates, len(rows) - 1))
        evaluations.append(_named(record.evaluations, len(rows) - 1))
    names = [str(row["run"]) for row in rows]
    runs = pd.DataFrame(rows)
    counts = runs.columns.intersection(_COUNTS)  # a foreign run has none: 0, so that the others stay integers
    runs[counts] = runs[counts].fillna(0).astype("int64")
    return Study(runs, _frame(updates, names), _frame(evaluations, names), tuple(notes))


def _read_or_reason(name: str, folder: Path | str) -> tuple[dict[str, Any], Record | None]:
    """A run's row with its record, or with why there is none: whatever is wrong with one ends no other."""
    if isinstance(folder, str):
        return {"why_not": folder}, None
    try:
        record = read_record(folder)
        record.notes.extend(_token_notes(folder))
        return _run_row(name, record), record
    except ForeignFolder as error:
        return {"why_not": printable(f"foreign: {error}")}, None
    except Exception as error:
        return {"why_not": f"damaged: {reason(error)}"}, None


def _token_notes(folder: Path) -> list[str]:
    """What is wrong with token records, as far as their end shows it."""
    try:
        plain_size(folder / TOKENS)
        pq.ParquetFile(folder / TOKENS).close()
    except FileNotFoundError:
        return []
    except (OSError, ValueError, pa.ArrowException) as error:
        return [f"{TOKENS} cannot be read ({reason(error)}); not used"]
    return []


def _named(table: pa.Table, code: int) -> pa.Table:
    return table.append_column("run", pa.array(np.full(len(table), code, np.int32)))


def _frame(tables: list[pa.Table], names: list[str]) -> pd.DataFrame:
    if not tables:
        return pd.DataFrame({"update": [], "run": pd.Categorical([], names)})
    frame = pa.concat_tables(tables, promote_options="default").to_pandas(split_blocks=True)
    frame["run"] = pd.Categorical.from_codes(frame["run"].to_numpy(), pd.Index(names))
    frame["update"] = frame["update"].astype("int64")
    return frame


def _run_row(name: str, record: Record) -> dict[str, Any]:
    manifest, config = record.manifest, record.config
    asked = config.get("staleness", manifest.get("staleness"))
    if isinstance(asked, str):  # a distribution is told by its mean, and is a setting beside
        config = config | {"ages": asked}
    last = record.updates["update"].to_numpy() if len(record.updates) else np.array([0])
    per_step = _number(config.get("updates_per_step"), 1)
    responses = _number(config.get("rollout.prompts_per_step"), np.nan) * _number(
        config.get("rollout.group_size"), np.nan
    )
    return {
        "run": name,
        "folder": str(record.folder),
        "algorithm": printable(str(manifest["algorithm"])),
        "task": printable(str(manifest.get("task", config.get("task.name", "unnamed")))),
        "model": printable(series.model_name(manifest, config)),
        "staleness": round(_number(manifest.get("age"), _number(asked, 0))),
        "seed": int(_number(config.get("seed", manifest.get("seed")), 0)),
        "repeat": int(_number(config.get("repeat"), 0)),
        "lag": str(config.get("choices.lag", "exact")),
        "driver": str(config.get("driver", "serial")),
        "updates": int(_number(config.get("updates"), 0)),
        "updates_done": int(last.max()),
        "updates_per_step": int(per_step),
        "responses_per_update": responses * _number(config.get("learner.max_epochs"), 1) / per_step,
        "status": printable(str(manifest["status"])),
        "error": _short(manifest.get("error")),
        "config_sha256": str(manifest.get("config_sha256", "")),
        "final_weights_sha256": str(manifest.get("final_weights_sha256") or ""),
        "git": str(manifest.get("git") or ""),
        "versions": json.dumps(manifest.get("versions") or {}, sort_keys=True, default=str),
        "started": str(manifest.get("started") or ""),
        "finished": str(manifest.get("finished") or ""),
        "config": json.dumps(config, sort_keys=True, default=str),
        "roles": json.dumps(manifest["roles"], sort_keys=True) if manifest.get("roles") else "",
    }


def _number(value: Any, otherwise: float) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**53
    return float(value) if number else otherwise


def _short(error: Any) -> str:
    lines = str(error or "").strip().splitlines()
    return printable(lines[-1][:200]) if lines else ""


def _concatenate(parts: list[Study]) -> Study:
    if len(parts) == 1:
        return parts[0]
    names = [name for part in parts for name in part.runs["run"]]
    if len(set(names)) < len(names):
        parts = [_prefixed(part, f"{number}/") for number, part in enumerate(parts, start=1)]
    kinds = {kind for part in parts for kind in part.token_tables}
    return Study(
        pd.concat([part.runs for part in parts], ignore_index=True),
        pd.concat([part.updates.astype({"run": str}) for part in parts], ignore_index=True),
        pd.concat([part.evaluations.astype({"run": str}) for part in parts], ignore_index=True),
        tuple(note for part in parts for note in part.notes),
        {
            kind: pd.concat([part.token_tables.get(kind) for part in parts if kind in part.token_tables])
            for kind in kinds
        },
    )


def _prefixed(part: Study, prefix: str) -> Study:
    def renamed(frame: pd.DataFrame) -> pd.DataFrame:
        return frame.assign(run=prefix + frame["run"].astype(str))

    tables = {kind: renamed(table) for kind, table in part.token_tables.items()}
    return replace(
        part,
        runs=renamed(part.runs),
        updates=renamed(part.updates),
        evaluations=renamed(part.evaluations),
        token_tables=tables,
    )


def _finish(study: Study, incomplete: bool) -> Study:
    """Decide which runs count, name their settings, and put the identity of its run on every row."""
    runs = series.decide(study.runs, incomplete)
    if not runs["used"].any():
        reasons = "; ".join(f"{row.run}: {row.why_not}" for row in runs.head(3).itertuples())
        raise AnalysisError(f"{len(runs)} {'run' if len(runs) == 1 else 'runs'} found, none can be used ({reasons})")
    runs = series.describe(runs)
    names = set(runs.loc[runs["used"], "run"])

    def tidy(frame: pd.DataFrame) -> pd.DataFrame:
        kept = frame["run"].isin(names)
        return identify(frame if kept.all() else frame[kept].reset_index(drop=True), runs)

    return replace(study, runs=runs, updates=tidy(study.updates), evaluations=tidy(study.evaluations))
