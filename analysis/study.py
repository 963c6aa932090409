"""A study: three tables about a set of runs, and how to take a part of it. docs/analysis.md lists the columns."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from analysis import series
from analysis.errors import AnalysisError, unknown

IDENTITY = ["algorithm", "task", "model", "staleness", "seed", "repeat", "setting", "reference"]


@dataclass(frozen=True)
class Study:
    """What a set of run folders says.

    runs: a row a run, the unused ones too (`used`, `why_not`).
    updates: a row an update of the used runs, with the identity of its run.
    evaluations: a row an evaluation and split of the used runs, with the identity of its run.
    notes: what was left out while reading, a sentence each.
    token_tables: token records already reduced to counts, by kind (from packs).
    """

    runs: pd.DataFrame
    updates: pd.DataFrame
    evaluations: pd.DataFrame
    notes: tuple[str, ...] = ()
    token_tables: dict[str, pd.DataFrame] = field(default_factory=dict, compare=False)

    @property
    def used(self) -> pd.DataFrame:
        """The runs that count: finished, of this project, no duplicates."""
        return self.runs[self.runs["used"]]

    @property
    def unused(self) -> pd.DataFrame:
        """The runs that do not count, with `why_not`."""
        return self.runs[~self.runs["used"]]

    def where(self, **conditions: object) -> Study:
        """The part of the study whose runs have these values, e.g. `where(task="carry")`.

        conditions: column of `runs`, or key of the configuration ("learner.lr") → value; numbers are compared as
            numbers, everything else as text.
        Raises AnalysisError for an unknown column, or when no run is left.
        """
        keep = pd.Series(True, index=self.runs.index)
        for column, value in conditions.items():
            keep &= self.column(column).map(lambda each, value=value: _equal(each, value))
        if not keep.any():
            given = ", ".join(f"{column}={value}" for column, value in conditions.items())
            raise AnalysisError(f"no run with {given}")
        return self.keep(self.runs[keep])

    def column(self, name: str) -> pd.Series:
        """A column of `runs`, or the values of a key of the configuration ("learner.lr"), None where a run has none.

        Raises AnalysisError for a name that is neither.
        """
        if name in self.runs.columns:
            return self.runs[name]
        configs = [json.loads(text) if isinstance(text, str) and text else {} for text in self.runs["config"]]
        if not any(name in config for config in configs):
            keys = sorted({key for config in configs for key in config})
            raise unknown("column of runs or key of the configuration", name, [*self.runs.columns, *keys])
        return pd.Series([config.get(name) for config in configs], index=self.runs.index, dtype=object)

    def keep(self, runs: pd.DataFrame) -> Study:
        """The study of these runs alone; settings are named anew among them.

        runs: rows of `self.runs`.
        """
        runs = series.describe(runs.copy())
        names = set(runs.loc[runs["used"], "run"])
        token_tables = {kind: t[t["run"].isin(names)] for kind, t in self.token_tables.items()}
        return replace(
            self,
            runs=runs,
            updates=identify(self.updates[self.updates["run"].isin(names)], runs),
            evaluations=identify(self.evaluations[self.evaluations["run"].isin(names)], runs),
            token_tables=token_tables,
        )


def _equal(held: object, expected: object) -> bool:
    """Whether a value of a run is the one asked for: 3e-5 is 0.00003, true is True."""
    try:
        return float(str(held)) == float(str(expected))
    except ValueError:
        return str(held).lower() == str(expected).lower()


def identify(rows: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Rows with the identity of their run: its columns IDENTITY, as categories (cheap at 400,000 rows).

    rows: any table with a column `run`. runs: the run table.
    """
    used = runs[runs["used"]].reset_index(drop=True)
    names = pd.Categorical(rows["run"])
    index = pd.Index(used["run"]).get_indexer(pd.Index(names.categories))[names.codes]
    added = {column: _taken(used[column], index) for column in IDENTITY}
    return pd.concat([rows.drop(columns=list(added), errors="ignore"), pd.DataFrame(added, index=rows.index)], axis=1)


def _taken(values: pd.Series, index: np.ndarray) -> np.ndarray | pd.Categorical:
    if values.dtype == object or isinstance(values.dtype, pd.StringDtype):
        categories, codes = np.unique(values.astype(str).to_numpy(dtype=object), return_inverse=True)
        return pd.Categorical.from_codes(codes[index], pd.Index(categories))
    return values.to_numpy()[index]
