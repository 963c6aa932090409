"""Which runs may be averaged: same task, model, algorithm, staleness and *setting*; they differ in the seed.

A setting is every configuration key that can change the science, as the run itself says (`roles` of its manifest).
Two runs with different settings are never in one average; among several settings one is the *reference* that the
figures use when they show only one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import pandas as pd

from analysis import old_names

_COLUMNS = {"seed", "repeat", "staleness", "task.name", "model.name", "model.path"}  # columns of a run of their own
_CHOICES = ("lag", "rollout")  # groups whose chosen option can change the science
_IDLE_UNDER_EXACT = ("lag.", "rollout.inflight")  # say what happens when generation runs free
_PAPER = {"algo.m2_threshold": 0.04, "algo.variant": "paper"}  # decides between equally frequent settings


def model_name(manifest: dict[str, Any], config: dict[str, Any]) -> str:
    """A short name for the base model.

    manifest: of the run. config: flat.
    Returns what the run says, else the chosen option; for `model=hf`, which may be any model, the end of its path.
    """
    chosen = config.get("choices.model")
    name = manifest.get("model") or (chosen if chosen != "hf" else "") or config.get("model.name")
    return str(name or config.get("model.path") or "unnamed").rstrip("/").rsplit("/", 1)[-1]


def settings_of(run: Mapping[Any, Any]) -> dict[str, Any]:
    """The configuration of a run that can change the science.

    run: a row of the run table; `config` (JSON, flat) and `roles` (JSON, "" before 0.2) are read.
    Returns dotted key → value, without what stands in a column of its own (task, seed, staleness …).
    """
    config, roles = json.loads(run["config"]), _roles(run["roles"])
    exact = config.get("choices.lag", "exact") == "exact"
    kept = {
        key: value
        for key, value in config.items()
        if not _is_name(key)
        and not (exact and key.startswith(_IDLE_UNDER_EXACT))
        and old_names.role(key, roles) == "science"
    }
    kept |= {group: config[f"choices.{group}"] for group in _CHOICES if f"choices.{group}" in config}
    if not exact:  # where generation runs free the driver decides the realised staleness
        kept["driver"] = config.get("driver", "serial")
    return kept


def differing(runs: Sequence[Mapping[Any, Any]]) -> set[str]:
    """The keys of the configuration, the base model and the length among them, in which runs are unlike.

    runs: rows of the run table.
    """
    settings = [settings_of(run) | {"model": run["model"], "updates": run["updates"]} for run in runs]
    return {key for key in set().union(*settings) if len({str(one.get(key)) for one in settings}) > 1}


def _is_name(key: str) -> bool:
    """Whether a key only says how something is called: a column of the run table, or the class behind an option."""
    return key in _COLUMNS or key.startswith("choices.") or key.endswith("_target_")


@lru_cache(maxsize=64)
def _roles(text: str) -> dict[str, str]:
    roles: dict[str, str] = json.loads(text) if text else old_names.ROLES
    return roles


def decide(runs: pd.DataFrame, incomplete: bool) -> pd.DataFrame:
    """Which runs count: all but unfinished ones, evaluations, and all but the first of each duplicate.

    runs: the run table. incomplete: unfinished runs count too. Returns it with `used` and `why_not`.
    """
    runs = runs.copy()
    if "algorithm" not in runs:
        runs[["algorithm", "status", "config"]] = None
    if "why_not" not in runs:
        runs["why_not"] = ""
    runs["why_not"] = runs["why_not"].fillna("").astype(str)
    runs["why_not"] = [row["why_not"] or _why_not(row, incomplete) for row in runs.to_dict("records")]
    _mark_duplicates(runs)
    runs["used"] = runs["why_not"] == ""
    return runs


def _why_not(row: dict[Any, Any], incomplete: bool) -> str:
    if row["status"] != "finished" and not (incomplete and row["updates_done"] > 0):
        reason = f" ({row['error']})" if row["error"] else ""
        return f"{row['status']} after {row['updates_done']:.0f} updates{reason}"
    if json.loads(row["config"]).get("mode") == "evaluate":
        return "an evaluation, not a training run"
    return ""


def _mark_duplicates(runs: pd.DataFrame) -> None:
    """Under an exact lag driver and repeat change nothing: such runs are one run, and must agree bit for bit."""
    first: dict[str, Any] = {}
    candidates = runs[runs["why_not"] == ""].sort_values("status", key=lambda s: s != "finished", kind="stable")
    for index, row in zip(candidates.index, candidates.to_dict("records"), strict=True):
        settings = settings_of(row)
        repeat = row["repeat"] if row["lag"] == "bounded" else 0
        identity = [
            row["task"],
            row["model"],
            row["algorithm"],
            row["staleness"],
            row["seed"],
            repeat,
            settings,
        ]
        key = json.dumps(identity, sort_keys=True, default=str)
        if key not in first:
            first[key] = row
            continue
        other = first[key]
        hashes = {row["final_weights_sha256"], other["final_weights_sha256"]}
        agree = "same final weights" if len(hashes) == 1 else "but with OTHER final weights"
        runs.loc[index, "why_not"] = f"duplicate of {other['run']}, {agree if all(hashes) else 'no weights hash'}"


def describe(runs: pd.DataFrame) -> pd.DataFrame:
    """Names the setting of each run, and which is the reference.

    Where every method and staleness has one setting (as after tuning, which chooses one for each) all are reference:
    nothing could be averaged that differs, and `own_settings` says what they do not share; their setting is then the
    distribution of ages of those that have one, since what a staleness means is no matter of choice.

    runs: the run table, with `used`.
    Returns it with `reference`, and `setting`: what differs from the method's reference, as text ("" if nothing).
    """
    runs = runs.copy()
    texts: dict[Any, str] = {}
    references: set[Any] = set()
    for _, group in runs[runs["used"]].groupby(["task", "model"], sort=True):
        settings = dict(zip(group.index, map(settings_of, group.to_dict("records")), strict=True))
        if _one_setting_a_cell(group, settings):
            references |= set(group.index)
            texts |= {index: f"ages={own['ages']}" for index, own in settings.items() if "ages" in own}
            continue
        outer = _varying({p: _part(s, algo=False) for p, s in settings.items()})
        inner: dict[Any, str] = {}
        for _, same in group.groupby("algorithm"):
            inner |= _varying({p: _part(settings[p], algo=True) for p in same.index})
        chosen = _reference(group, outer, inner, settings)
        anyone = settings[next(iter(chosen.values()))[0]]
        for algorithm, same in group.groupby("algorithm"):
            places = chosen.get(str(algorithm), [])
            references |= set(places)
            own = settings[places[0]] if places else _part(anyone, algo=False)
            for index in same.index:
                texts[index] = _difference(settings[index], own, with_algo=bool(places))
    runs["setting"] = pd.Series([texts.get(index, "") for index in runs.index], index=runs.index, dtype=object)
    runs["reference"] = [index in references for index in runs.index]
    return runs


def _one_setting_a_cell(group: pd.DataFrame, settings: dict[Any, dict[str, Any]]) -> bool:
    """Whether runs of one method and staleness differ in no setting, and all have one lag and engine."""
    texts = pd.Series({index: json.dumps(own, sort_keys=True, default=str) for index, own in settings.items()})
    free = {json.dumps([own.get(key) for key in _CHOICES]) for own in settings.values()}
    return len(free) == 1 and bool((texts.groupby([group["algorithm"], group["staleness"]]).nunique() == 1).all())


def own_settings(runs: pd.DataFrame) -> list[str]:
    """Keys whose value is not shared by all reference runs; of a method's own parameters those that vary inside it.

    runs: the run table, with `reference`.
    """
    at = runs[runs["reference"] & runs["used"]]
    rows = [{key: _text(value) for key, value in settings_of(run).items()} for run in at.to_dict("records")]
    found = pd.DataFrame(rows, index=at.index)
    inside = found.groupby(at["algorithm"]).nunique(dropna=False).max()
    overall = found.nunique(dropna=False)
    return [key for key in map(str, found) if (inside if key.startswith("algo.") else overall)[key] > 1]


def age_words(runs: pd.DataFrame) -> str:
    """The distributions of ages behind a staleness: "s = 64 is uniform:0:128", "" where all lags are constant.

    runs: the run table, with `reference`.
    """
    at = runs[runs["reference"] & runs["used"]].to_dict("records")
    found = {(int(run["staleness"]), str(settings_of(run).get("ages", ""))) for run in at}
    return ", ".join(f"s = {staleness} is {ages}" for staleness, ages in sorted(found) if ages)


def reference_words(runs: pd.DataFrame) -> str:
    """The keys outside `algo.*` that differ among the used runs, with the reference's values, as text."""
    used = runs[runs["used"]]
    parts = {part for text in used["setting"] for part in text.split(", ") if "=" in part}
    keys = sorted({part.split("=")[0] for part in parts} - {"driver"})
    at = used[used["reference"]]
    if at.empty:
        return ""
    config = settings_of(at.iloc[0].to_dict())
    return ", ".join(f"{key}={_text(config[key])}" for key in keys if not key.startswith("algo.") and key in config)


def reference_setting(runs: pd.DataFrame) -> str:
    """The values of some method's reference for every key in which its other settings differ, as text.

    runs: rows of the run table, of one method, with `setting`. Returns "" where it has one setting.
    """
    keys = {part.split("=")[0] for text in runs["setting"] for part in text.split(", ") if "=" in part}
    at = runs[runs["setting"] == ""]
    if not keys or at.empty:
        return ""
    own = settings_of(at.iloc[0].to_dict())
    return ", ".join(f"{key}={_text(own.get(key))}" for key in sorted(keys)) + " (reference)"


def _difference(settings: dict[str, Any], reference: dict[str, Any], with_algo: bool) -> str:
    keys = sorted(settings.keys() | reference.keys())
    return ", ".join(
        f"{key}={_text(settings.get(key))}"
        for key in keys
        if settings.get(key) != reference.get(key) and (with_algo or not key.startswith("algo."))
    )


def _part(settings: dict[str, Any], algo: bool) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key.startswith("algo.") == algo}


def _varying(settings: dict[Any, dict[str, Any]]) -> dict[Any, str]:
    """For each run, the keys that are not the same in all of them, as "key=value, …"."""
    keys = sorted({key for each in settings.values() for key in each})
    varying = [key for key in keys if len({json.dumps(each.get(key)) for each in settings.values()}) > 1]
    return {
        index: ", ".join(f"{key}={_text(each[key])}" for key in varying if each.get(key) is not None)
        for index, each in settings.items()
    }


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else "–" if value is None else str(value)


def _reference(group: pd.DataFrame, outer: dict[Any, str], inner: dict[Any, str], settings: dict) -> dict[str, list]:
    """Per algorithm its reference runs: first the setting outside `algo.*` that covers most cells is chosen for
    all, then for each algorithm the one inside that does."""
    outside, inside = pd.Series(outer), pd.Series(inner)
    common = _best_covered(group, outside, settings, ["algorithm", "staleness"])
    chosen = {}
    for algorithm, same in group[outside[group.index] == common].groupby("algorithm"):
        best = _best_covered(same, inside[same.index], settings, ["staleness"])
        chosen[str(algorithm)] = list(same.index[inside[same.index] == best])
    return chosen


def _best_covered(group: pd.DataFrame, texts: pd.Series, settings: dict, cell: list[str]) -> str:
    def rank(text: str) -> tuple:
        rows = group[texts[group.index] == text]
        one = settings[rows.index[0]]
        paper = sum(one.get(key) == value for key, value in _PAPER.items())
        exact = one.get("lag", "exact") == "exact"
        return (-len(rows[cell].drop_duplicates()), -len(rows), not exact, -paper, text)

    return min(texts[group.index].unique(), key=rank)
