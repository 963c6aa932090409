"""driver=ray on a cluster that is joined: two nodes of this machine, of which one is killed."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from short_runs import PROJECT, SHORT, Run

from harness.config import Config
from harness.drivers import ray_actors, ray_cluster, ray_room
from harness.errors import UserError
from harness.groups import RayConfig
from harness.records.files import read_json
from harness.records.layout import MANIFEST, METRICS
from harness.records.state import status_of
from harness.records.tail import last_row
from tests.conftest import LIMIT_S, until

RESERVE = """
import sys, ray
from harness.drivers import ray_cluster, ray_room
from harness.errors import RunFailed
ray.init(address=sys.argv[1], runtime_env={"py_modules": ray_cluster.code_to_send([])}, log_to_driver=False)
ray_room.reserve(1)
print("free", ray.available_resources().get("GPU"))
print("others get", ray.get(ray.remote(ray_room._gpus).options(num_gpus=1).remote()))
ray_room.RESERVED_S = 2
try:
    ray_room.reserve(2)
except RunFailed as error:
    print(error)
"""

pytestmark = pytest.mark.xdist_group("ray")


@dataclass
class TwoNodes:
    process: subprocess.Popen[str]
    address: str
    jobs: str
    killed: bool = False

    def kill_one(self) -> None:
        """Once: there is one to be killed."""
        if self.killed:
            return
        self.killed = True
        assert self.process.stdin is not None and self.process.stdout is not None
        print(file=self.process.stdin, flush=True)
        assert self.process.stdout.readline() == "killed\n"


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[TwoNodes]:
    command = [sys.executable, str(Path(__file__).with_name("two_nodes.py"))]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    without = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with subprocess.Popen(command, text=True, env=without, cwd="/", **pipes) as process:
        assert process.stdout is not None
        address, jobs = process.stdout.readline().split()
        yield TwoNodes(process, address, f"http://{jobs}")
        assert process.stdin is not None
        process.stdin.close()


def environment(**more: str) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"} | more


def test_more_actors_than_there_is_room_for_are_refused_in_one_line(two_nodes: TwoNodes, tmp_path: Path) -> None:
    for actors, said in (("ray.actors=4", "room for 3"), ("ray.cpus_per_actor=3", "room for 0")):
        command = [sys.executable, str(PROJECT / "run.py"), *SHORT, "driver=ray", actors, f"runs_dir={tmp_path}"]
        refused = subprocess.run(
            command, env=environment(RAY_ADDRESS=two_nodes.address), capture_output=True, text=True, check=False
        )
        assert refused.returncode == 2
        assert said in refused.stderr and "2 CPUs and 2 GPUs, 1 CPUs and 0 GPUs" in refused.stderr
        assert len(refused.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_the_learners_gpus_are_nobody_elses(two_nodes: TwoNodes) -> None:
    command = [sys.executable, "-c", RESERVE, two_nodes.address]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "free 1.0", "others get ['1']", "Ray has not 2 free GPUs for the learner on this machine"
    ]  # fmt: skip


def test_ranks_are_tasks_of_the_cluster_with_the_bits_of_one_process(
    two_nodes: TwoNodes, run: Run, tmp_path: Path
) -> None:
    given = ("staleness=4", "updates=8", "eval.every=8", "learner.micro_batch_tokens=150")
    spread = ("driver=ray", "ranks=2", "ray.ranks=cluster", f"runs_dir={tmp_path / 'spread'}")
    command = [sys.executable, str(PROJECT / "run.py"), *SHORT, *given, *spread]
    there = environment(RAY_ADDRESS=two_nodes.address, GLOO_SOCKET_IFNAME="lo")
    done = subprocess.run(command, env=there, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (manifest,) = (tmp_path / "spread").glob(f"carry/*/{MANIFEST}")
    assert read_json(manifest)["final_weights_sha256"] == run(*given).sha256


def test_a_submitted_job_is_the_run_that_it_is_here(two_nodes: TwoNodes, run: Run, tmp_path: Path) -> None:
    """As docs/scaling.md has it: the project is unpacked on the cluster, runs_dir is a folder that outlives the job."""
    given = ("staleness=4", "updates=8", "eval.every=8")
    words = [*SHORT, *given, "driver=ray", "ray.actors=1", f"runs_dir={tmp_path / 'shared'}"]
    submit = [sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--address", two_nodes.jobs]
    command = [*submit, "--working-dir", str(PROJECT), "--", sys.executable, "run.py", *words]

    def submitted() -> bool:
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
        assert done.returncode == 0 or "No available agent" in done.stderr, done.stdout + done.stderr
        return done.returncode == 0

    until(submitted, "the node takes no jobs")  # it is ready a while after the cluster
    (manifest,) = (tmp_path / "shared").glob(f"carry/*/{MANIFEST}")
    assert read_json(manifest)["final_weights_sha256"] == run(*given).sha256


def test_a_killed_node_costs_less_than_a_minute_and_no_bit(two_nodes: TwoNodes, run: Run, tmp_path: Path) -> None:
    given = ("staleness=8", "rollout.chunks=4", "updates=240", "eval.every=240")
    serial = run(*given)
    overrides = (*given, "driver=ray", "ray.actors=3", "ray.address=auto")
    command = [sys.executable, str(PROJECT / "run.py"), *SHORT, *overrides, f"runs_dir={tmp_path / 'ray'}"]
    process = subprocess.Popen(
        command, env=environment(RAY_ADDRESS=two_nodes.address), stderr=subprocess.PIPE, text=True
    )

    def updates() -> int:
        assert process.poll() in (None, 0), process.stderr and process.stderr.read()
        rows = [last_row(path) for path in (tmp_path / "ray").glob(f"carry/*/{METRICS}")]
        return int((rows[0] or {}).get("update", 0)) if rows else 0

    until(lambda: updates() >= 8, "no update")
    two_nodes.kill_one()
    killed, before = time.monotonic(), updates()
    assert before < 200
    until(lambda: updates() >= before + 24, "it stands still")  # beyond what was there already
    assert time.monotonic() - killed < 60
    _, said = process.communicate(timeout=LIMIT_S)
    (manifest,) = (tmp_path / "ray").glob(f"carry/*/{MANIFEST}")
    assert status_of(manifest.parent) == "finished", said
    assert read_json(manifest)["final_weights_sha256"] == serial.sha256


def test_a_node_with_another_model_ends_the_run(run: Run, cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_actors, "digest", lambda path: "of another model")
    ended = run("staleness=4", "driver=ray")
    assert ended.outcome == "failed" and "other code, or another configuration" in ended.manifest["error"]


@pytest.mark.parametrize(
    ("typed", "inherited", "meant"),
    [
        (None, None, None),
        (None, "10.0.0.1:6379", "10.0.0.1:6379"),
        ("auto", "10.0.0.1:6379", "10.0.0.1:6379"),
        ("10.0.0.2:6379", "10.0.0.1:6379", "10.0.0.2:6379"),
        ("local", "10.0.0.1:6379", None),
    ],
)
def test_what_an_address_means(
    monkeypatch: pytest.MonkeyPatch, typed: str | None, inherited: str | None, meant: str | None
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", inherited or "")
    assert ray_cluster.address_of(RayConfig(address=typed)) == meant


def test_no_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1")
    with pytest.raises(UserError, match=r"RAY_ADDRESS=http://127.0.0.1: expected HOST:PORT"):
        ray_cluster.address_of(RayConfig())


def test_the_learners_gpus_are_counted(tmp_path: Path) -> None:
    given = {"driver": "ray", "device": "cuda", "ray": RayConfig(actors=6, gpus_per_actor=1)}
    found = [{"CPU": 8.0, "GPU": 4.0}, {"CPU": 8.0, "GPU": 4.0}]
    ray_room.check_room(Config(ranks=2, **given), found)
    with pytest.raises(UserError, match=r"room for 5 actors .* beside the learner"):
        ray_room.check_room(Config(ranks=3, **given), found)


def test_ranks_in_the_cluster_are_counted_where_there_is_room() -> None:
    def room(ranks: int, actors: int) -> None:
        rays = RayConfig(actors=actors, gpus_per_actor=1, ranks="cluster")
        found = [{"CPU": 8.0, "GPU": 4.0}, {"CPU": 8.0, "GPU": 4.0}]
        ray_room.check_room(Config(ranks=ranks, driver="ray", device="cuda", ray=rays), found)

    room(ranks=6, actors=2)
    with pytest.raises(UserError, match="room for 2 actors"):
        room(ranks=6, actors=3)
    with pytest.raises(UserError, match="no node has 1 CPUs and 1 GPUs left"):
        room(ranks=9, actors=1)
