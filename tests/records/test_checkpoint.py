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
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.checkpoints import batch_of
from harness.config import ModelConfig
from harness.errors import RunFailed
from harness.models.loading import LoadedModel, load_model
from harness.records import checkpoint
from harness.records.checkpoint import MANIFEST, Checkpoints, defect, newest_good
from harness.records.files import read_json

ROOT = Path(__file__).resolve().parents[2]
FILES = ("model.safetensors", "optimizer.safetensors", "rollouts.safetensors", "config.json", MANIFEST)


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return load_model(ModelConfig("harness/assets/carry"), "cpu")


def save(root: Path, model: LoadedModel, update: int, **more: Any) -> Path:
    root.mkdir(exist_ok=True)
    optimizer = {"0.exp_avg": torch.full((3,), float(update))}
    return Checkpoints(root, model).save(
        update, optimizer, {7: batch_of(7), 8: batch_of(8)}, {"version": update, "records": {}}, keep_also=set(), **more
    )


def anything(_counters: dict[str, Any]) -> None:
    return None


def test_what_goes_in_comes_out(tmp_path: Path, model: LoadedModel) -> None:
    folder = save(tmp_path, model, 8)
    found, complaints = newest_good(tmp_path, anything)
    assert found is not None and not complaints and found.folder == folder
    assert found.counters["version"] == 8
    assert sorted(found.line) == [7, 8]
    for index, rollouts in found.line.items():
        for name, tensor in batch_of(index).tensors().items():
            back = rollouts.tensors()[name]
            assert back.dtype == tensor.dtype and torch.equal(back, tensor), name
    fresh = load_model(ModelConfig("harness/assets/carry"), "cpu")
    with torch.no_grad():
        for parameter in fresh.module.parameters():
            parameter.zero_()
    checkpoint.restore_weights(fresh, found.weights)
    for name, tensor in model.module.state_dict().items():
        assert torch.equal(fresh.module.state_dict()[name], tensor), name


def test_a_checkpoint_is_an_ordinary_model_folder(tmp_path: Path, model: LoadedModel) -> None:
    folder = save(tmp_path, model, 8)
    again = AutoModelForCausalLM.from_pretrained(folder)
    AutoTokenizer.from_pretrained(folder)
    index = read_json(folder / "model.safetensors.index.json")
    assert set(index["weight_map"]) == set(checkpoint.load(folder).weights)
    for name, tensor in model.module.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_weights_of_another_model_are_refused(model: LoadedModel) -> None:
    with pytest.raises(RunFailed, match="not this model's"):
        checkpoint.restore_weights(load_model(ModelConfig("harness/assets/carry"), "cpu"), {})


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
    if name == MANIFEST and how == "flip" and defect(newest) is None:
        pytest.skip("the flipped bit lies in white space")
    found, complaints = newest_good(tmp_path, anything)
    assert found is not None and found.folder == before
    assert len(complaints) == 1 and str(newest) in complaints[0]


def test_older_ones_go_only_when_the_new_one_is_there(tmp_path: Path, model: LoadedModel) -> None:
    writer = Checkpoints(tmp_path, model)
    (tmp_path / ".000004.partial").mkdir()  # left by a killed save
    for update in (8, 16, 24, 32):
        writer.save(update, {}, {}, {"version": update}, keep_also={8})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["000008", "000024", "000032"]


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
