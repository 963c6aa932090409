"""Writes made-up run folders by the run-folder contract: shapes and names are right, the numbers are invented."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

MASKS = {"grpo": 0.012, "m2po": 0.0006, "gspo": 0.2, "dppo": 0.004, "decoupled": 0.006, "bapo": 0.01}
CLIPS = {"tis": 0.006, "cispo": 0.008, "gppo": 0.012}
ROLES = {  # as the schema of the harness gives them
    "algo": "science",
    "task": "science",
    "lag": "science",
    "model.path": "science",
    "model.dtype": "science",
    "rollout.prompts_per_step": "science",
    "rollout.group_size": "science",
    "rollout.temperature": "science",
    "rollout.inflight": "science",
    "learner.lr": "science",
    "eval.every": "record",
    "record.tokens": "record",
    "tracking.uri": "record",
    "driver": "driver",
    "staleness": "science",
    "updates": "science",
    "updates_per_step": "science",
    "seed": "science",
    "repeat": "science",
    "runs_dir": "place",
}
FINAL = {"m2po": 0.02, "tis": 0.08, "cispo": 0.07, "grpo": 0.22, "gspo": 0.3, "no_trust_region": 0.3}
QUANTILES = ("q01", "q05", "q50", "q95", "q99")


def write_run(
    folder: Path,
    algorithm: str = "grpo",
    staleness: int = 0,
    seed: int = 1,
    *,
    updates: int = 80,
    eval_every: int = 10,
    status: str = "finished",
    task: str = "carry",
    splits: tuple[str, ...] = ("validation", "test"),
    tokens: bool = False,
    manifest: dict[str, Any] | None = None,
    **overrides: Any,
) -> Path:
    """One finished run; `overrides` are dotted config keys written with `__` (learner__lr=1e-4)."""
    folder.mkdir(parents=True, exist_ok=True)
    dotted = {key.replace("__", "."): value for key, value in overrides.items()}
    rng = np.random.default_rng(zlib.crc32(f"{algorithm} {staleness} {seed} {sorted(dotted.items())}".encode()))
    config = _config(algorithm, staleness, seed, updates, eval_every, task, dotted)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    held = {
        "status": status,
        "algorithm": algorithm,
        "task": task,
        "config_sha256": f"{zlib.crc32(json.dumps(config, sort_keys=True).encode()):064x}",
        "final_weights_sha256": f"{rng.integers(2**60):064x}",
        "versions": {"torch": "2.13.0", "python": "3.11.7"},
        "git": {"sha": "0123456789abcdef", "diff": ""},
        "threads": 1,
        "roles": ROLES,
        "seed": seed,
        "staleness": staleness,
        "started": "2026-01-01T00:00:00+00:00",
        "finished": "2026-01-01T00:01:00+00:00",
    }
    (folder / "manifest.json").write_text(json.dumps(held | (manifest or {})))
    _write_lines(folder / "metrics.jsonl", _metrics(algorithm, staleness, updates, rng))
    _write_lines(folder / "eval.jsonl", _evaluations(algorithm, staleness, updates, eval_every, splits, rng))
    if tokens:
        write_tokens(folder / "tokens.parquet", rng)
    return folder


def write_study(
    root: Path,
    algorithms: tuple[str, ...] = ("grpo", "gspo", "tis", "m2po", "no_trust_region"),
    staleness: tuple[int, ...] = (0, 16, 64, 256),
    seeds: tuple[int, ...] = (1, 2, 3),
    **options: Any,
) -> Path:
    """A sweep folder of algorithms × staleness × seeds."""
    cells = []
    for algorithm in algorithms:
        for lag in staleness:
            for seed in seeds:
                name = f"{algorithm}/s{lag}/seed{seed}"
                write_run(root / name, algorithm, lag, seed, **options)
                cells.append({"folder": name, "overrides": [f"algo={algorithm}"], "config_sha256": ""})
    sweep = {"name": root.name, "command": "python run.py sweep=staleness", "cells": cells}
    (root / "sweep.json").write_text(json.dumps(sweep))
    return root


def curve(folder: Path, values: list[float]) -> None:
    """Replaces the evaluations of a run by these accuracies, 4 updates apart; greedy is .9 minus sampled."""
    rows = [
        {"update": 4 * i, "split": split, "sampled_accuracy": value, "greedy_accuracy": 0.9 - value}
        for i, value in enumerate(values)
        for split in ("validation", "test")
    ]
    (folder / "eval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_tokens(path: Path, rng: np.random.Generator, rows: int = 4000) -> None:
    """Token rows in which high-entropy tokens have the larger ratios and are the masked ones."""
    entropy = rng.gamma(1.2, 0.35, rows)
    ratio = np.abs(rng.normal(0, 0.02 + 0.25 * np.minimum(entropy, 1.5), rows))
    words = np.array(["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", ";", "<b>&"])
    ids = rng.integers(0, len(words), rows)
    trust = rng.random(rows) < 0.5
    columns = {
        "update": rng.integers(800, 1200, rows),
        "row": rng.integers(0, 128, rows),
        "position": rng.integers(0, 30, rows),
        "token_id": ids,
        "text": words[ids],
        "abs_ratio_minus_1": ratio,
        "entropy": entropy,
        "kept": ~(trust & (ratio > 0.2)),
        "advantage_sign": rng.integers(-1, 2, rows),
        "trust_region": trust,
        "staleness": np.full(rows, 256),
    }
    pq.write_table(pa.table(columns), path)


def _config(
    algorithm: str, staleness: int, seed: int, updates: int, every: int, task: str, dotted: dict[str, Any]
) -> dict:
    config: dict[str, Any] = {
        "algo": {"_target_": f"algorithms.{algorithm}.X", "aggregation": "token_mean"},
        "task": {"_target_": f"harness.tasks.{task}.X", "terms": 6},
        "lag": {"_target_": "harness.lag.policy.ExactLag", "max_versions": 2},
        "model": {"path": "harness/assets/carry", "dtype": "float32"},
        "rollout": {
            "_target_": "harness.rollout.torch_engine.TorchEngine",
            "prompts_per_step": 64,
            "group_size": 8,
            "temperature": 1.0,
            "inflight": "drain",
        },
        "learner": {"lr": 3e-5},
        "eval": {"every": every},
        "record": {"tokens": None},
        "tracking": {"uri": "sqlite:///x.db"},
        "driver": "serial",
        "staleness": staleness,
        "updates": updates,
        "updates_per_step": 4,
        "seed": seed,
        "repeat": 0,
        "runs_dir": "runs",
        "choices": {"algo": algorithm, "task": task, "model": "carry", "lag": "exact", "rollout": "torch"},
    }
    if algorithm == "grpo":
        config["algo"] |= {"epsilon_low": 0.2, "epsilon_high": 0.2}
    if algorithm == "m2po":
        config["algo"] |= {"m2_threshold": 0.04, "variant": "paper"}
    for key, value in dotted.items():
        *groups, name = key.split(".")
        place = config
        for group in groups:
            place = place[group]
        place[name] = value
    return config


def accuracy(algorithm: str, staleness: int, share: np.ndarray) -> np.ndarray:
    """The noiseless accuracy of the made-up world at a share of the run's updates."""
    drift = np.log1p(staleness) / np.log(257)
    ceiling = 0.62 - FINAL.get(algorithm, 0.12) * drift
    curve = 0.16 + (ceiling - 0.16) * (1 - np.exp(-3 * share)) / (1 - np.exp(-3))
    if algorithm == "no_trust_region" and staleness >= 256:
        curve = np.where(share > 0.55, 0.03, curve)
    return curve


def _evaluations(
    algorithm: str,
    staleness: int,
    updates: int,
    every: int,
    splits: tuple[str, ...],
    rng: np.random.Generator,
) -> list[dict]:
    shift = rng.normal(0, 0.012)
    at = sorted({*range(0, updates + 1, every), updates})
    rows = []
    for update in at:
        for place, split in enumerate(splits):
            mean = accuracy(algorithm, staleness, np.array(update / max(updates, 1)))
            value = float(np.clip(mean + shift + rng.normal(0, 0.012) - 0.02 * place, 0.001, 0.999))
            rows.append(
                {
                    "update": update,
                    "split": split,
                    "n": 256,
                    "k": 4,
                    "sampled_accuracy": value,
                    "greedy_accuracy": min(1.0, value * 1.05),
                    "response_length": 18.0,
                    "truncated_fraction": 0.001,
                    "pass_at_k": {"1": value, "4": min(1.0, value * 1.6)},
                    "right": (rng.random((256, 4)) < value).sum(axis=1).tolist(),
                }
            )
    return rows


def _metrics(algorithm: str, staleness: int, updates: int, rng: np.random.Generator) -> list[dict]:
    step = np.arange(1, updates + 1)
    realised = np.minimum(4 * ((step - 1) // 4), staleness) + (step - 1) % 4
    drift = 0.03 + np.sqrt(realised / 256)
    noise = rng.lognormal(0, 0.25, updates)
    masked = MASKS.get(algorithm, 0.0) * drift * noise
    clipped = np.maximum(masked, CLIPS.get(algorithm, 0.0) * drift * noise)
    m2 = 0.09 * drift**2 * noise
    if algorithm == "m2po":
        masked[rng.random(updates) < 0.3] = 0.0
    columns: dict[str, Any] = {
        "update": step,
        "version": step,
        "reward": accuracy(algorithm, staleness, step / updates) + rng.normal(0, 0.02, updates),
        "surrogate": rng.normal(0, 0.01, updates),
        "staleness_min": realised,
        "staleness_mean": realised.astype(float),
        "staleness_max": realised,
        "masked_fraction": masked,
        "clip_fraction": clipped,
        "m2_before": m2,
        "m2_after": np.minimum(m2, 0.04) if algorithm == "m2po" else m2 * 0.8,
        "m2_valid": m2 * 0.7,
        "trust_region_fraction": 0.45 + rng.normal(0, 0.01, updates),
        "k1": 0.3 * m2,
        "k2": m2 / 2,
        "k3": m2 / 2,
        "ess": 1 / (1 + 4 * m2),
        "ess_weighted": 1 / (1 + 2 * m2),
        "entropy": 0.5 * np.exp(-step / updates) + rng.normal(0, 0.01, updates),
        "entropy_kept": 0.4 + rng.normal(0, 0.01, updates),
        "entropy_masked": 0.9 + rng.normal(0, 0.05, updates),
        "grad_norm": 0.5 * noise,
        "time/update_s": 0.09 + 0.001 * noise,
        "time/loss_s": (0.0038 if algorithm == "grpo" else 0.0065) * noise,
        "time/elapsed_s": 0.09 * step,
    }
    for sign, side in (("positive", 1), ("negative", -1)):
        for name, z in zip(QUANTILES, (-2.3, -1.6, 0, 1.6, 2.3), strict=True):
            columns[f"ratio_{sign}_{name}"] = np.exp(np.sqrt(m2) * z + 0.02 * side)
    columns["entropy_masked"] = [
        None if m == 0 else float(e) for m, e in zip(masked, columns["entropy_masked"], strict=True)
    ]
    rows = []
    for place in range(updates):
        rows.append({name: _plain(values[place]) for name, values in columns.items()})
    return rows


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _write_lines(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
