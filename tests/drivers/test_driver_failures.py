"""Actors that die, hang or raise; workers that raise; Ctrl-C."""

import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from short_runs import PROJECT, SHORT, configured

from harness import interrupts
from harness.command.plan import plan
from harness.drivers import ray_cluster
from harness.errors import UserError
from harness.records.checkpoint import newest_good
from harness.records.recorder import Recorder
from harness.records.state import status_of


class Failing:
    """An engine that fails once in each of `ways`, from the version named on, whoever serves."""

    def __init__(self, engine: Any, folder: str, ways: dict[str, int]) -> None:
        self._engine, self._folder, self._ways = engine, folder, ways
        self.seconds = engine.seconds

    @property
    def version(self) -> int:
        return self._engine.version

    def load(self, version: int, weights: Any) -> None:
        self._engine.load(version, weights)

    def generate(self, request: Any) -> Any:
        rollouts = self._engine.generate(request)
        for way in [way for way, version in self._ways.items() if self.version >= version]:
            try:
                os.close(os.open(os.path.join(self._folder, way), os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                continue
            if way == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if way == "hanging":
                time.sleep(600)
            raise RuntimeError("the engine broke")
        return rollouts

    def close(self) -> None:
        self._engine.close()


def test_a_failed_actors_chunk_is_generated_again(run: Any, cluster: Any, engines: Any, tmp_path: Path) -> None:
    lag = ("staleness=4", "rollout.chunks=4")
    serial = run(*lag)
    cluster.cloudpickle.register_pickle_by_value(sys.modules[Failing.__module__])
    ways = {"killed": 1, "raising": 4, "hanging": 8}  # never on one chunk: three would end the run
    engines(functools.partial(Failing, folder=str(tmp_path), ways=ways))
    ray = run(*lag, "driver=ray", "ray.actors=2", "ray.chunk_timeout_s=15")  # a busy machine is no failure
    assert all((tmp_path / way).exists() for way in ways)
    assert ray.sha256 == serial.sha256


def test_an_actor_that_always_raises_ends_the_run(run: Any, cluster: Any, engines: Any, tmp_path: Path) -> None:
    cluster.cloudpickle.register_pickle_by_value(sys.modules[Failing.__module__])
    engines(functools.partial(Failing, folder=str(tmp_path), ways={f"raising {i}": 1 for i in range(9)}))
    ended = run("staleness=4", "driver=ray")
    assert ended.outcome == "failed"
    assert "3 times on one chunk" in ended.manifest["error"]
    assert "the engine broke" in ended.manifest["error"]


def test_an_error_of_a_worker_ends_the_run_with_its_traceback(run: Any, engines: Any, tmp_path: Path) -> None:
    engines(functools.partial(Failing, folder=str(tmp_path), ways={"raising": 1}))
    ended = run("staleness=4", "driver=overlapped")
    assert ended.outcome == "failed"
    assert ended.manifest["error"] == "RuntimeError: the engine broke"
    assert "in generate" in (ended.folder / "error.txt").read_text()


@pytest.mark.parametrize(
    "driver",
    [("driver=overlapped", "lag=bounded", "staleness=11"), ("driver=ray", "staleness=8")],
    ids=["overlapped", "ray"],
)
def test_ctrl_c_stops_everything_within_five_seconds_with_a_checkpoint(driver: tuple[str, ...], tmp_path: Path) -> None:
    overrides = (*driver, "updates=4000", "eval.every=4000", "checkpoint_every=4000")
    config = configured(tmp_path, *overrides)
    command = [sys.executable, str(PROJECT / "run.py"), *SHORT, f"runs_dir={tmp_path}", *overrides]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True,
                               env=os.environ | {"PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"})  # fmt: skip
    metrics = config.folder / "metrics.jsonl"
    began = time.monotonic()
    deadline = began + 150
    while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < deadline:
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)
    stopped = time.monotonic()
    start_up = stopped - began
    process.communicate(timeout=60)
    took = time.monotonic() - stopped
    assert status_of(config.folder) == "interrupted"
    saved, complaints = newest_good(config.folder / "checkpoints", lambda _: None)
    assert saved is not None
    assert not complaints
    assert saved.counters["version"] > 0
    assert not _left_behind(process.pid)
    assert took < max(5, start_up / 2), f"{took:.1f} s"  # a machine on which all takes longer is no slower to stop


def test_a_stop_while_ray_starts_ends_the_run_at_its_first_safe_point(tmp_path: Path) -> None:
    """Ray's own handler of SIGTERM would end it there, with a traceback."""
    overrides = ("driver=ray", "updates=4000", "eval.every=4000", "checkpoint_every=4000")
    config = configured(tmp_path, *overrides)
    command = [sys.executable, str(PROJECT / "run.py"), *SHORT, f"runs_dir={tmp_path}", *overrides]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True,
                               env=os.environ | {"PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"})  # fmt: skip
    deadline = time.monotonic() + 150
    while not any("gcs_server" in started for started in _processes("ppid", process.pid)):
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.terminate()
    _, said = process.communicate(timeout=60)
    assert "stopped by SIGTERM" in said
    assert "Traceback" not in said
    assert status_of(config.folder) == "interrupted"
    assert not _left_behind(process.pid)


def _processes(kin: str, number: int) -> list[str]:
    """What runs of a parent (ppid) or of a session (sid)."""
    listed = subprocess.run(["ps", "-eww", "-o", f"{kin}=,stat=,args="], capture_output=True, text=True, check=True)
    rows = [line.split(None, 2) for line in listed.stdout.splitlines()]
    return [args for found, state, args in rows if int(found) == number and not state.startswith("Z")]


def _left_behind(session: int) -> list[str]:
    """Processes of a session that outlived its leader, Ray's helpers included, after a moment of grace."""
    for _ in range(30):
        if not (alive := _processes("sid", session)):
            return []
        time.sleep(0.1)
    return alive


def test_an_address_that_does_not_answer_is_refused_in_time(tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as deaf:
        port = deaf.getsockname()[1]
        for address in ("127.0.0.1:1", f"127.0.0.1:{port}", "nonsense"):
            started = time.monotonic()
            with pytest.raises(UserError, match=r"ray\.address=.*; |expected HOST:PORT"):
                plan(["driver=ray", f"ray.address={address}", f"runs_dir={tmp_path}", "tracking=none"])
            assert time.monotonic() - started < 35


def test_ray_not_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'lagrange-rl\[ray\]'"):
        ray_cluster.import_ray()


@pytest.mark.parametrize("driver", ["serial", "overlapped"])
def test_an_interrupted_run_carries_on_to_the_same_weights(
    run: Any, monkeypatch: pytest.MonkeyPatch, driver: str
) -> None:
    lag = ("staleness=8", "rollout.chunks=2", f"driver={driver}")
    whole = run(*lag, "seed=3", "repeat=1")
    record = Recorder.update

    def stopping(self: Recorder, update: Any, batch: Any) -> None:
        record(self, update, batch)
        if update.metrics["update"] == 6:
            monkeypatch.setattr(interrupts, "_requested", ["SIGINT"])
            monkeypatch.setattr(interrupts, "_requested_at", [time.monotonic()])

    monkeypatch.setattr(Recorder, "update", stopping)
    assert run(*lag, "seed=3").outcome == "interrupted"
    monkeypatch.setattr(interrupts, "_requested", [])
    monkeypatch.setattr(interrupts, "_requested_at", [])
    monkeypatch.setattr(Recorder, "update", record)
    carried_on = run(*lag, "seed=3")
    assert carried_on.sha256 == whole.sha256
    updates = [json.loads(line)["update"] for line in (carried_on.folder / "metrics.jsonl").read_text().splitlines()]
    assert updates == list(range(1, 17))
