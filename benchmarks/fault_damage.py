"""Damage to each file of a run folder, interrupted or finished, followed by every command that reads it."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import analysis.compare  # so that no fork imports them
import analysis.figures
import analysis.leaderboard
import analysis.pack
import analysis.report
import analysis.runs
import analysis.tables  # noqa: F401
from analysis.__main__ import main as analysis_command
from benchmarks.fault_strike import Fault, Strike
from benchmarks.small_runs import fork, run_py, wait
from harness.command import status
from harness.records.layout import CHECKPOINTS, LOCK

# What takes a reader longest, or ends it: Infinity where an integer is expected, depth, aliases that multiply.
ALIASES = "\n".join(["a0: &a0 [x, x]", *(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 40))])
RUBBISH = {
    ".json": [b'{"status": Infinity}', b"[" * 200_000, b'{"\xff": 1}', b"null"],
    ".jsonl": [
        b'{"update": Infinity, "split": 7}\n',
        b'{"update": ' + b"[" * 200_000 + b"\n",
        b'{"update": 1, "\xff\xfe": 2}\n',
        b'{"update": {"a": {"b": ' * 500 + b"\n",
        b'{"update": 1e999, "split": "\x1b[31m"}\n',
    ],
    ".yaml": [ALIASES.encode(), b"{" * 20_000, b"a: \xff\n", b"- 1\n"],
}
HOWS = ("cut", "flip", "empty", "remove", "append", "rubbish")


def damage(path: Path, how: str, dice: random.Random) -> None:
    """Damages a file.

    how: cut (short), flip (a bit), empty, remove, append (rubbish bytes), rubbish (of the file's kind, in its place).
    """
    content = bytearray(path.read_bytes())
    if how == "remove":
        path.unlink()
    elif how == "rubbish":
        path.write_bytes(dice.choice(RUBBISH.get(path.suffix, [dice.randbytes(300)])))
    elif how == "append":
        path.write_bytes(bytes(content) + dice.randbytes(dice.randint(1, 200)))
    elif how == "empty" or not content:
        path.write_bytes(b"")
    elif how == "cut":
        path.write_bytes(content[: dice.randrange(len(content))])
    else:
        content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
        path.write_bytes(content)


def damage_any(folder: Path, strike: Strike) -> str:
    """Damages one file of a run folder, each in turn, and says which and how."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != LOCK)
    path = files[strike.turn % len(files)]
    how = strike.dice.choice(HOWS)
    damage(path, how, strike.dice)
    return f"{path.relative_to(folder)} {how}"


def interrupted(strike: Strike) -> bool:
    """A run that was killed after a checkpoint or two; that it carries on is seen afterwards."""
    expected = strike.dice.choice((1, 2))
    if not strike.kill(lambda: len(strike.checkpoints()) >= expected):
        return False
    what = damage_any(strike.folder, strike)
    strike.notes += [f"{what}: {note}" for note in _commands(strike, strike.folder, strike.line)]
    return True


def finished(strike: Strike) -> bool:
    """A copy of the finished run, damaged; the same command comes first."""
    runs = Path(strike.config.runs_dir).with_suffix(".finished")
    folder = runs / strike.reference.relative_to(strike.reference.parents[1])
    shutil.copytree(strike.reference, folder)
    what = damage_any(folder, strike)
    line = [word for word in strike.line if not word.startswith("runs_dir=")] + [f"runs_dir={runs}"]
    _expect(strike, what, "run.py", run_py(line, log=_log(strike)), {0, 1, 2})
    strike.notes += [f"{what}: {note}" for note in _commands(strike, folder, line)]
    shutil.rmtree(runs)
    return True


def _commands(strike: Strike, folder: Path, line: Sequence[str]) -> list[str]:
    """Every command that reads run folders, and what was wrong with its end."""
    notes: list[str] = []
    scratch = Path(strike.config.runs_dir).with_suffix(".out")
    good, damaged = str(strike.reference), str(folder)

    def check(name: str, child: int, codes: set[int]) -> None:
        before = len(strike.notes)
        _expect(strike, "", name, child, codes)
        notes.extend(strike.notes[before:])
        del strike.notes[before:]

    def analyse(*arguments: str) -> int:
        return fork(lambda: analysis_command([*arguments]), _log(strike))

    check("status", fork(lambda: status.main([damaged]), _log(strike)), {0, 1})
    # Beside a good run the damaged one must not matter; alone it may leave nothing to show.
    check("table", analyse("table", good, damaged, "--incomplete"), {0})
    check("pack", analyse("pack", good, damaged, "--incomplete", "--out", str(scratch / "a.parquet")), {0})
    rotating: tuple[Callable[[], int], ...] = (
        lambda: analyse("leaderboard", good, damaged, "--incomplete"),
        lambda: analyse("figures", good, damaged, "--only", "f4b,accuracy_vs_updates", "--out", str(scratch)),
        lambda: analyse("table", good, damaged, "--out", str(scratch)),
        lambda: analyse("report", good, damaged, "--out", str(scratch)),
    )
    check("leaderboard, figures, table or report", rotating[strike.turn % len(rotating)](), {0})
    check("compare", analyse("compare", good, damaged, "--incomplete"), {0, 2})
    checkpoints = sorted((folder / CHECKPOINTS).glob("0*"))
    if checkpoints:
        chosen = strike.dice.choice(checkpoints)
        words = [*(word for word in line if "record.tokens" not in word), "mode=evaluate", f"checkpoint={chosen}"]
        check("evaluate", run_py(words, log=_log(strike)), {0, 1, 2})
    shutil.rmtree(scratch, ignore_errors=True)
    return notes


def _log(strike: Strike) -> Path:
    """A file for one command, which joins the others once it was looked at."""
    return strike.log.with_suffix(".command")


def _expect(strike: Strike, what: str, name: str, child: int, codes: set[int]) -> None:
    log = _log(strike)
    code = wait(child)
    said = log.read_bytes() if log.exists() else b""
    with strike.log.open("ab") as whole:
        whole.write(said)
    log.unlink(missing_ok=True)
    if code not in codes:
        last = said.decode(errors="replace").strip().splitlines()[-1:]
        strike.notes.append(f"{what} {name} exits {code}: {' '.join(last)[:200]}".strip())
    elif code and not said.strip():
        strike.notes.append(f"{what} {name} exits {code} without a word".strip())
    elif b"\x1b" in said:
        strike.notes.append(f"{what} {name} prints an escape code")


DAMAGE: dict[str, tuple[Fault, int]] = {
    "a file damaged while interrupted": (interrupted, 9),
    "a file damaged when finished": (finished, 7),
}
