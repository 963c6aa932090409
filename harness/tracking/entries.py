"""What a run folder holds, in MLflow's terms: its rows as metrics, its configuration as params and as a name."""

from __future__ import annotations

import math
import posixpath
import re
from pathlib import Path
from typing import Any

from harness.config import role_of

LONGEST_PARAM = 6000
PARAM_ROLES = ("science", "driver")  # the whole configuration is config.yaml, an artifact
IN_FOLDER = ("algo", "staleness", "seed")  # overrides that the name of a run folder tells already
NAMES = {"algo": "algorithm"}  # as in manifest.json and in every table
OF_TRAINING = ("algo.", "lag.", "learner.", "staleness", "updates")  # what an evaluation has no part of
UNSET = ("None", "", "[]", "{}")


def update_metrics(row: dict[str, Any]) -> dict[str, float]:
    """The finite numbers of a row of metrics.jsonl, by MLflow's name."""
    return _finite({name: value for name, value in row.items() if name != "update"})


def evaluation_metrics(row: dict[str, Any]) -> dict[str, float]:
    """The finite numbers of a row of eval.jsonl, under the name of its split ("test/sampled_accuracy")."""
    passed = row.get("pass_at_k") if isinstance(row.get("pass_at_k"), dict) else {}
    flat = {name: value for name, value in row.items() if name not in ("update", "split", "n", "k")}  # constants
    flat |= {f"pass_at_{k}": value for k, value in (passed or {}).items()}
    return _finite({f"{row.get('split')}/{name}": value for name, value in flat.items()})


def params(config: dict[str, Any], roles: dict[str, str]) -> dict[str, str]:
    """What was chosen, without what is unset or belongs to a driver or engine not in use.

    config: as in config.yaml.
    roles: role of each dotted key, as in the manifest; for a key without one that of today's schema.
    Returns dotted key ("learner.lr") → value as text; chosen options under the name of their group.
    """
    choices = {NAMES.get(group, group): str(name) for group, name in config.get("choices", {}).items()}
    idle = [] if config.get("driver") == "ray" else ["ray."]
    if config.get("mode") == "evaluate":
        idle += OF_TRAINING
        choices = {name: value for name, value in choices.items() if name not in ("algorithm", "lag", "learner")}
    idle += [] if choices.get("rollout") == "vllm" else ["rollout.vllm."]
    chosen = {}
    for key, value in _flat({name: value for name, value in config.items() if name != "choices"}).items():
        hidden = value in UNSET or key.endswith("._target_") or key.startswith(tuple(idle))
        if not hidden and (roles.get(key) or role_of(key)) in PARAM_ROLES:
            chosen[_plain(key)] = value if len(value) <= LONGEST_PARAM else "long: see config.yaml"
    return choices | chosen


def cell_names(sweep: Path, cells: list[dict[str, Any]]) -> dict[Path, str]:
    """What tells each cell apart in its sweep.

    sweep: folder of sweep.json. cells: its cells (folder, overrides, config_sha256).
    Returns run folder → name: "m2po-s64-seed1 m2_threshold=0.01", without the hash.
    """
    given = [dict(override.split("=", 1) for override in cell["overrides"] if "=" in override) for cell in cells]
    keys = dict.fromkeys(key for each in given for key in each)
    varied = [key for key in keys if key not in IN_FOLDER and len({each.get(key) for each in given}) > 1]
    names = {}
    for cell, each in zip(cells, given, strict=True):
        folder = (sweep / cell["folder"]).resolve()
        words = [f"{key.rpartition('.')[2]}={each[key]}" for key in varied if key in each]
        names[folder] = " ".join([folder.name.removesuffix(f"-{cell['config_sha256'][:10]}"), *words])
    return names


def _finite(values: dict[str, Any]) -> dict[str, float]:
    """MLflow stores an infinite number as a huge one and refuses most punctuation in names."""
    metrics = {}
    for name, value in values.items():
        plain = _plain(name)
        sane = posixpath.normpath(plain) == plain and not plain.startswith((".", "/"))
        if sane and isinstance(value, int | float) and math.isfinite(value):
            metrics[plain] = float(value)
    return metrics


def _flat(node: dict[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in node.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = str(value)
    return flat


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_\-. /]", "_", name)[:250]
