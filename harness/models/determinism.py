"""The same bits twice on an accelerator, where its fast kernels add in whatever order they finish."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# Without it torch refuses deterministic products. It looks once a process, at the first product on the device, and that
# may be a sampled token: so the variable is set before there is any. As many bytes as Hopper's products take anyway.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


@contextmanager
def deterministic(enabled: bool) -> Iterator[None]:
    """Has the block compute with deterministic kernels: backward passes of attention and of scattered reads.

    Not for a whole run, because torch refuses running sums then, which are deterministic along rows (sampling, and
    methods whose weights are products along a response).
    enabled: False leaves everything as it is.
    """
    if not enabled:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    # Nothing here reads what it has not written.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
