"""No change that is not meant to moves a bit: every method ends with its golden hash."""

from __future__ import annotations

import pytest

from benchmarks.golden import cases, final_hash, machine, stored
from tests.conftest import ROOT

STORED = stored()["machines"].get(machine())


def test_every_case_of_a_machine_is_stored() -> None:
    for name, hashes in stored()["machines"].items():
        assert set(hashes) <= set(cases()), name


@pytest.mark.skipif(STORED is None, reason=f"no golden hashes for {machine()}: compare with `make golden`")
@pytest.mark.parametrize("case", cases())
def test_a_run_ends_with_its_golden_hash(case: str) -> None:
    assert STORED is not None and case in STORED, f"{case} has no hash yet: python -m benchmarks.golden --write"
    assert final_hash(ROOT, case) == STORED[case]
