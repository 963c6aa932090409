"""Peak memory of saving and resuming a checkpoint, above the state itself.

    python -m benchmarks.checkpoint_memory [--millions 200]

A random Qwen3 of about so many million parameters, its AdamW after one step and a rollout queue of 64 batches of the
default, saved once and resumed once in a process that held nothing else. Reads /proc, so it needs Linux.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import re
import tempfile
from pathlib import Path

import torch

from benchmarks import targets
from benchmarks.checkpoints import batch_of
from benchmarks.workbench import random_model
from harness.groups import ModelConfig
from harness.models.loading import LoadedModel, load_model
from harness.records import flat
from harness.records.checkpoint import Checkpoints, RunState, newest_good

LAYERS = 15
BATCHES = 64
BOUND_MB = 100


def resident_mb(peak: bool = False) -> float:
    """Of this process, now or at its peak since `forget_peak`."""
    status = Path("/proc/self/status").read_text()
    (kilobytes,) = re.findall(rf"{'VmHWM' if peak else 'VmRSS'}:\s+(\d+)", status)
    return int(kilobytes) * 1024 / 1e6


def forget_peak() -> None:
    """Gives freed memory back, so that it hides nothing, and begins a new peak. Raises OSError where that is barred."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def trained(folder: str) -> tuple[dict[str, torch.Tensor], torch.optim.Optimizer, LoadedModel]:
    """A model's state dict and its optimizer after one step."""
    model = load_model(ModelConfig(path=folder), "cpu")
    optimizer = torch.optim.AdamW(model.module.parameters(), fused=True)
    for parameter in model.module.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return model.module.state_dict(), optimizer, model


def saving_mb(root: Path, model: LoadedModel, state: RunState) -> float:
    """What a save needs beside the state."""
    forget_peak()
    before = resident_mb()
    Checkpoints(root, model.describe).save(1, state, best=-1)
    return resident_mb(peak=True) - before


def resuming_mb(root: Path, model: LoadedModel) -> float:
    """What a resume needs beside the model and the state it restores."""
    optimizer = torch.optim.AdamW(model.module.parameters(), fused=True)
    forget_peak()
    before = resident_mb()
    found, complaints = newest_good(root, lambda _: None)
    assert found is not None and not complaints
    flat.restore_weights(model.module.state_dict(), found.weights())
    flat.restore_optimizer(optimizer, found.optimizer)
    restored = [*found.optimizer.values(), *flat.rollout_tensors(found.rollouts).values()]
    return resident_mb(peak=True) - before - sum(tensor.nbytes for tensor in restored) / 1e6


def measure(millions: float) -> dict[str, float]:
    """Megabytes: of the largest tensor, of weights and optimizer, and what saving and resuming need beside them."""
    width = round((millions * 1e6 / (13 * LAYERS)) ** 0.5 / 32) * 32  # a layer has about 13 · width² parameters
    with tempfile.TemporaryDirectory() as scratch:
        weights, optimizer, model = trained(random_model(Path(scratch) / "model", width, LAYERS))
        sizes = [tensor.nbytes for tensor in (*weights.values(), *flat.optimizer_tensors(optimizer).values())]
        rollouts = {index: batch_of(index) for index in range(BATCHES)}
        root = Path(scratch) / "checkpoints"
        root.mkdir()
        saving = saving_mb(root, model, RunState(weights, optimizer, rollouts, {}))
        del optimizer, rollouts
        resuming = resuming_mb(root, model)
    return {"largest": max(sizes) / 1e6, "state": sum(sizes) / 1e6, "saving": saving, "resuming": resuming}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--millions", type=float, default=200, help="parameters")
    parser.add_argument("--json", action="store_true", help="the numbers alone")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = measure(options.millions)
    if options.json:
        print(json.dumps(found))
        return
    bound = 2 * found["largest"] + BOUND_MB
    rows = [
        targets.row(f"{what} a checkpoint, peak above the state", [found[what]], f"≤ {bound:.0f}", "MB")
        for what in ("saving", "resuming")
    ]
    print(f"weights and optimizer {found['state']:,.0f} MB, largest tensor {found['largest']:.1f} MB\n")
    print(targets.table(rows))


if __name__ == "__main__":
    main()
