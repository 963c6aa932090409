"""Signals and lost readers: to a run, to a sweep's launcher alone, to one of its cells, before anything has begun."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.records.layout import LOCK
from tests.conftest import LIMIT_S, ROOT, SMALL, manifests, until

LONG = (*SMALL, "updates=4000", "eval.every=4000")
SWEEP = ("-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """`run.py` with the given arguments, in a session of its own that ends with the test."""
    processes = []

    def started(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "run.py"), *arguments],
            cwd=tmp_path,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process

    yield started
    for process in processes:
        for pid in members(process.pid):
            os.kill(pid, signal.SIGKILL)
        process.communicate()


def members(session: int) -> list[int]:
    """Processes of a session that live."""
    listed = subprocess.run(["ps", "-eo", "pid=,sid=,stat="], capture_output=True, text=True, check=True)
    rows = [line.split() for line in listed.stdout.splitlines()]
    return [int(pid) for pid, sid, state in rows if int(sid) == session and not state.startswith("Z")]


def with_checkpoint(folder: Path) -> list[Path]:
    return [path.parents[2] for path in sorted(folder.glob("runs/carry/*/checkpoints/*/checkpoint.json"))]


def owner(run: Path) -> int:
    return int((run / LOCK).read_text().split()[1])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_cells_stop_with_a_checkpoint_when_their_launcher_alone_is_ended(
    tmp_path: Path, start: Start, number: int
) -> None:
    launcher = start(*SWEEP, "seed=1,2,3", *LONG)
    until(lambda: len({run.name for run in with_checkpoint(tmp_path)}) == 2)
    launcher.send_signal(number)
    launcher.wait(60)
    until(lambda: not members(launcher.pid), limit_s=20)
    assert [m["status"] for m in manifests(tmp_path).values()] == ["interrupted"] * 2
    if number == signal.SIGTERM:
        assert launcher.stdout is not None and "2 interrupted, 1 waiting" in launcher.stdout.read()


def test_a_killed_process_costs_its_own_cell_only_which_is_started_again(tmp_path: Path, start: Start) -> None:
    launcher = start(*SWEEP, "seed=1,2,3", *SMALL, "updates=240", "eval.every=240")
    until(lambda: with_checkpoint(tmp_path))
    killed = with_checkpoint(tmp_path)[0]
    os.kill(owner(killed), signal.SIGKILL)
    _, errors = launcher.communicate(timeout=LIMIT_S)
    assert launcher.returncode == 0, errors
    assert errors.count("was killed (SIGKILL); it is started again") == 1 and "Traceback" not in errors
    found = manifests(tmp_path)
    assert [m["status"] for m in found.values()] == ["finished"] * 3
    assert [len(m["resumed"]) for name, m in found.items() if name != killed.name] == [0, 0]  # type: ignore[arg-type]
    assert len(found[killed.name]["resumed"]) == 1  # type: ignore[arg-type]


def test_a_hangup_leaves_a_checkpoint_unless_it_is_ignored(tmp_path: Path, start: Start) -> None:
    run = start(*LONG)
    until(lambda: with_checkpoint(tmp_path))
    run.send_signal(signal.SIGHUP)
    _, errors = run.communicate(timeout=60)
    assert "stopped by SIGHUP at update" in errors and "Traceback" not in errors
    assert [m["status"] for m in manifests(tmp_path).values()] == ["interrupted"]
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        again = start(*SMALL)
    finally:
        signal.signal(signal.SIGHUP, before)
    until(lambda: len(manifests(tmp_path)) == 2)
    again.send_signal(signal.SIGHUP)
    _, errors = again.communicate(timeout=LIMIT_S)
    assert again.returncode == 0, errors


@pytest.mark.parametrize("after_s", [0.5, 1.5, 4.0])
def test_ctrl_c_before_a_run_has_begun_says_nothing(tmp_path: Path, start: Start, after_s: float) -> None:
    run = start(*LONG, "quiet=true")
    time.sleep(after_s)
    run.send_signal(signal.SIGINT)
    out, errors = run.communicate(timeout=LIMIT_S)
    assert run.returncode != 0
    begun = bool(manifests(tmp_path))  # on a fast machine
    assert len((out + errors).splitlines()) <= (3 if begun else 1), out + errors
    assert "Traceback" not in errors


def test_a_run_needs_no_standard_streams(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "run.py"), *SMALL]
    closed = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command]
    assert subprocess.run(closed, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False).returncode == 0
    assert [m["status"] for m in manifests(tmp_path).values()] == ["finished"]


def test_what_cannot_be_printed_is_one_line(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, str(ROOT / "run.py"), "--help"]
        shown = subprocess.run(command, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert shown.returncode == 2 and "No space left on device" in shown.stderr and "Traceback" not in shown.stderr


def test_a_folder_that_is_gone_is_named_in_one_line(tmp_path: Path) -> None:
    command = f"mkdir gone; cd gone; rmdir ../gone; '{sys.executable}' '{ROOT}/run.py' updates=8"
    ran = subprocess.run(["sh", "-c", command], cwd=tmp_path, stderr=subprocess.PIPE, text=True, check=False)
    assert ran.returncode == 2 and ran.stderr.startswith("run.py: the folder that this is typed in does not exist")
    assert len(ran.stderr.splitlines()) == 1


def test_a_closed_pipe_ends_no_run(tmp_path: Path, start: Start) -> None:
    run = start(*SMALL)
    assert run.stdout is not None and run.stderr is not None
    run.stdout.close()
    run.stderr.close()
    assert run.wait(LIMIT_S) == 0
    assert [m["status"] for m in manifests(tmp_path).values()] == ["finished"]


# Ray's agents see the end of their parent after 2 s, then try for 60 s to report it to a cluster that is gone.
@pytest.mark.parametrize("driver, limit_s", [("overlapped", 30), ("ray", 90)])
def test_a_killed_run_leaves_no_process_behind(tmp_path: Path, start: Start, driver: str, limit_s: float) -> None:
    run = start(*LONG, f"driver={driver}", "staleness=4")
    until(lambda: with_checkpoint(tmp_path))
    run.kill()
    run.wait()
    until(lambda: not members(run.pid), limit_s=limit_s)
