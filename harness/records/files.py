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
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from harness.records import limits


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """An OSError of the block that names no file (of a write, a sync, a lock) names this one."""
    try:
        yield
    except OSError as error:
        if error.errno and error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Replaces a file in one step; a crash leaves the old one or the new one, never half of one.

    Returns the file beside it that the block fills; after the block it is synced and renamed.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with naming(path):
            yield partial
            sync(partial)
            partial.replace(path)
            sync(path.parent)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def remove_partials(folder: Path) -> None:
    """Removes what killed processes left in a folder beside files that they were replacing."""
    for left in folder.glob(".*.partial"):
        left.unlink(missing_ok=True)


def write_whole(path: Path, content: Iterable[bytes | memoryview]) -> dict[str, Any]:
    """Replaces a file in one step and returns its size and hash, as `write_hashed` does."""
    with replacing(path) as partial:
        return write_hashed(partial, content)


def write_json(path: Path, value: Any) -> None:
    """Replaces a JSON file in one step."""
    write_whole(path, [json.dumps(value, indent=2).encode() + b"\n"])


def read_json(path: Path) -> Any:
    """What a JSON file holds. Raises OSError, and ValueError for one too large, too deep or not JSON."""
    with naming(path):
        return limits.read_json(path)


def signed(value: dict[str, Any]) -> dict[str, Any]:
    """A JSON object with its own hash as its last key, `sha256`."""
    bare = {name: item for name, item in value.items() if name != "sha256"}
    return bare | {"sha256": _own_sha256(bare)}


def read_signed(path: Path) -> dict[str, Any]:
    """A JSON object that `signed` made, or one of an older release, which has no hash; without the hash.

    Raises OSError, and ValueError if it is none or has been changed since.
    """
    value = read_json(path)
    if not isinstance(value, dict):
        raise ValueError(f"{path.name} holds no JSON object")
    written = value.pop("sha256", None)
    if written not in (None, _own_sha256(value)):
        raise ValueError(f"{path.name} does not have the hash it was written with")
    return value


def _own_sha256(value: dict[str, Any]) -> str:
    plain = json.loads(json.dumps(value))  # as it is read again: keys are text
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def write_hashed(path: Path, pieces: Iterable[bytes | memoryview]) -> dict[str, Any]:
    """Writes a file piece by piece (memoryviews of bytes) and hashes what it writes.

    Returns {"bytes": size of the file, "sha256": its hash}.
    """
    size, digest = 0, hashlib.sha256()
    with naming(path), path.open("wb") as file:
        for piece in pieces:
            file.write(piece)
            digest.update(piece)
            size += len(piece)
    return {"bytes": size, "sha256": digest.hexdigest()}


def file_sha256(path: Path) -> str:
    """Hash of a file's bytes, read in blocks."""
    with naming(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Brings a file or a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with naming(path):
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

    Raises LockHeld, naming the owner written into the file, when it is still held after PASSING_S; OSError, naming the
    file, where the file system has no locks or cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        with naming(path):
            _wait_for(file)
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}")
            file.flush()
        yield file


def _wait_for(file: IO[str]) -> None:
    deadline = time.monotonic() + PASSING_S
    while not _taken(file, fcntl.LOCK_EX):
        if time.monotonic() > deadline:
            file.seek(0)
            raise LockHeld(file.read().strip() or "another process")
        time.sleep(PASSING_S / 50)


def lock_owner(path: Path) -> str:
    """Who holds a lock, or held it last, in words."""
    return path.read_text(errors="replace").strip() or "another process" if path.is_file() else "nobody"


def is_held(path: Path) -> bool:
    """Whether a live process holds the flock on a file; reading alone is enough to ask."""
    if not path.is_file():
        return False
    try:
        with path.open(errors="replace") as file:
            return not _taken(file, fcntl.LOCK_SH)
    except OSError:  # no locks here, so nobody can run the folder
        return False


def _taken(file: IO[str], kind: int) -> bool:
    """Whether the lock could be had at once; closing the file gives it back."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
