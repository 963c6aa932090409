"""Names of the files in a run folder and in a sweep's folder: one place for whoever writes or reads them.

Imports nothing of the harness, so that `analysis` can share it without loading what training needs.
"""

from __future__ import annotations

import os
from pathlib import Path

# A run folder.
MANIFEST = "manifest.json"  # what the run is, on what it ran, how far it got
CONFIG = "config.yaml"
METRICS = "metrics.jsonl"  # a row an update
EVAL = "eval.jsonl"  # a row an evaluation and split
SCHEDULE = "schedule.jsonl"  # which weights generated each batch (bounded lag)
SAMPLES = "samples.jsonl"  # prompts and responses of evaluations
STREAMS = (METRICS, EVAL, SCHEDULE, SAMPLES)  # appended to while the run goes on
TOKENS = "tokens.parquet"  # a row a token, on request
TOKEN_PARTS = "tokens"  # a part an update, until the run ends
DIFFS = "diffs"  # uncommitted changes of the code, where they are long
CHECKPOINTS = "checkpoints"
CHECKPOINT = "checkpoint.json"  # in each of them: counters, and every file's size and hash
REFUSED = "refused"  # evidence of refused updates
HEARTBEAT = "heartbeat"
LOCK = "lock"  # held by whoever runs the folder
ERROR = "error.txt"  # traceback of a failed run
TRACKING = "tracking.json"  # where the run stands in MLflow
FILES = (MANIFEST, CONFIG, *STREAMS, TOKENS, HEARTBEAT, LOCK, ERROR, TRACKING)
FOLDERS = (TOKEN_PARTS, DIFFS, CHECKPOINTS, REFUSED)

# A sweep's folder, and the folder of all runs.
SWEEP = "sweep.json"
SWEEPS = "sweeps"
ARTIFACTS = "mlartifacts"  # MLflow's, beside a sqlite database: copies, no runs


def cache_folder() -> Path:
    """What can be found out again at the price of time: $LAGRANGE_CACHE, else lagrange in the user's cache folder."""
    if chosen := os.environ.get("LAGRANGE_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lagrange"
