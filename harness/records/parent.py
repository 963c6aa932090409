"""`fork=RUN@UPDATE`: the checkpoint of another run that a run starts from. Loads no torch."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from harness.errors import UserError
from harness.records.files import read_json
from harness.records.layout import CHECKPOINT, CHECKPOINTS, CONFIG
from harness.records.limits import read_yaml


def place(text: str) -> tuple[Path, int]:
    """The run folder and the update that `fork` names. Raises UserError, naming the checkpoints there are."""
    name, _, update = text.rpartition("@")
    run = Path(name).expanduser()
    found = (path.parent.name for path in (run / CHECKPOINTS).glob(f"[0-9]*/{CHECKPOINT}")) if name else ()
    there = sorted(folder for folder in found if folder.isdecimal())
    if not name or not there:
        raise UserError(f"fork={text}: no checkpoints there; expected RUN_FOLDER@UPDATE")
    if not update.isdecimal() or f"{int(update):06d}" not in there:
        updates = ", ".join(str(int(folder)) for folder in there)
        raise UserError(f"fork={text}: no checkpoint of that update; there are {updates} (record.keep_checkpoints)")
    return run, int(update)


def folder(text: str) -> Path:
    """The checkpoint that `fork` names. Raises UserError."""
    run, update = place(text)
    return run / CHECKPOINTS / f"{update:06d}"


def recorded(text: str) -> dict[str, Any]:
    """The configuration of the run that `fork` names, nested, as its folder has it. Raises UserError."""
    run, _ = place(text)
    try:
        return dict(read_yaml(run / CONFIG))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"fork={text}: its {CONFIG} cannot be read ({type(error).__name__})") from error


def identity(text: str) -> str:
    """CONFIG_SHA256@UPDATE of the run that `fork` names: the same wherever it lies and however its path is typed.

    Raises UserError for a checkpoint that does not say which run's it is.
    """
    return f"{_checkpoint(text)['config_sha256']}@{place(text)[1]}"


def contents(text: str) -> str:
    """Hash of the weights, the optimizer and the rollouts in the checkpoint that `fork` names. Raises UserError."""
    files = _checkpoint(text)["files"]
    lines = (f"{name} {files[name]['sha256']}\n" for name in sorted(files) if name.endswith(".safetensors"))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _checkpoint(text: str) -> dict[str, Any]:
    try:
        found = read_json(folder(text) / CHECKPOINT)
        return {"config_sha256": str(found["config_sha256"]), "files": dict(found["files"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"fork={text}: its {CHECKPOINT} cannot be read ({type(error).__name__}); fork from another update"
        ) from error
