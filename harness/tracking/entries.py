"""What a run folder holds, in MLflow's terms: its rows as metrics, its configuration as params and as a name."""

from __future__ import annotations

import math
import posixpath
import re
from pathlib import Path
from typing import Any

LONGEST_PARAM = 6000
# The whole of it is config.yaml, an artifact; these say where and how a run was computed, not what.
NOT_PARAMS = ("runs_dir", "tracking", "dry_run", "retry_failed", "choices", "record", "checkpoint_every", "allow_code")
IN_FOLDER = ("algo", "staleness", "seed")  # overrides that the name of a run folder tells already
NAMES = {"algo": "algorithm"}  # as in manifest.json and in every table
UNSET = ("None", "", "[]", "{}")


def update_metrics(row: dict[str, Any]) -> dict[str, float]:
    """A row of metrics.jsonl."""
    return _finite({name: value for name, value in row.items() if name != "update"})


def evaluation_metrics(row: dict[str, Any]) -> dict[str, float]:
    """A row of eval.jsonl, under the name of its split."""
    passed = row.get("pass_at_k") if isinstance(row.get("pass_at_k"), dict) else {}
    flat = {name: value for name, value in row.items() if name not in ("update", "split", "n", "k")}  # constants
    flat |= {f"pass_at_{k}": value for k, value in (passed or {}).items()}
    return _finite({f"{row.get('split')}/{name}": value for name, value in flat.items()})


def params(config: dict[str, Any]) -> dict[str, str]:
    """What was chosen, flat ("learner.lr"): nothing that is unset, or belongs to a driver or engine not in use."""
    choices = {NAMES.get(group, group): str(name) for group, name in config.get("choices", {}).items()}
    idle = [] if config.get("driver") == "ray" else ["ray."]
    idle += [] if choices.get("rollout") == "vllm" else ["rollout.vllm."]
    chosen = {}
    for name, value in _flat({key: value for key, value in config.items() if key not in NOT_PARAMS}).items():
        if value not in UNSET and not name.endswith("._target_") and not name.startswith(tuple(idle)):
            chosen[name] = value if len(value) <= LONGEST_PARAM else "long: see config.yaml"
    return choices | chosen


def cell_names(sweep: Path, cells: list[dict[str, Any]]) -> dict[Path, str]:
    """Each cell's folder and what tells it apart in its sweep: "m2po-s64-seed1 m2_threshold=0.01", without the hash."""
    said = [dict(override.split("=", 1) for override in cell["overrides"] if "=" in override) for cell in cells]
    keys = dict.fromkeys(key for each in said for key in each)
    varied = [key for key in keys if key not in IN_FOLDER and len({each.get(key) for each in said}) > 1]
    names = {}
    for cell, each in zip(cells, said, strict=True):
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
            flat[_plain(f"{prefix}{key}")] = str(value)
    return flat


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_\-. /]", "_", name)[:250]
