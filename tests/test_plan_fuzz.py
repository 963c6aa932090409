"""Command lines and the readers of records under arbitrary input: an answer in one line, no traceback."""

from __future__ import annotations

from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.command import status
from harness.command.plan import plan
from harness.config import known_keys
from harness.errors import UserError
from harness.records.checkpoint import newest_good
from harness.records.layout import CHECKPOINT
from harness.records.tail import rows
from harness.tracking.entries import evaluation_metrics, update_metrics

text = st.text(max_size=20)
keys = st.sampled_from(known_keys()) | text
values = (
    text | st.integers().map(str) | st.floats().map(str) | st.sampled_from(["null", "[]", "{}", "../x", "${x}", "[1,2"])
)
patient = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


@patient
@given(st.lists(st.tuples(keys, values), max_size=3))
def test_any_command_line_is_planned_or_refused_in_one_line(tmp_path_factory, overrides) -> None:  # type: ignore[no-untyped-def]
    folder: Path = tmp_path_factory.mktemp("front")
    line = [f"{key}={value}" for key, value in overrides if not key.startswith("hydra")]
    try:
        plan([*line, f"runs_dir={folder}"])
    except UserError as error:
        assert "\n" not in str(error)
    assert list(folder.iterdir()) == []


@patient
@given(st.binary(max_size=300))
def test_any_bytes_as_records_are_read_or_passed_over(tmp_path_factory, content: bytes) -> None:  # type: ignore[no-untyped-def]
    folder: Path = tmp_path_factory.mktemp("run")
    for name in ("metrics.jsonl", "eval.jsonl", "manifest.json", "tracking.json"):
        (folder / name).write_bytes(content)
    for row, _ in rows(folder / "metrics.jsonl", 0):
        update_metrics(row)
        evaluation_metrics(row)
    assert status.look(folder).status == "damaged"
    root = folder / "checkpoints" / "000008"
    root.mkdir(parents=True)
    (root / CHECKPOINT).write_bytes(content)
    found, complaints = newest_good(folder / "checkpoints", lambda _: None)
    assert found is None and len(complaints) == 1
