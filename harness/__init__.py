"""The shared rollout/learner core into which the algorithms plug as interchangeable losses."""

from pathlib import Path

from harness.errors import UserError

PROJECT = Path(__file__).resolve().parents[1]  # the folder that holds the packages
INSTALLED = PROJECT / "lagrange"  # in an installed copy: run.py, conf/ and sweeps/
SETTINGS = INSTALLED if (INSTALLED / "conf" / "config.yaml").is_file() else PROJECT  # the folder that holds run.py


def bases() -> tuple[Path, Path]:
    """Where a relative path of the configuration begins: the folder the command is typed in, then the project's root.

    Raises UserError where the first has been removed.
    """
    try:
        return Path.cwd(), PROJECT
    except OSError as error:
        raise UserError("the folder that this is typed in does not exist any more; cd to another") from error
