"""Runs one cell: takes its folder, carries on where it stopped, and leaves a status whatever happens."""

from __future__ import annotations

import errno
import time
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

from harness import interrupts
from harness.config import Config
from harness.errors import RunFailed, UserError, printable
from harness.interrupts import Interrupted, Paused
from harness.progress import Progress
from harness.records.files import LockHeld, exclusive, read_json
from harness.records.folder import RunFolder
from harness.records.layout import LOCK, MANIFEST
from harness.records.manifest import code_state, new_manifest, versions
from harness.records.state import status_of

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
Outcome = str  # finished | skipped | failed | interrupted | paused | held | waiting


def run_cell(config: Config) -> Outcome:
    """Runs, resumes or skips the cell; never raises on account of the run itself."""
    path = config.folder
    label = f"{config.choices['algo']} s={config.staleness} seed={config.seed}"
    progress = Progress(label, config.updates)
    if interrupts.requested():
        return "waiting"
    status = status_of(path)
    if status == "finished":
        progress.close(f"finished before · {path}")
        return "skipped"
    if status == "failed" and not config.retry_failed:
        progress.warn(f"failed before ({_error(path)}); run it again with retry_failed=true · {path}")
        return "failed"
    try:
        with exclusive(path / LOCK), interrupts.graceful():
            return _run_locked(config, path, progress)
    except LockHeld as owner:
        progress.warn(f"{path} is being run by {owner}")
        return "held"


def _run_locked(config: Config, path: Path, progress: Progress) -> Outcome:
    # Imported late: a finished cell is skipped without loading torch and transformers.
    from harness.evaluation import Evaluation
    from harness.training import Training

    if status_of(path) == "finished":
        return "skipped"  # by another launcher, between our look and our lock
    training: Training | Evaluation | None = None
    folder = RunFolder(path, config)
    try:
        _open_manifest(config, folder, progress)
        training = (Evaluation if config.mode == "evaluate" else Training)(config, folder, progress)
        digest = training.run()
        folder.join_tokens()
        folder.update_manifest(status="finished", finished=time.time(), final_weights_sha256=digest, error=None)
        progress.close(f"finished · {training.outcome()} · {path}")
        return "finished"
    except Paused as pause:
        _end(folder, progress, status="paused")
        progress.close(f"paused at {pause}; the same command with another stop_at, or none, carries on · {path}")
        return "paused"
    except Interrupted as stop:
        _end(folder, progress, status="interrupted")
        progress.warn(f"stopped by {stop}; the same command carries on · {path}")
        return "interrupted"
    except KeyboardInterrupt:
        _end(folder, progress, status="interrupted")
        progress.warn(f"stopped at once; the same command carries on from the last checkpoint · {path}")
        return "interrupted"
    except Exception as error:  # every failure of a run is recorded in its folder; other cells go on
        message = printable(str(error)).splitlines()[0] if str(error) else type(error).__name__
        if isinstance(error, OSError) and error.errno in NO_SPACE:
            message = f"no room for the run's records ({message}); free space, run again with retry_failed=true"
        elif not isinstance(error, RunFailed | UserError):
            message = f"{type(error).__name__}: {message}"
            with suppress(OSError):  # the message itself is kept in the manifest
                (path / "error.txt").write_text(traceback.format_exc())
        _end(folder, progress, status="failed", error=message)
        progress.warn(f"failed: {message} · {path}")
        return "failed"
    finally:
        if training is not None:
            training.close()
        folder.close()


def _end(folder: RunFolder, progress: Progress, **status: str) -> None:
    """Records how the run ended. On a full disk that may fail too: without a holder it then counts as interrupted,
    and as waiting if it never had a manifest."""
    if not (folder.path / MANIFEST).is_file():
        return
    try:
        folder.update_manifest(finished=time.time(), **status)
    except OSError as error:
        progress.warn(f"{folder.path / MANIFEST} could not be written ({error})")


def _open_manifest(config: Config, folder: RunFolder, progress: Progress) -> None:
    path = folder.path / MANIFEST
    if not path.is_file():
        folder.write_config()
        folder.update_manifest(**new_manifest(config))
        return
    before: dict[str, Any] = read_json(path)
    now: dict[str, Any] = {"git": code_state(), "versions": versions(), "time": time.time()}
    last = before["resumed"][-1] if before["resumed"] else before
    changed = [
        f"{what} {old[:12]} → {new[:12]}"
        for what, old, new in (
            ("commit", last["git"]["sha"], now["git"]["sha"]),
            ("torch", last["versions"].get("torch", "?"), now["versions"].get("torch", "?")),
        )
        if old != new
    ]
    if changed:
        progress.warn(f"resumed under another {' and '.join(changed)}; both are recorded")
    folder.update_manifest(status="running", error=None, resumed=[*before["resumed"], now])


def _error(path: Path) -> str:
    return str(read_json(path / MANIFEST).get("error"))
