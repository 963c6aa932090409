"""`python run.py algo=m2po staleness=64`: one run, or with -m a sweep. See --help."""

import signal
import sys

import hydra
from omegaconf import DictConfig

from harness import frontdoor
from harness.errors import UserError

HELP = ("--help", "-h")
SHOW_ONLY = ("--hydra-help", "--version", "--cfg", "-c", "--info", "-i", "--shell-completion", "-sc")


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def cell(cfg: DictConfig) -> str:
    """One cell, in this process or in one that a Hydra launcher started."""
    from harness.running import run_cell

    return run_cell(frontdoor.config_of_job(cfg))


def draw(plan: frontdoor.Plan) -> None:
    """Figures, tables and report of a sweep, into its folder."""
    from analysis import write_all
    from analysis.errors import AnalysisError

    try:
        files = write_all([plan.sweep_folder], plan.sweep_folder)
    except AnalysisError as error:
        print(f"no figures: {error}", file=sys.stderr)
        return
    print((plan.sweep_folder / "tables" / "summary.md").read_text())
    print(f"{len(files)} files, report: {plan.sweep_folder / 'report' / 'index.html'}")


def main() -> int:
    frontdoor.set_project_root()
    if any(argument.split("=")[0] in SHOW_ONLY for argument in sys.argv[1:]):
        cell()
        return 0
    try:
        if set(HELP) & set(sys.argv[1:]):
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `--help | head` is no error
            print(frontdoor.help_text(sys.argv[1:]))
            return 0
        plan = frontdoor.plan(sys.argv[1:])
    except UserError as error:
        print(f"run.py: {error}", file=sys.stderr)
        return 2

    if plan.cells[0].dry_run:
        from harness import dry_run

        print(dry_run.report(plan))
        return 0

    from harness import launch
    from harness.watch import watching

    with launch.around(plan):
        with watching(plan):
            cell()
        if plan.is_sweep:
            draw(plan)
    return launch.summary(plan)


if __name__ == "__main__":
    sys.exit(main())
