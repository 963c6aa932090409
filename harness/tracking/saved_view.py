"""Saved views of MLflow's run page (menu "Views") that put cells side by side.

By itself MLflow folds the cells away under their sweep, cuts their names and shows no parameter. A saved view is an
experiment tag with the state of the page as JSON: one of all cells, and one of each sweep with the keys that it swept.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

# The model-training pages; by itself MLflow takes an experiment for one of its GenAI pages, which stay empty.
KIND = {"mlflow.experimentKind": "custom_model_development"}
GUESSED = ("no_inferred_type", "genai_development_inferred", "custom_model_development_inferred")  # what MLflow writes
KEY = "lagrange"  # in the address: …/runs?viewStateShareKey=lagrange
PREFIX = "mlflow.sharedViewState."
ALL_CELLS = PREFIX + KEY
TITLE = "Cells by accuracy"
CELLS = "tags.`lagrange.config_sha256` != ''"  # a sweep has no such tag
ALWAYS = ("algorithm", "staleness")
LAST = ("updates", "seed", "task")
METRICS = ("test/greedy_accuracy", "validation/sampled_accuracy", "reward", "masked_fraction", "clip_fraction", "ess")
MOST_SWEPT = 6
NAME_PX = (270, 420)  # narrowest and widest column of names
WIDTHS = {"updates": 80, "seed": 65, "algorithm": 110, "staleness": 95}
CHART = {"type": "LINE", "metricSectionId": KEY, "isGenerated": False, "deleted": False, "xAxisKey": "step"} | {
    "scaleType": "linear", "xAxisScaleType": "linear", "range": {}, "yAxisKey": "metric", "yAxisExpressions": [],
    "lineSmoothness": 0, "useGlobalXaxisKey": True, "useGlobalLineSmoothing": True, "runsCountToCompare": 100,
}  # fmt: skip


def saved_view(
    name: str,
    search: str = CELLS,
    swept: Sequence[str] = (),
    accuracy: str = "test/sampled_accuracy",
    names: Sequence[str] = (),
) -> str:
    """A view as the value of its experiment tag.

    name: in the menu. search: MLflow's filter of runs. swept: params that differ between the cells, as columns.
    accuracy: metric that sorts the cells, and the first column. names: of the cells; their column is as wide as these.
    """
    keys = dict.fromkeys((*ALWAYS, *[key for key in swept if key not in LAST][:MOST_SWEPT], *LAST))
    columns = [_metric(accuracy), *map(_param, keys), *[_metric(each) for each in METRICS if each != accuracy]]
    state = {
        "searchFilter": search,
        "orderByKey": _metric(accuracy),
        "orderByAsc": False,
        "selectedColumns": columns,
        "columnOrder": ["0", "attributes.`Run Name`", "runDateAndNestInfo", *columns, "duration"],
        "columnWidths": {"attributes.`Run Name`": _name_width(names), "runDateAndNestInfo": 48, _metric(accuracy): 165}
        | {_param(key): WIDTHS.get(key, 40 + 8 * len(key)) for key in keys},
        "runsHiddenMode": "FIRST_20_RUNS",
        "compareRunCharts": [_chart(accuracy), _chart("masked_fraction")],
        "compareRunSections": [
            {"uuid": KEY, "name": "First look", "display": True, "isReordered": False, "columns": 2}
        ],
    }
    return json.dumps({"name": name, "createdAt": 0, "updatedAt": 0, "state": json.dumps(state)})


def tag_of(sweep_folder: str) -> str:
    """The experiment tag that holds the view of a sweep, from the name of its folder."""
    return PREFIX + KEY + "-" + re.sub(r"[^A-Za-z0-9_-]", "-", sweep_folder)[:200]


def is_ours(tag: str, value: str) -> bool:
    """Whether an experiment tag is still as it was written here (or guessed by MLflow), so that it may be replaced."""
    if tag in KIND:
        return value in GUESSED
    try:
        return not json.loads(value).get("updatedAt")
    except (ValueError, AttributeError):
        return False


def _chart(metric: str) -> dict[str, Any]:
    return CHART | {
        "uuid": f"{KEY}-{metric}",
        "metricKey": metric,
        "selectedMetricKeys": [metric],
        "displayName": metric,
        "selectedXAxisMetricKey": "",
    }


def _name_width(names: Sequence[str]) -> int:
    narrow, wide = NAME_PX
    return min(wide, max([narrow, *(60 + 7 * len(name) for name in names)]))


def _param(name: str) -> str:
    return f"params.`{name}`"


def _metric(name: str) -> str:
    return f"metrics.`{name}`"


TAGS = KIND | {ALL_CELLS: saved_view(TITLE)}
