"""What runs leave behind, in processes of their own: memory, open files, threads, child processes."""

from __future__ import annotations

from tests.faults.test_campaign import run


def test_memory_does_not_grow_once_the_rollout_queue_is_full() -> None:
    """Within 3 %: so early the allocator and the kernels' caches of shapes still fill (`make soak`: 10,000 updates)."""
    run("benchmarks.soak", "--only", "memory", "--tiny", "--updates", "1000", "--growth", "0.03", seconds=480)


def test_fifty_runs_in_one_process_leave_nothing_behind() -> None:
    """Serial and overlapped in turns of 25."""
    run("benchmarks.soak", "--only", "leftovers", "--runs", "25", seconds=480)
