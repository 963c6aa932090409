"""Where relative paths of the configuration begin."""

from pathlib import Path

from harness import PROJECT
from harness.errors import UserError


def bases() -> tuple[Path, Path]:
    """The folder that the command is typed in, then the project's root.

    Raises UserError where the first has been removed.
    """
    try:
        return Path.cwd(), PROJECT
    except OSError as error:
        raise UserError("the folder that this is typed in does not exist any more; cd to another") from error
