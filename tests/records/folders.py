"""Run folders made by hand: what a mirror or a status table reads, without a training run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml


def make_run(
    runs: Path,
    name: str,
    status: str = "finished",
    updates: int = 25,
    config: dict[str, Any] | None = None,
    **manifest: Any,
) -> Path:
    """A run folder with `updates` rows and an evaluation at the start and the end. config: more keys of config.yaml."""
    folder = runs / "carry" / name
    folder.mkdir(parents=True)
    config = {"algo": {"_target_": "algorithms.m2po.M2PO"}, "seed": 1, "updates": updates, "long": "x" * 7000} | (
        config or {}
    )
    config["tracking"] = {"backend": "mlflow", "uri": "", "experiment": "lagrange", "every": 10}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    facts = {
        "status": status,
        "algorithm": "m2po",
        "task": "carry",
        "staleness": 4,
        "seed": 1,
        "updates": updates,
        "config_sha256": f"sha-{name}",
        "final_weights_sha256": "f" * 64 if status == "finished" else None,
        "git": {"sha": "abc", "diff": ""},
        "versions": {},
        "started": 1_700_000_000.0,
        "finished": 1_700_000_100.0,
        "error": None,
        "resumed": [],
    }
    (folder / "manifest.json").write_text(json.dumps(facts | manifest))
    add_rows(folder, 1, updates)
    add_evaluation(folder, 0)
    add_evaluation(folder, updates)
    (folder / "samples.jsonl").write_text('{"prompt": "<script>alert(1)</script>"}\n')
    return folder


def add_rows(folder: Path, first: int, last: int) -> None:
    with (folder / "metrics.jsonl").open("a") as file:
        for update in range(first, last + 1):
            row = {
                "update": update,
                "reward": update / 100,
                "m2_before": None,
                "masked_fraction": 0.1,
                "time/elapsed_s": 0.1 * update,
            }
            file.write(json.dumps(row) + "\n")


def add_evaluation(folder: Path, update: int, accuracy: float = 0.5) -> None:
    with (folder / "eval.jsonl").open("a") as file:
        for split in ("validation", "test"):
            row = {"update": update, "split": split, "n": 8, "sampled_accuracy": accuracy, "pass_at_k": {"1": 0.5}}
            file.write(json.dumps(row) + "\n")


def make_sweep(runs: Path, name: str, cells: list[Path], given: list[list[str]] | None = None) -> Path:
    """A sweep's folder. given: the overrides of each cell."""
    folder = runs / "sweeps" / name
    folder.mkdir(parents=True)
    described = [
        {"folder": f"../../carry/{cell.name}", "overrides": overrides, "config_sha256": ""}
        for cell, overrides in zip(cells, given or [[]] * len(cells), strict=True)
    ]
    (folder / "sweep.json").write_text(json.dumps({"name": name, "command": ["-m"], "cells": described, "time": 1.7e9}))
    (folder / "figure.png").write_bytes(b"\x89PNG")
    return folder
