"""`python run.py algo=m2po staleness=64`: one run, or with -m a sweep. See --help."""

import sys

import hydra
from omegaconf import DictConfig

from harness import frontdoor

SHOW_ONLY = (
    "--help",
    "-h",
    "--hydra-help",
    "--version",
    "--cfg",
    "-c",
    "--info",
    "-i",
    "--shell-completion",
    "-sc",
)


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def cell(cfg: DictConfig) -> str:
    """One cell, in this process or in one that a Hydra launcher started."""
    from harness.running import run_cell

    return run_cell(frontdoor.config_of_job(cfg))


def main() -> int:
    frontdoor.set_project_root()
    if any(argument.split("=")[0] in SHOW_ONLY for argument in sys.argv[1:]):
        cell()
        return 0
    try:
        plan = frontdoor.plan(sys.argv[1:])
    except frontdoor.UserError as error:
        print(f"run.py: {error}", file=sys.stderr)
        return 2

    from harness import launch

    with launch.around(plan):
        cell()
    return launch.summary(plan)


if __name__ == "__main__":
    sys.exit(main())
