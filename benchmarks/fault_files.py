"""Faults at the n-th file call of a run: killed, torn, refused, or the power goes. Needs a C compiler.

`file_faults.c` is compiled when the campaign starts and loaded into its processes with LD_PRELOAD.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
import subprocess
from pathlib import Path

from benchmarks.fault_strike import Fault, Strike
from benchmarks.small_runs import fork, wait
from harness.command.cell import run_cell
from harness.config import Config
from harness.records.state import status_of

SOURCE = Path(__file__).with_name("file_faults.c")
COUNT, BEFORE, INSIDE, AFTER, ONCE, FROM_HERE, POWER = range(1, 8)  # as in the C file
KINDS = WRITE, OPEN, RENAME, UNLINK, MKDIR, FSYNC, TRUNCATE, FLOCK, READ = tuple(1 << bit for bit in range(9))
CHANGES = WRITE | OPEN | RENAME | UNLINK | MKDIR | FSYNC | TRUNCATE | FLOCK


def compiled(folder: Path) -> Path | None:
    """The library to preload, made in a folder; None without a C compiler, and a line says so."""
    if shutil.which("cc") is None:
        print("no C compiler (cc): faults at file calls are skipped", flush=True)
        return None
    library = folder / "file_faults.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, SOURCE, "-ldl"], check=True)
    return library


def is_loaded() -> bool:
    return hasattr(ctypes.CDLL(None), "fault_arm")


def arm(root: Path, mode: int, n: int, error: int = 0, kinds: int = CHANGES) -> None:
    """From now on the calls of this process on files below `root` count."""
    call = ctypes.CDLL(None).fault_arm
    call.argtypes = [ctypes.c_char_p, ctypes.c_int, ctypes.c_long, ctypes.c_int, ctypes.c_int]
    call(os.fsencode(root.resolve()), mode, n, error, kinds)


def count(config: Config, result: Path) -> dict[int, int]:
    """File calls of a whole run, by kind.

    config: of a run whose folder is not there.
    result: a file to hand the counts over, elsewhere.
    """

    def action() -> int:
        arm(Path(config.runs_dir), COUNT, 0, kinds=CHANGES | READ)
        run_cell(config)
        calls = ctypes.CDLL(None).fault_calls
        calls.restype = ctypes.c_long
        result.write_text(json.dumps({kind: calls(kind) for kind in KINDS}))
        return 0

    wait(fork(action))
    return {int(kind): calls for kind, calls in json.loads(result.read_text()).items()}


def _fault(mode: int, kinds: int = CHANGES, error: int = 0, calls: int | None = None) -> Fault:
    def fault(strike: Strike) -> bool:
        last = calls or sum(strike.calls[kind] for kind in KINDS if kind & kinds)
        # Every fourth in the last tenth, where token parts are joined and the end is recorded.
        n = strike.dice.randint(last - last // 10 if strike.turn % 4 == 3 else 1, last)
        wait(strike.start(lambda: arm(Path(strike.config.runs_dir), mode, n, error, kinds)))
        return status_of(strike.folder) != "finished"

    return fault


FILE_CALLS: dict[str, tuple[Fault, int]] = {
    "kill -9 before a file call": (_fault(BEFORE), 5),
    "kill -9 inside a write": (_fault(INSIDE, WRITE | FSYNC | RENAME), 5),
    "kill -9 after a file call": (_fault(AFTER), 5),
    "power loss": (_fault(POWER), 7),
    "EIO, once": (_fault(ONCE, CHANGES | READ, errno.EIO), 4),
    "EROFS, from a call on": (_fault(FROM_HERE, CHANGES & ~FLOCK, errno.EROFS), 3),
    "ENOLCK": (_fault(FROM_HERE, FLOCK, errno.ENOLCK, 1), 1),
    "inode table full": (_fault(FROM_HERE, OPEN | MKDIR, errno.ENOSPC), 2),
}
