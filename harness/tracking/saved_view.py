"""A saved view of MLflow's run page (menu "Views") that puts cells side by side.

By itself MLflow folds the cells away under their sweep and shows no parameter. A saved view is an experiment tag
with the state of the page as JSON; sorted by anything but the time of creation, cells stand in one list, and the
charts show them.
"""

from __future__ import annotations

import json

KEY = "lagrange"  # in the address: …/runs?viewStateShareKey=lagrange
PARAMS = ("algorithm", "task", "staleness", "seed")
METRICS = (
    "test/sampled_accuracy",
    "test/greedy_accuracy",
    "validation/sampled_accuracy",
    "reward",
    "masked_fraction",
    "clip_fraction",
    "ess",
)
_STATE = {
    "searchFilter": "params.seed != ''",  # cells, not sweeps
    "orderByKey": "metrics.`test/sampled_accuracy`",
    "orderByAsc": False,
    "selectedColumns": [f"params.`{name}`" for name in PARAMS] + [f"metrics.`{name}`" for name in METRICS],
    "runsHiddenMode": "FIRST_20_RUNS",
}
TAGS = {
    f"mlflow.sharedViewState.{KEY}": json.dumps(
        {"name": "Cells by test accuracy", "createdAt": 0, "updatedAt": 0, "state": json.dumps(_STATE)}
    ),
}
