"""`python run.py algo=m2po staleness=64`: one run, or with -m a sweep. See --help."""

import signal
import sys

import hydra
from omegaconf import DictConfig

from harness.command.plan import Plan, config_of_job, help_text, plan, set_project_root
from harness.errors import UserError

HELP = ("--help", "-h")
SHOW_ONLY = ("--hydra-help", "--version", "--cfg", "-c", "--info", "-i", "--shell-completion", "-sc")


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def cell(cfg: DictConfig) -> str:
    """One cell, in this process or in one that a Hydra launcher started."""
    from harness.command.cell import run_cell

    return run_cell(config_of_job(cfg))


def draw(plan: Plan) -> None:
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
    set_project_root()
    if any(argument.split("=")[0] in SHOW_ONLY for argument in sys.argv[1:]):
        cell()
        return 0
    try:
        if set(HELP) & set(sys.argv[1:]):
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `--help | head` is no error
            print(help_text(sys.argv[1:]))
            return 0
        planned = plan(sys.argv[1:])
    except UserError as error:
        print(f"run.py: {error}", file=sys.stderr)
        return 2

    if planned.cells[0].dry_run:
        from harness.command import dry_run

        print(dry_run.report(planned))
        return 0

    from harness.command import launch
    from harness.command.watch import watching

    with launch.around(planned):
        with watching(planned):
            cell()
        if planned.is_sweep:
            draw(planned)
    return launch.summary(planned)


if __name__ == "__main__":
    sys.exit(main())
