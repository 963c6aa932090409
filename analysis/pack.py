"""A study in one small Parquet file: every k-th update, float32, all evaluations, tokens reduced to counts.

One table with a column `kind`: run | update | evaluation | bins | words; a column that a kind does not have
is null there and takes no room. Readable with pandas alone; every analysis command takes it in place of folders.
"""

from __future__ import annotations

import json
import os
from math import gcd
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from analysis import old_names, scores, token_tables
from analysis.errors import AnalysisError, first_line
from analysis.plain import printable
from analysis.study import IDENTITY, Study

LIMIT = 5_000_000  # bytes
_MOST = 2001  # thin no further than this
_ANSWERED = 1_000_000  # problems × evaluations whose counts of right answers a pack keeps: about 0.3 MB
_HEADER = b"lagrange"
_NEEDED = {"kind", "run", "algorithm", "task", "staleness", "seed", "repeat", "config", "status", "update"}
_DERIVED = ["used", "setting", "reference"]  # found anew on reading


def write(study: Study, path: Path, every: int = 0) -> int:
    """Writes a study as one Parquet file.

    path: ends in .parquet. every: keep one update in so many; 0: the smallest k that keeps the file within 5 MB.
    Returns k. It has no factor in common with the updates per step: otherwise only some updates of every step, say the
    least stale one, would be kept. A run's last update always stays.
    Raises AnalysisError for an `every` that has one, if nothing fits, or if the file cannot be written.
    """
    if path.suffix != ".parquet":
        raise AnalysisError(f"a pack's name ends in .parquet, not {path.name!r}")
    parts = _parts(study)
    per_step = int(study.used["updates_per_step"].max())
    if every and gcd(every, per_step) > 1:
        near = next(k for k in range(every, every + per_step) if gcd(k, per_step) == 1)
        raise AnalysisError(
            f"--every {every}: never has all of the {per_step} updates of a step; nearest valid: {near}"
        )
    k = every or 1
    while True:
        size = _write(parts, study, path, k)
        if every or size <= LIMIT:
            return k
        # jump near the size that fits, then go on one by one
        k = max(k + 1, int(0.9 * k * size / LIMIT))
        while gcd(k, per_step) > 1:
            k += 1
        if k > _MOST:
            path.unlink()
            raise AnalysisError(f"{len(study.runs)} runs do not fit into {LIMIT / 1e6:.0f} MB; pack fewer")


def read(path: Path) -> Study:
    """The study that a pack holds, before it is decided which runs count.

    path: a pack of any release. Raises AnalysisError if it is missing or no pack.
    """
    try:
        table = pq.read_table(path)
        header = json.loads((table.schema.metadata or {}).get(_HEADER, b"{}"))
    except FileNotFoundError:
        raise AnalysisError(f"no run found: {path} does not exist") from None
    except (OSError, ValueError) as error:
        raise AnalysisError(f"{path} is not a pack ({first_line(error)})") from error
    lacking = _NEEDED - set(table.column_names)
    if not isinstance(header, dict) or not {"every", "notes"} <= header.keys() or lacking:
        why = f"no column {', '.join(sorted(lacking))}" if lacking else "no header"
        raise AnalysisError(f"{path} is not a pack ({why}); `python -m analysis pack` makes one")
    kinds = {kind: _of_kind(table, kind) for kind in ("run", "update", "evaluation", "bins", "words")}
    texts = kinds["run"].select_dtypes(["object", "string"]).columns
    kinds["run"][texts] = kinds["run"][texts].map(lambda cell: printable(cell) if isinstance(cell, str) else cell)
    runs = _current(kinds["run"]).astype({"repeat": "Int64", "staleness": "Int64", "seed": "Int64"}).assign(folder="")
    for column in runs.select_dtypes("Int64"):
        runs[column] = runs[column].fillna(0).astype("int64")
    notes = list(header["notes"])
    if header["every"] > 1:
        notes.append(f"{path.name}: a pack of one update in {header['every']}; its means are over those")
    reduced = {kind: kinds[kind] for kind in ("bins", "words") if len(kinds[kind])}
    return Study(runs, _whole(kinds["update"]), _whole(kinds["evaluation"]), tuple(notes), reduced)


def _current(runs: pd.DataFrame) -> pd.DataFrame:
    """The run table of any release with today's columns, keys and roles."""
    runs = runs.rename(columns=old_names.COLUMNS)
    config = [
        json.dumps(old_names.current(json.loads(text)), sort_keys=True) if text else "" for text in runs["config"]
    ]
    return runs.assign(config=config, roles=runs.get("roles", ""))


def _parts(study: Study) -> dict[str, pd.DataFrame]:
    runs = study.runs.drop(columns=["folder", *_DERIVED]).sort_values("run")
    drop = [column for column in IDENTITY if column in study.updates]
    parts = {"run": runs, "update": study.updates.drop(columns=drop).sort_values(["run", "update"])}
    lists = list(study.evaluations.select_dtypes("object").columns.difference(["split", "run"]))
    parts["evaluation"] = study.evaluations.drop(columns=[*drop, *lists]).assign(**_counts(study))
    parts["bins"] = token_tables.by_ratio(study).astype({"bin": "int32"})
    parts["words"] = token_tables.by_text(study)
    return {kind: _small(part.assign(run=part["run"].astype(str))) for kind, part in parts.items()}


def _counts(study: Study) -> dict[str, pd.Series]:
    """The right answers of each problem of the reported split, for intervals over problems; {} where they are many."""
    evaluations = study.evaluations
    if "right" not in evaluations:
        return {}
    right = evaluations.loc[evaluations["split"].isin(scores.reported_splits(study)), "right"].dropna()
    if not len(right) or right.map(len).sum() > _ANSWERED:
        return {}
    return {"right": right.map(lambda counts: np.asarray(counts, dtype="uint16"))}


def _small(frame: pd.DataFrame) -> pd.DataFrame:
    floats = frame.select_dtypes("float64").columns
    return frame.astype(dict.fromkeys(floats, "float32") | ({"update": "int32"} if "update" in frame else {}))


def _write(parts: dict[str, pd.DataFrame], study: Study, path: Path, k: int) -> int:
    tables = []
    for kind, part in parts.items():
        if not len(part):
            continue
        rows = _every(part, k) if kind == "update" else part
        table = pa.Table.from_pandas(rows, preserve_index=False).replace_schema_metadata(None)
        tables.append(table.add_column(0, "kind", pa.array([kind] * len(table))))
    whole = pa.concat_tables(tables, promote_options="permissive")
    header = {"every": k, "notes": list(study.notes)}
    whole = whole.replace_schema_metadata({_HEADER: json.dumps(header).encode()})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_name(f".{path.name}.{os.getpid()}.partial")
        # bytes of one significance side by side compress about a third better
        floats = [f.name for f in whole.schema if pa.types.is_floating(f.type)]
        texts = [f.name for f in whole.schema if pa.types.is_string(f.type) or pa.types.is_large_string(f.type)]
        pq.write_table(whole, scratch, compression="zstd", compression_level=9, use_dictionary=texts,
                       use_byte_stream_split=floats, write_statistics=False)  # fmt: skip
        os.replace(scratch, path)
    except OSError as error:
        raise AnalysisError(f"cannot write {path}: {error.strerror or error}") from error
    return path.stat().st_size


def _every(updates: pd.DataFrame, k: int) -> pd.DataFrame:
    last = updates.groupby("run")["update"].transform("max")
    return updates[((updates["update"] - 1) % k == 0) | (updates["update"] == last)]


def _of_kind(table: pa.Table, kind: str) -> pd.DataFrame:
    import pyarrow.compute as pc

    part = table.filter(pc.equal(table["kind"], kind)).drop_columns(["kind"])
    filled = [name for name in part.column_names if part[name].null_count < len(part)]
    frame = part.select(filled).to_pandas()
    if kind == "run":
        for column in frame.columns:
            if frame[column].dtype == object or isinstance(frame[column].dtype, pd.StringDtype):
                frame[column] = frame[column].fillna("")
        return frame
    return frame if "run" in frame else pd.DataFrame({"run": [], "update": []})


def _whole(rows: pd.DataFrame) -> pd.DataFrame:
    """Numbers as they are from folders: float64, update an int64."""
    floats = rows.select_dtypes("float32").columns
    return rows.astype(dict.fromkeys(floats, "float64") | {"update": "int64"})
