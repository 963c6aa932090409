"""Bounded runs for real: what they record, and that their schedule replays to the same weights."""

import json
from pathlib import Path
from typing import Any

import pytest
from short_runs import configured

from harness.errors import UserError
from harness.lag.schedule import read_schedule
from harness.records.limits import LARGEST_SCHEDULE, LARGEST_TEXT

FREE = ("lag=bounded", "staleness=11", "rollout.chunks=4", "updates=24", "eval.every=24")


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


@pytest.fixture(scope="module")
def bounded(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from short_runs import Ran

    from harness.command.cell import run_cell

    config = configured(tmp_path_factory.mktemp("bounded"), *FREE, "driver=overlapped", "lag.on_excess=drop")
    return Ran(run_cell(config), config.folder)


def test_records_say_what_the_staleness_was(bounded: Any) -> None:
    assert bounded.sha256
    for row in rows(bounded.folder, "metrics.jsonl"):
        values = {int(value): count for value, count in row["staleness_hist"].items()}
        assert min(values) == row["staleness_min"]
        assert max(values) == row["staleness_max"] <= 11
        mean = sum(value * count for value, count in values.items()) / sum(values.values())
        assert row["staleness_mean"] == pytest.approx(mean)
        assert {"dropped_samples", "dropped_length", "dropped_reward", "time/queue_s", "time/publish_lag",
                "time/wait_s", "time/generator_idle_s"} <= row.keys()  # fmt: skip


def test_the_schedule_replays_to_the_same_weights_on_every_driver(bounded: Any, run: Any) -> None:
    replay = ("lag=replay", f"lag.schedule={bounded.folder / 'schedule.jsonl'}", *FREE[2:])
    assert run(*replay).sha256 == bounded.sha256
    assert run(*replay, "driver=overlapped").sha256 == bounded.sha256


def test_freshest_first_replays_to_the_same_weights(run: Any) -> None:
    free = run(*FREE, "driver=overlapped", "lag.on_excess=drop", "lag.first=freshest")
    assert max(row["staleness_max"] for row in rows(free.folder, "metrics.jsonl")) <= 11
    replay = ("lag=replay", f"lag.schedule={free.folder / 'schedule.jsonl'}", *FREE[2:])
    assert run(*replay).sha256 == free.sha256


def test_a_schedule_of_another_configuration_is_refused(bounded: Any, tmp_path: Path) -> None:
    replay = ("lag=replay", f"lag.schedule={bounded.folder / 'schedule.jsonl'}", *FREE[2:])
    for other, message in (("seed=2", "seed=1 there, 2 here"), ("algo=grpo", "algo"),
                        ("updates=48", "has 6 batches, updates=48 needs 12")):  # fmt: skip
        with pytest.raises(UserError, match=message):
            configured(tmp_path, *replay, other)


def test_a_file_that_is_no_schedule_is_refused(bounded: Any, tmp_path: Path) -> None:
    lines = (bounded.folder / "schedule.jsonl").read_text().splitlines()
    late = json.loads(lines[1]) | {"versions": [4] * 4}
    again = json.dumps(json.loads(lines[1]) | {"batch": 1})
    for content, message in (("", "not the schedule"), ("{}", "not the schedule"),
                          ("\n".join([lines[0], json.dumps(late), *lines[2:]]), "needs version 4, which does"),
                          ("\n".join([lines[0], lines[1], again, *lines[3:]]), "has been trained on"),
                          ("\n".join([*lines[:2], *lines[3:]]), "batch 2 where batch 1 is due")):  # fmt: skip
        path = tmp_path / "schedule.jsonl"
        path.write_text(content)
        with pytest.raises(UserError, match=message):
            configured(tmp_path, "lag=replay", f"lag.schedule={path}", *FREE[2:])
    with pytest.raises(UserError, match="cannot be read"):
        configured(tmp_path, "lag=replay", f"lag.schedule={tmp_path / 'none'}", *FREE[2:])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("driver=serial", "staleness=8"), "nothing runs free"),
        (("driver=overlapped", "staleness=-1"), "at least 0"),
        (("driver=overlapped", "staleness=2"), "3 updates stale by construction"),
        (("driver=overlapped", "staleness=8", "lag.on_excess=drop", "rollout.chunks=3"), "of one size"),
        (("driver=overlapped", "staleness=8", "lag.first=freshest"), "add lag.on_excess=drop"),
        (("driver=overlapped", "staleness=8", "lag.first=newest"), "expected one of finished, freshest, oldest"),
    ],
)
def test_bad_bounds_are_refused(overrides: tuple[str, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        configured(tmp_path, "lag=bounded", *overrides)


HEADER = '{"identity": {}}\n'
NO_SCHEDULES = {
    "deep": ('{"identity": ' + "[" * 99, "deeper than"),
    "a huge line": ("1" * (LARGEST_TEXT + 1), "longer than"),
    "bytes": ("\x00\x1b[2J", "not the schedule"),
    "a list": ("[1]", "not the schedule"),
    "numbers as text": (
        HEADER + '{"batch": 0, "chunks": ["0"], "versions": [0], "trained": [true]}',
        "expected numbers",
    ),
    "half a version": (
        HEADER + '{"batch": 0, "chunks": [0], "versions": [0.5], "trained": [true]}',
        "expected numbers",
    ),
    "an endless number": (
        HEADER + '{"batch": 0, "chunks": [Infinity], "versions": [0], "trained": [true]}',
        "expected numbers",
    ),
    "text for lists": (HEADER + '{"batch": 0, "chunks": "0", "versions": "0", "trained": "0"}', "expected numbers"),
}


@pytest.mark.parametrize("case", NO_SCHEDULES)
def test_a_hostile_schedule_is_refused_in_one_line(tmp_path: Path, case: str) -> None:
    content, message = NO_SCHEDULES[case]
    (tmp_path / "schedule.jsonl").write_text(content)
    with pytest.raises(UserError, match=rf"lag\.schedule=.*{message}") as refused:
        read_schedule(str(tmp_path / "schedule.jsonl"))
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 1000


def test_a_schedule_is_a_plain_file_of_bounded_size(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no plain file"):
        read_schedule(str(tmp_path))
    with (tmp_path / "schedule.jsonl").open("wb") as file:
        file.truncate(LARGEST_SCHEDULE + 1)
    with pytest.raises(UserError, match="at most"):
        read_schedule(str(tmp_path / "schedule.jsonl"))
