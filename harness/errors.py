"""Errors that a user can act on: one line that says what was wrong, what was expected and what to do."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable


class UserError(ValueError):
    """Bad input. The message is one line, shown without a traceback."""


class RunFailed(RuntimeError):
    """A run that cannot go on (non-finite numbers, a lost engine, a full disk); recorded in the manifest."""


def require(valid: bool, key: str, value: object, expected: str) -> None:
    """Refuses the value of a key.

    valid: whether the value is one of those expected.
    key: name of the key, as the user typed it.
    value: its value.
    expected: what would be right, in words.
    Raises UserError `key=value: expected …` unless `valid`.
    """
    if not valid:
        raise UserError(f"{key}={value}: expected {expected}")


def nearest(word: str, known: Iterable[str], count: int = 3) -> str:
    """`did you mean a, b?` with the known names nearest to `word`, or the full list when none is near."""
    names = sorted(known)
    for likeness in (0.8, 0.5):  # a slip of one letter has one meaning; far ones are named where nothing is close
        near = difflib.get_close_matches(word, names, n=count, cutoff=likeness)
        if near:
            return "did you mean " + " or ".join(near) + "?"
    return "valid: " + ", ".join(names)


def not_imported(named: str, error: Exception) -> UserError:
    """What to say where code of the user's own cannot be imported: why, and where Python looks.

    named: key=dotted name, as it was configured.
    error: what its import raised.
    """
    why = f"{named}: cannot be imported ({type(error).__name__}: {first_line(error)})"
    package = named.rpartition("=")[2].split(".")[0]
    if not isinstance(error, ModuleNotFoundError) or error.name != package:
        return UserError(why)
    return UserError(f"{why}; install it, or type PYTHONPATH=FOLDER_THAT_HOLDS_IT in front of the command")


def first_line(error: object) -> str:
    """The first line of an error's message without secrets, or the name of its type where it has none."""
    return without_secrets((str(error).strip() or type(error).__name__).splitlines()[0])


MASK = "***"
USER_INFO = re.compile(r"(?<=://)[^/\s]*@|(?<==)[^/\s:=@]+:[^/\s@]+@")  # of an address, with its scheme or without
SECRET_PARAMETER = re.compile(r"([?&][^=&\s]*(?:token|key|secret|passw|pwd|sig)[^=&\s]*=)[^&#\s]+", re.IGNORECASE)


def without_secrets(text: str) -> str:
    """Text in which addresses carry no password: http://me:secret@host → http://***@host, ?token=x → ?token=***."""
    return SECRET_PARAMETER.sub(rf"\1{MASK}", USER_INFO.sub(f"{MASK}@", text))


def printable(text: str) -> str:
    """Text without control characters: a response, or a message that quotes a file, must not steer a terminal."""
    return "".join(c if c in "\n\t" or unicodedata.category(c)[0] != "C" else "�" for c in text)
