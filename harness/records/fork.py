"""`fork=RUN@UPDATE`: a run that starts from another run's checkpoint."""

from __future__ import annotations

from typing import Any

from harness.config import Config, role_of
from harness.errors import UserError, printable
from harness.records import secrets
from harness.records.checkpoint import Checkpoint, defect, read_checkpoint
from harness.records.parent import folder, place, recorded

QUEUE_DEPENDS_ON = ("task", "model", "rollout", "lag", "staleness", "updates_per_step", "seed")


def start(config: Config) -> int:
    """The update that a run starts from: its fork's, else 0."""
    return place(config.fork)[1] if config.fork else 0


def check(config: Config) -> None:
    """Raises UserError for a fork that is not there, damaged, or later than the run ends."""
    if not config.fork:
        return
    run, update = place(config.fork)
    if config.mode == "evaluate":
        raise UserError(
            f"fork={config.fork}: mode=evaluate trains nothing; type checkpoint={run} checkpoint_at={update}"
        )
    if config.choices["lag"] == "replay":
        raise UserError(f"fork={config.fork} with lag=replay: a schedule is of a whole run; use lag=exact or bounded")
    if update % config.updates_per_step or update >= config.updates:
        raise UserError(
            f"fork={config.fork}: expected an update before updates={config.updates} that is a multiple of "
            f"updates_per_step={config.updates_per_step}"
        )
    problem = defect(folder(config.fork))
    if problem:
        raise UserError(printable(f"fork={config.fork}: {problem}; fork from another update"))


def read(config: Config) -> Checkpoint:
    """The checkpoint that the run starts from; the optimizer's tensors are left in their files for several ranks."""
    return read_checkpoint(folder(str(config.fork)), None if config.ranks > 1 else config.device)


def keeps_queue(config: Config, ahead: int) -> bool:
    """Whether what waited to be trained on is what this run would have sampled.

    ahead: batches that must have been sampled before the one that is trained on next.
    Nothing about rollouts has changed, and nothing is missing: a run samples no batch that it does not train on itself,
    so near its end its queue is too short for a fork that goes on beyond it.
    """
    before, now = recorded(str(config.fork)), secrets.recorded(config)
    length = config.updates if before.get("updates") == now["updates"] else before.get("updates")
    needed = min(start(config) // config.updates_per_step + ahead, config.batches)
    is_whole = type(length) is int and length >= needed * config.updates_per_step
    return is_whole and _of_rollouts(before) == _of_rollouts(now)


def _of_rollouts(tree: dict[str, Any]) -> dict[str, Any]:
    """What the rollouts of a run depend on, of its nested configuration."""
    return {name: _science(name, tree.get(name)) for name in QUEUE_DEPENDS_ON}


def _science(name: str, value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {key: own for key, own in value.items() if role_of(f"{name}.{key}") != "place"}
