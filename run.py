"""`python run.py algo=m2po staleness=64`: one run, or with -m a sweep. See --help."""

import signal
import sys

import hydra
from omegaconf import DictConfig

from harness.command.compose import SHOW_ONLY, check_shown, config_of_job, set_project_root
from harness.command.help import help_text
from harness.command.plan import Plan, plan
from harness.command.together import followers_released, follows
from harness.errors import UserError

HELP = {"--help", "-h"}


def main(arguments: list[str]) -> int:
    if follows():
        return follow()
    with followers_released():
        return drive(arguments)


def follow() -> int:
    """A rank beside the first, where torchrun or srun has started several."""
    from harness.command.follow import follow

    return follow()


def drive(arguments: list[str]) -> int:
    set_project_root()
    try:
        if {argument.split("=")[0] for argument in arguments} & set(SHOW_ONLY):
            check_shown(arguments)
            cell()
            return 0
        if HELP & set(arguments):
            return show(help_text(arguments))
        planned = plan(arguments)
    except UserError as error:
        print(f"run.py: {error}", file=sys.stderr)
        return 2
    return estimate(planned) if planned.cells[0].dry_run else run(planned)


def show(text: str) -> int:
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `--help | head` is no error
    print(text)
    return 0


def estimate(planned: Plan) -> int:
    from harness.command import dry_run

    return show(dry_run.report(planned))


def run(planned: Plan) -> int:
    from harness.command import launch
    from harness.command.watch import watching

    with launch.sweep_context(planned):
        with watching(planned):
            cell()
        if planned.is_sweep:
            draw(planned)
    return launch.summary(planned)


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def cell(cfg: DictConfig) -> str:
    """One cell, in this process or in one that a Hydra launcher started."""
    from harness.command.cell import run_cell

    return run_cell(config_of_job(cfg))


def draw(planned: Plan) -> None:
    """Figures, tables and report of a sweep, into its folder."""
    from analysis import write_all
    from analysis.errors import AnalysisError

    try:
        files = write_all([planned.sweep_folder], planned.sweep_folder)
    except AnalysisError as error:
        print(f"no figures: {error}", file=sys.stderr)
        return
    print((planned.sweep_folder / "tables" / "summary.md").read_text())
    print(f"{len(files)} files, report: {planned.sweep_folder / 'report' / 'index.html'}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
