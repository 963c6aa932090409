"""Token records reduced to two small tables: what token figures need, and what a pack can carry.

`bins`: per run and bin of |r − 1| (width .025, up to .7; the last bin holds what lies beyond):
`run bin count entropy masked` (entropy: sum, nats). `words`: per run and token: `run text count masked`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from analysis.study import Study
from harness.records.layout import TOKENS
from harness.records.limits import plain_size

WIDTH, TOP = 0.025, 0.7
BINS = round(TOP / WIDTH)
_COLUMNS = ["abs_ratio_minus_1", "entropy", "kept", "text"]


def by_ratio(study: Study) -> pd.DataFrame:
    """Tokens by |r − 1|.

    Returns rows `run bin count entropy masked`; none if no run recorded tokens.
    """
    return _table(study, "bins", _bins, ["run", "bin", "count", "entropy", "masked"])


def by_text(study: Study) -> pd.DataFrame:
    """Tokens by text.

    Returns rows `run text count masked`; none if no run recorded tokens.
    """
    return _table(study, "words", _words, ["run", "text", "count", "masked"])


def rows(folder: Path) -> pd.DataFrame | None:
    """All token rows of a run folder, or None if it recorded none that can be read."""
    try:
        plain_size(folder / TOKENS)
        return pq.read_table(folder / TOKENS).to_pandas()
    except (OSError, ValueError, pa.ArrowException):  # said when the run was read
        return None


def _table(study: Study, kind: str, reduce: Callable[[pd.DataFrame], pd.DataFrame], columns: list[str]) -> pd.DataFrame:
    parts = [study.token_tables[kind]] if kind in study.token_tables else []
    for run, folder in zip(study.used["run"], study.used["folder"], strict=True):
        if folder:
            table = rows(Path(folder))
            if table is not None and set(_COLUMNS) <= set(table.columns) and len(table):
                parts.append(reduce(table[np.isfinite(table["abs_ratio_minus_1"])]).assign(run=str(run)))
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


def _bins(tokens: pd.DataFrame) -> pd.DataFrame:
    # the small number keeps .2 out of the bin that ends at .2 although .2 / .025 is 8 − ε in places
    index = np.minimum((tokens["abs_ratio_minus_1"].to_numpy(float) / WIDTH + 1e-9).astype(int), BINS)
    count = np.bincount(index, minlength=BINS + 1)
    entropy = np.bincount(index, tokens["entropy"].to_numpy(float), BINS + 1)
    masked = np.bincount(index, ~tokens["kept"].to_numpy(bool), BINS + 1)
    return pd.DataFrame({"bin": np.arange(BINS + 1), "count": count, "entropy": entropy, "masked": masked})


def _words(tokens: pd.DataFrame) -> pd.DataFrame:
    masked = ~tokens["kept"].astype(bool)
    return masked.groupby(tokens["text"].astype(str)).agg(["size", "sum"]).set_axis(
        ["count", "masked"], axis=1
    ).rename_axis("text").reset_index()  # fmt: skip
