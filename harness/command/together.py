"""run.py started several times at once, by torchrun or srun: who drives, and that nobody waits for ever."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from harness.ranks import launch


def follows() -> bool:
    """Whether this process is a rank beside the first. Raises UserError for a place that is none."""
    place = launch.launched()
    return place is not None and place.rank > 0


@contextmanager
def followers_released() -> Iterator[None]:
    """Lets the other ranks go after a command that has not needed them: refused, finished before, a dry run."""
    yield
    if launch.launched() is not None:
        # Imported late: it loads torch, which a command that runs nothing need not wait for.
        from harness.ranks import group

        group.release()
