"""No change that is not meant to moves a bit: every method ends with its golden hash."""

from __future__ import annotations

import pytest

from benchmarks.golden import cases, final_hash, machine, stored
from tests.conftest import ROOT

STORED = stored()["machines"].get(machine(), {})
CASES = [case for case in cases() if case in STORED]


def test_every_stored_case_is_one_of_ours() -> None:
    for name, hashes in stored()["machines"].items():
        assert set(hashes) <= set(cases()), name


@pytest.mark.skipif(not STORED, reason=f"no golden hashes for {machine()}: compare with `make golden`")
@pytest.mark.parametrize("case", CASES or ["none"])
def test_a_run_ends_with_its_golden_hash(case: str) -> None:
    assert final_hash(ROOT, case) == STORED[case]
