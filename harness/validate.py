"""Checks that need the parts themselves: is the model there, does the algorithm take these parameters?"""

from __future__ import annotations

from harness import build
from harness.config import Config
from harness.models.loading import check_model
from harness.records.folder import check_folder


def parts(config: Config) -> None:
    """Raises UserError. Writes nothing."""
    build.algorithm(config)
    build.task(config)
    if not config.dry_run:
        check_model(config.model)
    check_folder(config)
