"""Files that are whole or absent: written beside, synced, renamed. And the lock that says who runs a folder."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


def write_json(path: Path, value: Any) -> None:
    """Replaces a file in one step; a crash leaves the old one or the new one, never half of one."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("w") as file:
            json.dump(value, file, indent=2)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def read_json(path: Path) -> Any:
    """What a JSON file holds. Raises OSError and ValueError."""
    return json.loads(path.read_text())


def write_hashed(path: Path, pieces: Iterable[bytes | memoryview]) -> dict[str, Any]:
    """Writes a file piece by piece (memoryviews of bytes) and hashes what it writes.

    Returns {"bytes": size of the file, "sha256": its hash}.
    """
    size, digest = 0, hashlib.sha256()
    with path.open("wb") as file:
        for piece in pieces:
            file.write(piece)
            digest.update(piece)
            size += len(piece)
    return {"bytes": size, "sha256": digest.hexdigest()}


def file_sha256(path: Path) -> str:
    """Hash of a file's bytes, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Brings a file or a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_all(paths: Sequence[Path]) -> None:
    """Brings several files to the disk; the syncs wait together, not one after the other."""
    with ThreadPoolExecutor(len(paths)) as pool:
        list(pool.map(sync, paths))


# An owner holds its lock for minutes. A reader that asks `is_held`, and a child that its killed parent had forked
# but that has not reached its exec yet, hold it for an instant; neither must pass for an owner.
PASSING_S = 1.0


class LockHeld(RuntimeError):
    """Somebody else runs this folder; the message says who."""


@contextmanager
def exclusive(path: Path) -> Iterator[IO[str]]:
    """Holds a flock on a file while the block runs; the kernel lets go of it when the process dies.

    Raises LockHeld, naming the owner written into the file, when it is still held after PASSING_S.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        deadline = time.monotonic() + PASSING_S
        while not _taken(file, fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                file.seek(0)
                raise LockHeld(file.read().strip() or "another process")
            time.sleep(PASSING_S / 50)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}")
        file.flush()
        yield file


def lock_owner(path: Path) -> str:
    """Who holds a lock, or held it last, in words."""
    return path.read_text().strip() or "another process" if path.is_file() else "nobody"


def is_held(path: Path) -> bool:
    """Whether a live process holds the flock on a file."""
    if not path.exists():
        return False
    with path.open() as file:  # for reading: another user's folder, or a tree that is mounted so
        return not _taken(file, fcntl.LOCK_SH)


def _taken(file: IO[str], kind: int) -> bool:
    """Whether the lock could be had at once; closing the file gives it back."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
