"""Mistakes a user can make, each told in one line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class AnalysisError(Exception):
    """Bad input: the command line prints the message on stderr and leaves with code 2."""


class MissingData(AnalysisError):
    """The runs at hand do not carry what is asked for; the message says what would ("needs …")."""


def unknown(kind: str, name: str, known: Iterable[str]) -> AnalysisError:
    """The error for a name that does not exist, with the nearest names that do."""
    options = sorted(known)
    near = difflib.get_close_matches(name, options, n=3, cutoff=0.5) or options[:12]
    return AnalysisError(f"no {kind} named {name!r}; nearest: {', '.join(near) or 'none at all'}")
