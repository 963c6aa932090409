"""Checkpoints: what goes in comes out, and what was damaged is named and passed over."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.checkpoints import batch_of
from harness.errors import RunFailed
from harness.groups import ModelConfig
from harness.models.loading import LoadedModel, load_model
from harness.records import flat
from harness.records.checkpoint import Checkpoints, RunState, defect, newest_good
from harness.records.files import read_json
from harness.records.layout import CHECKPOINT

ROOT = Path(__file__).resolve().parents[2]
FILES = ("model.safetensors", "optimizer.safetensors", "rollouts.safetensors", "config.json", CHECKPOINT)


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return load_model(ModelConfig("harness/assets/carry"), "cpu")


def state_of(model: LoadedModel, update: int) -> RunState:
    """A run's state at an update: the model as it is, an optimizer that made one step, two batches in the queue."""
    parameter = torch.nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.AdamW([parameter], fused=True)
    parameter.grad = torch.full((3,), float(update))
    optimizer.step()
    rollouts = {7: batch_of(7), 8: batch_of(8)}
    return RunState(model.module.state_dict(), optimizer, rollouts, {"version": update, "records": {}})


def save(root: Path, model: LoadedModel, update: int) -> Path:
    root.mkdir(exist_ok=True)
    return Checkpoints(root, model.describe).save(update, state_of(model, update), best=-1)


def anything(_counters: dict[str, Any]) -> None:
    return None


def test_what_goes_in_comes_out(tmp_path: Path, model: LoadedModel) -> None:
    folder = save(tmp_path, model, 8)
    found, complaints = newest_good(tmp_path, anything)
    assert found is not None and not complaints and found.folder == folder
    assert found.counters["version"] == 8
    assert sorted(found.rollouts) == [7, 8]
    for index, rollouts in found.rollouts.items():
        for name, tensor in batch_of(index).tensors().items():
            back = rollouts.tensors()[name]
            assert back.dtype == tensor.dtype and torch.equal(back, tensor), name
    fresh = load_model(ModelConfig("harness/assets/carry"), "cpu")
    with torch.no_grad():
        for parameter in fresh.module.parameters():
            parameter.zero_()
    flat.restore_weights(fresh.module.state_dict(), found.weights())
    for name, tensor in model.module.state_dict().items():
        assert torch.equal(fresh.module.state_dict()[name], tensor), name
    optimizer = state_of(model, 1).optimizer
    flat.restore_optimizer(optimizer, found.optimizer)
    expected = flat.optimizer_tensors(state_of(model, 8).optimizer)
    for name, tensor in flat.optimizer_tensors(optimizer).items():
        assert torch.equal(tensor, expected.pop(name)), name
    assert not expected


def test_a_checkpoint_is_an_ordinary_model_folder(tmp_path: Path, model: LoadedModel) -> None:
    folder = save(tmp_path, model, 8)
    again = AutoModelForCausalLM.from_pretrained(folder)
    AutoTokenizer.from_pretrained(folder)
    index = read_json(folder / "model.safetensors.index.json")
    assert set(index["weight_map"]) == set(load_file(folder / "model.safetensors"))
    for name, tensor in model.module.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_weights_of_another_model_are_refused(model: LoadedModel) -> None:
    weights = model.module.state_dict()
    name, tensor = next(iter(weights.items()))
    for stored in ([], [("another", tensor)], [(name, tensor[:1])]):
        with pytest.raises(RunFailed, match="not this model's"):
            flat.restore_weights({name: tensor.clone() for name, tensor in weights.items()}, stored)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", ["cut", "flip", "empty", "remove"])
def test_damage_is_named_and_the_one_before_is_used(tmp_path: Path, model: LoadedModel, name: str, how: str) -> None:
    before, newest = save(tmp_path, model, 8), save(tmp_path, model, 16)
    path = newest / name
    content = bytearray(path.read_bytes())
    if how == "remove":
        path.unlink()
    else:
        content[len(content) // 2] ^= 4 if how == "flip" else 0
        path.write_bytes({"cut": content[:-3], "flip": content, "empty": b""}[how])
    if name == CHECKPOINT and how == "flip" and defect(newest) is None:
        pytest.skip("the flipped bit lies in white space")
    found, complaints = newest_good(tmp_path, anything)
    assert found is not None and found.folder == before
    assert len(complaints) == 1 and str(newest) in complaints[0]


def test_older_ones_go_only_when_the_new_one_is_there(tmp_path: Path, model: LoadedModel) -> None:
    writer = Checkpoints(tmp_path, model.describe)
    (tmp_path / ".000004.partial").mkdir()  # left by a killed save
    for update in (8, 16, 24, 32):
        writer.save(update, state_of(model, update), best=8)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["000008", "000024", "000032"]


def test_damaged_newer_ones_are_removed_before_good_ones_go(tmp_path: Path, model: LoadedModel) -> None:
    keeping = Checkpoints(tmp_path, model.describe, "all")
    for update in (8, 16, 24):
        keeping.save(update, state_of(model, update), best=-1)
    for damaged in ("000016", "000024"):
        (tmp_path / damaged / "model.safetensors").write_bytes(b"")
    found, complaints = newest_good(tmp_path, anything)
    assert found is not None and found.counters["version"] == 8 and len(complaints) == 2
    writer = Checkpoints(tmp_path, model.describe)
    writer.settle(8)
    assert [p.name for p in tmp_path.iterdir()] == ["000008"]
    writer.save(12, state_of(model, 12), best=-1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["000008", "000012"]


@pytest.mark.parametrize(("keep", "kept"), [(1, [8, 40]), (3, [8, 24, 32, 40]), ("all", [8, 16, 24, 32, 40]),
                                            ([16], [8, 16, 32, 40])])  # fmt: skip
def test_keep_checkpoints_says_which_stay_beside_the_best(
    tmp_path: Path, model: LoadedModel, keep: Any, kept: list[int]
) -> None:
    writer = Checkpoints(tmp_path, model.describe, keep)
    for update in (8, 16, 24, 32, 40):
        writer.save(update, state_of(model, update), best=8)
    assert sorted(int(p.name) for p in tmp_path.iterdir()) == kept


def test_a_full_disk_leaves_the_last_good_one(tmp_path: Path, model: LoadedModel) -> None:
    good = save(tmp_path, model, 8)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(RunFailed, match="the one before is intact: free space"):
            save(tmp_path, model, 16)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    found, complaints = newest_good(tmp_path, anything)
    assert found is not None and found.folder == good and not complaints
    assert [p.name for p in tmp_path.iterdir()] == ["000008"]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small tmpfs needs root")
def test_a_full_tmpfs_ends_a_run_with_a_clear_error(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)], check=False).returncode:
        pytest.skip("no right to mount here")
    try:
        command = [sys.executable, str(ROOT / "run.py"), "tracking=none", f"runs_dir={disk}", "staleness=64"]
        sizes = [
            "updates=24",
            "checkpoint_every=8",
            "eval.every=24",
            "task.validation_problems=8",
            "task.test_problems=8",
        ]
        done = subprocess.run([*command, *sizes], capture_output=True, text=True, timeout=200, check=False)
        assert done.returncode == 1
        assert "free space" in done.stderr and "Traceback" not in done.stderr
    finally:
        subprocess.run(["umount", str(disk)], check=True)
