"""The words of a command line as they come, before Hydra reads them: flags, and what a shell left as it is."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from itertools import pairwise

from harness.config import known_keys
from harness.errors import UserError

MULTIRUN = ("-m", "--multirun")
SHOW_ONLY = ("--hydra-help", "--version", "--cfg", "-c", "--info", "-i", "--shell-completion", "-sc")
FLAGS = (*MULTIRUN, *SHOW_ONLY, "--run", "-r", "--resolve", "--package", "-p")
NAMES = ("--help", "--version", "--multirun", "--cfg")  # those to propose
OTHER_FILES = ("--config", "-cd", "-cn", "-cp")  # Hydra's, for a configuration that would not be checked


def overrides_of(arguments: Sequence[str]) -> list[str]:
    """The arguments that are no flags."""
    return [argument for argument in arguments if not argument.startswith("-")]


def refuse_flags(arguments: Sequence[str]) -> None:
    """Raises UserError for flags by which Hydra would run another configuration than the one that was checked."""
    for flag, _, value in (argument.partition("=") for argument in arguments):
        if flag.startswith("-") and flag not in FLAGS:
            key = flag.lstrip("-").replace("-", "_")
            if key in known_keys():
                raise UserError(f"{flag}: keys have no dashes in front; type {key}={value or 'VALUE'}")
            if flag.startswith(OTHER_FILES):
                raise UserError(
                    f"{flag}: no such flag here; a folder of configurations goes in hydra.searchpath=[PATH]"
                )
            raise UserError(f"{flag}: no such flag here; expected one of {', '.join(NAMES)}, or KEY=VALUE")
    for argument, following in pairwise([*arguments, ""]):
        flag, _, value = argument.partition("=")
        if flag in ("--cfg", "-c") and (value or following) not in ("job", "hydra", "all"):
            raise UserError(f"{flag}: shows job, hydra or all; type --cfg job")


def as_meant(arguments: Sequence[str]) -> list[str]:
    """The arguments with the home folder for ~/, which a shell leaves as it is behind =, and with -m in front.

    Behind overrides Hydra takes -m and what follows for a mistake, once the sweep has begun.
    """
    home = os.path.expanduser("~/")
    arguments = [re.sub(r"(?<=[=,])~/", home, argument) for argument in arguments]
    return sorted(arguments, key=lambda argument: argument not in MULTIRUN)
