"""Keys of earlier releases and what became of them: the one table through which old run folders and packs load.

A key that is renamed gets a line here. `ROLES` is frozen: it serves runs whose manifest does not say the role of
each key (release 0.1.0), and no later release adds to it.
"""

from __future__ import annotations

from typing import Any

RENAMED = {  # flat keys of config.yaml: 0.1.0 → 0.2
    "core": "driver",
    "lag": "choices.lag",  # a word then, a group now
    "on_excess": "lag.on_excess",
    "schedule": "lag.schedule",
    "max_versions": "lag.max_versions",
    "rollout.engine": "choices.rollout",
    "rollout.shards": "rollout.chunks",
    "rollout.vllm.probe_tolerance": "rollout.probe_tolerance",
    "ray.shard_timeout_s": "ray.chunk_timeout_s",
}
MOVED = {  # folders of the repository that values name
    "harness/models/": "harness/assets/",
    "harness/tasks/gsm8k_small/": "harness/assets/word_problems/",
}
COLUMNS = {"core": "driver"}  # of the run table in a pack

# What each key of 0.1.0 is for, by key or by group, as today's schema says of the same keys; the others are science.
ROLES = {
    "driver": "driver",
    "ray": "driver",
    "torch_threads": "driver",
    "device": "driver",
    "model.gradient_checkpointing": "driver",
    "rollout.vllm": "driver",
    "rollout.probe_tolerance": "driver",
    "eval": "record",
    "record": "record",
    "checkpoint_every": "record",
    "tracking": "place",
    "model.parameters": "place",
    "dry_run": "place",
    "retry_failed": "place",
    "allow_code": "place",
    "runs_dir": "place",
}


def current(config: dict[str, Any]) -> dict[str, Any]:
    """A flat configuration of any release under today's keys.

    config: dotted key → value, as config.yaml has them.
    Returns a new mapping; a key that is there under today's name already keeps its value.
    """
    named = {key: value for key, value in config.items() if key not in RENAMED}
    for old, new in RENAMED.items():
        if old in config:
            named.setdefault(new, config[old])
    return {key: _moved(value) for key, value in named.items()}


def role(key: str, roles: dict[str, str]) -> str:
    """What a key is for.

    key: dotted key of a configuration.
    roles: role of each key, or of a group of them ("tracking" for "tracking.uri").
    Returns "science" | "driver" | "record" | "place"; an unknown key may change the science and counts as such.
    """
    parts = key.split(".")
    groups = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next((roles[group] for group in groups if group in roles), "science")


def _moved(value: Any) -> Any:
    for old, new in MOVED.items():
        if isinstance(value, str) and value.startswith(old):
            return new + value.removeprefix(old)
    return value
