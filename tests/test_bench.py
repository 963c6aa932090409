"""The benchmarks' page: what counts as met, which rows come to its top, and what an interrupted bench does next."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks import __main__ as bench
from benchmarks import quick, targets


@pytest.mark.parametrize(
    ("values", "bound", "verdict"),
    [
        ([2.0], "≥ 2", "met"),
        ([1.0, 1.9, 9.0], "≥ 2", "missed: so"),  # the median decides
        ([0.2, 0.25], "≤ 0.25", "met"),
        ([0.26], "≤ 0.25", "missed: so"),
        ([1.0], "–", ""),
    ],
)
def test_a_row_is_met_or_explained(values: list[float], bound: str, verdict: str) -> None:
    assert targets.row("x", values, bound, "×", explained="so").strip("|").split("|")[-1].strip() == verdict


def test_medians_come_with_quartiles() -> None:
    assert targets.middle([1.0, 2.0, 3.0, 4.0, 5.0]) == "3.00 (2.00–4.00)"
    assert targets.middle([1234.5]) == "1,234"
    assert targets.middle([7]) == "7"


def test_the_rows_of_every_table_are_found_and_nothing_else() -> None:
    rows = [targets.row(name, [1.0], "≤ 2") for name in "abc"]
    text = f"| other | table |\n|---|---|\n| 1 | 2 |\n{targets.table(rows[:2])}\n\nwords\n{targets.table(rows[2:])}\n"
    assert targets.rows_of(text) == rows
    assert targets.rows_of("no table") == []


def test_an_interrupted_bench_carries_on_and_a_complete_one_begins_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "CACHE", tmp_path)
    assert bench.to_do(None) == list(bench.SECTIONS)
    first, second, *others = bench.SECTIONS
    for section in (first, second):
        keep(section, failed=section is second)
    assert bench.to_do(None) == [second, *others]
    for section in bench.SECTIONS:
        keep(section, failed=False)
    assert bench.to_do(None) == list(bench.SECTIONS)
    assert bench.to_do([second.module]) == [second]
    page = bench.page()
    assert page.index(targets.HEAD) < page.index(f"## {first.title}")
    assert page.count("| fast |") == 2 * len(bench.SECTIONS)  # in its section, and at the top


def test_a_ratio_that_fell_by_more_than_15_percent_is_flagged() -> None:
    assert "FELL" in quick.line("x", 1.69, 2.0)
    assert "FELL" not in quick.line("x", 1.71, 2.0)
    assert "last release" not in quick.line("x", 1.0, None)


def keep(section: bench.Section, *, failed: bool) -> None:
    measured = bench.Measured(targets.table([targets.row("fast", [1.0], "≥ 1")]), failed, "now")
    section.kept.write_text(json.dumps(asdict(measured)), encoding="utf-8")


def test_a_section_that_fails_says_so_in_one_line() -> None:
    text, failed = bench.output(bench.Section("None", "there_is_no_such_module"))
    assert failed and "No module named" in text and "\n" not in text
