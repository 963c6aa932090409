"""Runs one cell: takes its folder, carries on where it stopped, and leaves a status whatever happens."""

from __future__ import annotations

import errno
import os
import time
import traceback
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from harness import interrupts
from harness.command.dependencies import changed_since, dependencies, listed
from harness.config import Config
from harness.errors import RunFailed, UserError, first_line, printable, without_secrets
from harness.interrupts import Interrupted, Paused
from harness.progress import VARIED, Progress
from harness.records.files import LockHeld, exclusive, read_json
from harness.records.folder import RunFolder
from harness.records.layout import ERROR, LOCK, MANIFEST
from harness.records.manifest import code_state, new_manifest, versions
from harness.records.secrets import as_written
from harness.records.state import status_of
from harness.records.token_parts import drop

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NOT_OURS = (errno.EROFS, errno.EIO, errno.ENOLCK, errno.ESTALE, errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE)
Outcome = str  # finished | skipped | failed | interrupted | paused | held | waiting


def run_cell(config: Config) -> Outcome:
    """Runs, resumes or skips the cell; never raises on account of the run itself."""
    path = config.folder
    progress = Progress(label_of(config))
    if interrupts.requested():
        return "waiting"
    before = _ended_before(config, path, progress)
    if before is not None:
        return before
    try:
        with exclusive(path / LOCK), interrupts.graceful():
            return _run_locked(config, path, progress)
    except LockHeld as owner:
        progress.warn(f"{path} is being run by {owner}")
        return "held"
    except OSError as error:  # before the folder could take a record of it
        progress.warn(f"failed: {_of_the_disk(error)} · {path}")
        return "failed"


def label_of(config: Config) -> str:
    """What tells the cell apart from others of its command: its label, and the keys that differ."""
    values = {**config.flat(), **config.choices}
    others = [key for key in os.environ.get(VARIED, "").split(",") if key in values]
    own = [f"{key.rpartition('.')[2]}={values[key]}" for key in others]
    return " ".join([config.label, *own])


def _ended_before(config: Config, path: Path, progress: Progress) -> Outcome | None:
    """What becomes of a cell that needs no run, or can have none; None if it is to be run."""
    status = status_of(path)
    if status == "finished":
        with suppress(OSError):  # a run that was killed right at its end had no time to
            drop(path)
        return "skipped"  # which the summary says
    if status == "damaged":
        progress.warn(f"failed: {path / MANIFEST} cannot be read, or is not what was written; move it away")
        return "failed"
    if status == "failed" and not config.retry_failed:
        progress.warn(f"failed before ({_error(path)}); run it again with retry_failed=true · {path}")
        return "failed"
    return None


def _run_locked(config: Config, path: Path, progress: Progress) -> Outcome:
    if status_of(path) == "finished":
        return "skipped"  # by another launcher, between our look and our lock
    with ExitStack() as closing:
        folder = RunFolder(path, config)
        closing.callback(folder.close)
        try:
            _open_manifest(config, folder, progress)
            _run(config, folder, progress, closing)
            return "finished"
        except Paused as pause:
            line = f"paused at {pause}; the same command with another stop_at, or none, carries on"
            return _end(folder, progress, "paused", line)
        except Interrupted as stop:
            return _end(folder, progress, "interrupted", f"stopped by {stop}; the same command carries on")
        except KeyboardInterrupt:
            line = "stopped at once; the same command carries on from the last checkpoint"
            return _end(folder, progress, "interrupted", line)
        except Exception as error:  # every failure of a run is recorded in its folder; other cells go on
            message = as_written(_failure(error, config, path), config)
            return _end_in_error(folder, progress, message)


def _run(config: Config, folder: RunFolder, progress: Progress, closing: ExitStack) -> None:
    """Trains or evaluates to the end. closing: what is closed once the end of the run is recorded."""
    # Imported late: a finished cell is skipped without loading torch and transformers.
    from harness import build
    from harness.evaluation import Evaluation
    from harness.training import Training

    if config.ranks > 1:
        progress.note("starting the ranks")
    ranks = build.ranks(config)
    closing.callback(ranks.close)
    run: Evaluation | Training
    with ranks.watched():
        if config.mode == "evaluate":
            run = Evaluation(config, folder, progress)
        else:
            run = Training(config, folder, progress, ranks)
        closing.callback(run.close)
        digest = run.run()
    folder.tokens.join()
    folder.update_manifest(status="finished", finished=time.time(), final_weights_sha256=digest, error=None)
    drop(folder.path)
    progress.say(f"finished · {run.outcome()}")


def _failure(error: Exception, config: Config, path: Path) -> str:
    """One line about what ended a run. What nobody foresaw leaves its traceback in error.txt."""
    message = printable(first_line(error))
    if isinstance(error, OSError) and error.errno in (*NO_SPACE, *NOT_OURS):
        return _of_the_disk(error)
    if isinstance(error, RunFailed | UserError):
        return message
    with suppress(OSError):  # the message itself is kept in the manifest
        (path / ERROR).write_text(as_written(without_secrets(traceback.format_exc()), config))
    return f"{type(error).__name__}: {message}"


def _of_the_disk(error: OSError) -> str:
    """One line about a file that could not be written or read through no fault of the run."""
    message = printable(first_line(error))
    if error.errno in NO_SPACE:
        return f"no room for the run's records ({message}); free space (df -h, df -i), run again with retry_failed=true"
    if error.errno == errno.ENOLCK:
        return f"the file system gives no locks ({message}); choose a runs_dir on one that does"
    return f"the disk or its rights refuse ({message}); mend that, run again with retry_failed=true"


def _end(folder: RunFolder, progress: Progress, status: Outcome, line: str, **more: str) -> Outcome:
    """Records and says how the run ended. Where a full disk keeps the record from being written, the run counts as
    interrupted, for nobody holds it, and as waiting if it never had a manifest."""
    manifest = folder.path / MANIFEST
    if manifest.is_file():
        try:
            folder.update_manifest(status=status, finished=time.time(), **more)
        except OSError as error:
            progress.warn(f"{manifest} could not be written ({error})")
    say = progress.say if status == "paused" else progress.warn
    say(f"{line} · {folder.path}")
    return status


def _end_in_error(folder: RunFolder, progress: Progress, message: str) -> Outcome:
    """Of a run that was asked to stop, too: an engine that is starting then may end in an error."""
    if stop := interrupts.requested():
        return _end(folder, progress, "interrupted", f"stopped by {stop} ({message}); the same command carries on")
    return _end(folder, progress, "failed", f"failed: {message}", error=message)


def _open_manifest(config: Config, folder: RunFolder, progress: Progress) -> None:
    path = folder.path / MANIFEST
    folder.write_config()
    git = folder.keep_diff(code_state())
    if not path.is_file():
        folder.update_manifest(**new_manifest(config, git), depends_on=dependencies(config))
        return
    before: dict[str, Any] = read_json(path)
    now: dict[str, Any] = {
        "git": git,
        "versions": versions(),
        "time": time.time(),
        "depends_on": dependencies(config),
    }
    changed = [*_commit([before, *before["resumed"]][-1], now), *changed_since(config, before)]
    if changed:
        progress.warn(f"{listed(changed)} changed since this run last started; both are recorded")
    folder.update_manifest(status="running", error=None, resumed=[*before["resumed"], now])


def _commit(last: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The commit, where it is another than when the run last started: "commit 0123abc → 4567def"."""
    old, new = last["git"]["sha"][:12], now["git"]["sha"][:12]
    return [f"commit {old} → {new}"] if old != new else []


def _error(path: Path) -> str:
    return str(read_json(path / MANIFEST).get("error"))
