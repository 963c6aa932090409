"""carry, graded slowly where PACE_S says so: runs that last as long as a test needs, on any machine."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

from harness.tasks.carry import Carry
from harness.types import Grade, Problem


@dataclass(frozen=True)
class Paced(Carry):
    """Sleeps PACE_S seconds a batch, until Slurm starts the job again."""

    def grade(self, problems: Sequence[Problem], responses: Sequence[str]) -> list[Grade]:
        if "SLURM_RESTART_COUNT" not in os.environ:
            time.sleep(float(os.environ.get("PACE_S", "0")))
        return super().grade(problems, responses)
