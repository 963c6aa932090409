"""A learner of several processes: the same bits for any number of them, alive or dead, started by whomever."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM

from benchmarks.rank_cases import COVER, SHORT, Case, Run, configured, foreign_model, ran
from harness.command import together
from harness.command.plan import plan
from harness.errors import UserError
from harness.models.digest import weights_sha256
from harness.ranks import group, launch, pulse
from harness.records.recorder import Recorder
from tests.conftest import ROOT

MANY = "learner.micro_batch_tokens=150"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return lambda *overrides: ran(tmp_path, *overrides)


def test_the_cover_has_every_pair_of_values() -> None:
    for one, other in itertools.combinations(range(len(Case._fields)), 2):
        pairs = {(case[one], case[other]) for case in COVER}
        assert pairs == set(itertools.product({case[one] for case in COVER}, {case[other] for case in COVER}))


@pytest.mark.parametrize("case", COVER, ids=lambda case: "-".join(map(str, case)))
def test_the_number_of_ranks_moves_no_bit(case: Case, run: Run, tmp_path: Path) -> None:
    overrides = case.overrides(foreign_model(tmp_path / "model"))
    alone = run(*overrides)
    shared = run(*overrides, "driver=overlapped", f"ranks={case.ranks}")
    assert shared.sha256 == alone.sha256
    assert shared.rows == alone.rows
    if case.method == "m2po":
        assert any(row["masked_fraction"] for row in alone.rows), "the case must mask something, or it proves nothing"


def test_a_killed_run_is_resumed_by_another_number_of_ranks(run: Run, tmp_path: Path) -> None:
    overrides = ("algo=m2po", "algo.m2_threshold=1e-5", "updates=48", MANY, "driver=overlapped")
    whole = run(*overrides, "repeat=1")
    killed = started(tmp_path, *overrides, "ranks=2")
    followers = followers_of(killed.pid, after=lambda: rows_of(tmp_path, overrides) >= 6)
    killed.kill()
    killed.wait()
    assert len(followers) == 1
    eventually(lambda: not any(map(alive, followers)))
    stopped = started(tmp_path, *overrides, "ranks=3")
    for rank in [*followers_of(stopped.pid, after=lambda: rows_of(tmp_path, overrides) >= 14), stopped.pid]:
        os.kill(rank, signal.SIGUSR2)  # as srun does before a job's time is up: to all
    assert stopped.wait() == 1
    saved = max(path.name for path in (configured(tmp_path, *overrides).folder / "checkpoints").iterdir())
    assert int(saved) == rows_of(tmp_path, overrides), "rank 0 saves itself, and the others let it"
    assert run(*overrides).sha256 == whole.sha256


def started(folder: Path, *overrides: str, **environment: str) -> subprocess.Popen[bytes]:
    """run.py as a process of its own."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / "run.py"), *SHORT, f"runs_dir={folder}", *overrides],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | environment,
    )


def rows_of(folder: Path, overrides: tuple[str, ...]) -> int:
    """Updates that a run has recorded."""
    path = configured(folder, *overrides).folder / "metrics.jsonl"
    return path.read_text().count("\n") if path.is_file() else 0


def followers_of(pid: int, after: Callable[[], bool]) -> list[int]:
    """Process ids of the ranks that a run has started, once a condition holds."""
    eventually(after)
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children if "harness.follow" in Path(f"/proc/{child}/cmdline").read_text()]


def alive(pid: int) -> bool:
    try:
        return "zombie" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def eventually(true: Callable[[], bool], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_checkpoint_of_ranks_is_an_ordinary_folder(run: Run) -> None:
    shared = run(MANY, "driver=overlapped", "ranks=3")
    folder = shared.folder / "checkpoints" / "000008"
    files = sorted(path.name for path in folder.glob("model*.safetensors"))
    assert files == [f"model-{rank:05d}-of-00003.safetensors" for rank in (1, 2, 3)]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert weights_sha256(model.state_dict()) == shared.sha256


def test_ranks_beside_ray_actors(run: Run) -> None:
    pytest.importorskip("ray")
    overrides = ("algo=grpo", MANY)
    assert run(*overrides, "driver=ray", "ranks=2", "ray.actors=1").sha256 == run(*overrides).sha256


def test_a_frozen_rank_is_killed_and_named_and_the_run_carries_on(
    run: Run, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    overrides = ("algo=grpo", MANY, "driver=overlapped")
    record, started = Recorder.update, _started(monkeypatch)

    def freezing(self: Recorder, update: Any, *more: Any) -> None:
        record(self, update, *more)
        if update.metrics["update"] == 6:
            started[-1]._processes[1].send_signal(signal.SIGSTOP)

    with monkeypatch.context() as patched:
        patched.setattr(Recorder, "update", freezing)
        patched.setattr(pulse, "SILENT_S", 15.0)
        dead = run(*overrides, "ranks=3")
    assert dead.outcome == "interrupted" and "the death of rank 2 (exit -9)" in capfd.readouterr().err
    assert all(started[-1].exit_code(rank) is not None for rank in (1, 2)), "the living are dismissed"
    resumed = run(*overrides, "ranks=2")
    assert resumed.sha256 == run(*overrides, "repeat=1").sha256


@pytest.mark.parametrize("ours", [True, False])
def test_a_silent_rank_is_killed_or_waited_for_no_more(
    ours: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A rank of another machine closes no connection: rank 0 would wait for it."""
    for name, seconds in {"BEAT_S": 0.05, "SILENT_S": 4.0, "FREE_S": 0.1}.items():
        monkeypatch.setattr(pulse, name, seconds)
    killed, ended = list[int](), list[int]()
    monkeypatch.setattr(pulse.os, "_exit", ended.append)
    store = dist.FileStore(str(tmp_path / "store"), 3)
    pulse.beat(store, 1)

    def kill(rank: int) -> bool:
        killed.append(rank)
        return ours

    watch = pulse.Watch(dist.FileStore(str(tmp_path / "store"), 3), 3, kill)
    eventually(lambda: killed and (ours or ended), seconds=60)
    watch.stop()
    assert killed == [2] and ended == ([] if ours else [1])
    assert "rank 2 has given no sign of life" in capfd.readouterr().err


def _started(monkeypatch: pytest.MonkeyPatch) -> list[launch.Followers]:
    """The followers of the runs of a test."""
    seen: list[launch.Followers] = []
    init = launch.Followers.__init__

    def spied(self: launch.Followers, world: int) -> None:
        seen.append(self)
        init(self, world)

    monkeypatch.setattr(launch.Followers, "__init__", spied)
    return seen


def test_fast_sums_belong_to_the_identity(run: Run) -> None:
    def identity(*overrides: str) -> str:
        return plan([*overrides, "driver=overlapped"]).cells[0].sha256()

    assert identity("ranks=2") == identity("ranks=3") == identity()
    assert identity("ranks=2", "learner.sum=fast") != identity("ranks=3", "learner.sum=fast")
    fast, alone = (run(MANY, "driver=overlapped", *more) for more in (("ranks=3", "learner.sum=fast"), ()))
    for one, other in zip(fast.rows, alone.rows, strict=True):
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-3)


@pytest.mark.parametrize(
    ("overrides", "environment", "message"),
    [
        (["ranks=2"], {}, "driver=overlapped"),
        (["ranks=0", "driver=overlapped"], {}, "at least 1"),
        (["driver=overlapped"], {"WORLD_SIZE": "2"}, "expected ranks=2"),
        (["-m", "ranks=2", "seed=1,2", "driver=overlapped"], {"WORLD_SIZE": "2"}, "a command a cell"),
    ],
)
def test_what_cannot_be_is_refused(
    overrides: list[str], environment: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if environment:
        for name, value in {"MASTER_ADDR": "127.0.0.1", "RANK": "0", **environment}.items():
            monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message):
        plan(overrides)


TWO = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500", "RANK": "0", "WORLD_SIZE": "2"}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("RANK", "zero", "RANK=zero: expected a whole number"),
        ("RANK", "2", "RANK=2 with WORLD_SIZE=2: expected a rank from 0 to 1"),
        ("WORLD_SIZE", "two", "WORLD_SIZE=two: expected a whole number"),
        ("MASTER_PORT", "", "MASTER_PORT=: expected a whole number"),
        ("MASTER_PORT", "99999", "from 1 to 65535"),
        ("MASTER_ADDR", "no machine", "MASTER_ADDR=no machine: no such machine"),
    ],
)
def test_ranks_that_cannot_meet_are_refused(
    name: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in {**TWO, name: value}.items():
        monkeypatch.setenv(*variable)
    with pytest.raises(UserError, match=message):
        plan(["ranks=2", "driver=overlapped"])


def test_a_port_that_somebody_has_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("", 0)) as taken:
        for variable in {**TWO, "MASTER_PORT": str(taken.getsockname()[1])}.items():
            monkeypatch.setenv(*variable)
        with pytest.raises(UserError, match="choose another port"):
            plan(["ranks=2", "driver=overlapped"])
        monkeypatch.setenv(launch.AGENT, "True")
        launch.check_launched(2, 1)  # it is torchrun


def test_a_refused_command_does_not_wait_for_ranks_that_nobody_started(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    for variable in {**TWO, "MASTER_PORT": port}.items():
        monkeypatch.setenv(*variable)
    monkeypatch.setattr(group, "RELEASE_S", 0.5)
    began = time.monotonic()
    with together.followers_released():
        pass
    assert time.monotonic() - began < 60


def test_a_place_among_several_needs_their_address(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SLURM_PROCID": "5", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1"}.items():
        monkeypatch.setenv(name, value)
    assert launch.launched() is None  # a job script that starts one process sees these variables as well
    monkeypatch.setenv("MASTER_ADDR", "node-1")
    assert launch.launched() == launch.Place(5, 8, 1)


@pytest.mark.parametrize("more", [(), ("dry_run=true",), ("no_such_key=1",)])
def test_sruns_variables_start_the_ranks(more: tuple[str, ...], run: Run, tmp_path: Path) -> None:
    overrides = ("algo=grpo", MANY, "driver=overlapped")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "SLURM_NTASKS": "2"}
    processes = [started(tmp_path, *overrides, "ranks=2", *more, **meeting, SLURM_PROCID=str(rank)) for rank in (0, 1)]
    codes = [process.wait(timeout=240) for process in processes]
    assert codes == [2 if more == ("no_such_key=1",) else 0, 0], "nobody waits for a run that does not come"
    if not more:
        assert run(*overrides).outcome == "skipped"  # without srun it is the same run
        assert run(*overrides).sha256 == run(*overrides, "repeat=1").sha256


def torchrun(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """run.py as torchrun starts it, on two ranks."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run(
        [*launcher, str(ROOT / "run.py"), f"runs_dir={folder}", *arguments],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_torchrun_starts_the_ranks(run: Run, tmp_path: Path) -> None:
    overrides = ("algo=grpo", MANY, "driver=overlapped")
    started = torchrun(tmp_path, *SHORT, *overrides, "ranks=2")
    assert started.returncode == 0, started.stderr
    again = run(*overrides)
    assert again.outcome == "skipped"  # by the same command without torchrun: it is the same run
    assert again.manifest["final_weights_sha256"] == run(*overrides, "repeat=1").sha256
