"""run.py without the figures of a sweep, which are no matter of Slurm's and take longer than the rest."""

import sys

from harness.command import launch
from harness.command.compose import set_project_root
from harness.command.plan import plan

if __name__ == "__main__":
    set_project_root()
    planned = plan(["-m", "hydra/launcher=slurm", *sys.argv[1:]])
    with launch.sweep_context(planned):
        launch.run_due(planned, lambda: None, range(len(planned.cells)))
    sys.exit(launch.summary(planned))
