"""reasoning-gym's data sets, which make problems and score answers."""

from __future__ import annotations

from typing import Any

from harness.errors import UserError, nearest

Options = tuple[tuple[str, Any], ...]

_datasets: dict[tuple[str, str], Any] = {}


def dataset(name: str, options: Options) -> Any:
    """A data set of reasoning-gym, made once a process.

    name: of the data set.
    options: its settings, as sorted (name, value) pairs.
    Returns the data set: entry i is a function of i alone.
    Raises UserError for an unknown name or a setting that it refuses.
    """
    key = name, repr(options)
    if key not in _datasets:
        _datasets[key] = _create(name, dict(options))
    return _datasets[key]


def _create(name: str, options: dict[str, Any]) -> Any:
    # Imported late: it takes a second, and only task=reasoning_gym needs it.
    import reasoning_gym
    from reasoning_gym.factory import DATASETS

    if name not in DATASETS:
        raise UserError(f"task.name={name}: no reasoning-gym task; {nearest(name, DATASETS)}")
    try:
        return reasoning_gym.create_dataset(name, seed=0, size=2**31 - 1, **options)
    except (ValueError, TypeError, AssertionError) as error:
        raise UserError(f"task.options={options}: refused by {name} ({error})") from error
