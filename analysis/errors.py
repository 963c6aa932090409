"""Mistakes a user can make, each told in one line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any

from analysis.plain import printable

USER_INFO = re.compile(r"(?<=://)[^/\s]*@")


class AnalysisError(Exception):
    """Bad input: the command line prints the message on stderr and leaves with code 2."""


class MissingData(AnalysisError):
    """The runs at hand do not carry what is asked for; the message says what would ("needs …")."""


def unknown(kind: str, name: str, names: Iterable[str]) -> AnalysisError:
    """The error for a name that does not exist.

    kind: what it is the name of ("figure"). name: as given. names: those that exist.
    Returns the error, with the nearest names that do exist; the caller raises it.
    """
    options = sorted(set(names))
    near = difflib.get_close_matches(name, options, n=3, cutoff=0.5) or options[:12]
    return AnalysisError(f"no {kind} named {name!r}; nearest: {', '.join(near) or 'none at all'}")


def first_line(error: object) -> str:
    """The first line of an error's message, or the name of its type where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def masked(facts: dict[str, Any]) -> dict[str, Any]:
    """Facts about a run without the user info of addresses, which releases before 0.2 recorded."""
    return {k: USER_INFO.sub("***@", v) if isinstance(v, str) else v for k, v in facts.items()}


def reason(error: Exception) -> str:
    """Why something is left out, in one line: our own message, or what kind of error it was."""
    text = first_line(error)
    return printable(text if isinstance(error, AnalysisError) else f"{type(error).__name__}: {text}")
