"""Token records: parts of updates with rows and without, joined to one file."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from harness.records.token_parts import TokenParts


@pytest.mark.parametrize("sizes", [(2, 0, 1), (0, 3)])
def test_an_update_without_a_token_to_train_on_is_a_part_like_any_other(sizes: tuple[int, ...], tmp_path: Path) -> None:
    """A bound that masks can leave an update nothing (lag.on_excess=mask)."""
    parts = TokenParts(tmp_path)
    for update, size in enumerate(sizes, 1):
        parts.append(update, {"update": torch.full((size,), update)}, ["x"] * size)
    parts.join()
    expected = [update for update, size in enumerate(sizes, 1) for _ in range(size)]
    assert pq.read_table(tmp_path / "tokens.parquet")["update"].to_pylist() == expected
