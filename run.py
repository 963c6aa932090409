"""`python run.py algo=m2po staleness=64`: one run, or with -m a sweep. See --help."""

import contextlib
import io
import signal
import sys

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C before a cell runs: nothing is written yet, nothing is said

import hydra
from omegaconf import DictConfig

from harness.command.compose import (
    CONF,
    SHOW_ONLY,
    as_meant,
    check_shown,
    config_of_job,
    set_project_root,
    words_of_job,
)
from harness.command.help import help_text
from harness.command.plan import Plan, plan
from harness.command.together import followers_released, follows
from harness.errors import UserError, without_secrets

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
            return show_only()
        if HELP & set(arguments):
            return show(help_text(arguments))
        planned = plan(arguments)
        return estimate(planned) if planned.cells[0].dry_run else run(planned)
    except UserError as error:
        print(f"run.py: {without_secrets(str(error))}", file=sys.stderr)
        return 2


def show_only() -> int:
    """What Hydra prints of a configuration, without passwords."""
    code: str | int | None = 0
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        try:
            cell()
        except SystemExit as end:
            code = end.code
    show(shown.getvalue().removesuffix("\n"))
    return int(code or 0)


def show(text: str) -> int:
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `--help | head` is no error
    print(without_secrets(text))
    return 0


def estimate(planned: Plan) -> int:
    from harness.command import dry_run

    return show(dry_run.report(planned))


def run(planned: Plan) -> int:
    from harness.command import launch
    from harness.command.output import outlive_readers
    from harness.command.processes import run_cells
    from harness.command.watch import watching

    outlive_readers()
    with launch.sweep_context(planned):
        with watching(planned):
            if planned.points:
                climb(planned)
            elif planned.on_slurm:
                launch.run_due(planned, cell, range(len(planned.cells)))
            elif planned.jobs:
                run_cells(cell, planned.overrides, planned.jobs)
            else:
                cell()
        if planned.is_sweep and not launch.interrupted():
            draw(planned)
    return launch.summary(planned)


def climb(planned: Plan) -> None:
    """A sweep that lists its points: launch them to a rung, ask the analysis which go on, to the next, to the end."""
    from analysis import tuning
    from analysis.errors import AnalysisError
    from harness.command import launch

    cells = list(range(len(planned.cells)))
    try:
        for update in planned.rungs:
            launch.run_due(planned, cell, cells, update)
            cells = tuning.going_on(planned.sweep_folder, update)
            print(f"{len(cells)} of {len(planned.cells)} runs go on past update {update}")
    except AnalysisError as error:
        print(f"run.py: {error}", file=sys.stderr)
    else:
        launch.run_due(planned, cell, cells)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def cell(cfg: DictConfig) -> str:
    """One cell, in this process or in one that a Hydra launcher started."""
    from harness.command.cell import run_cell
    from harness.command.resolve import resolve

    return run_cell(resolve(config_of_job(cfg), words_of_job()))


def draw(planned: Plan) -> None:
    """Figures, tables and report of a sweep, into its folder; of one with rungs, what was chosen."""
    from analysis import write_all, write_choices
    from analysis.errors import AnalysisError

    folder = planned.sweep_folder
    try:
        files = write_choices(folder) if planned.rungs else write_all([folder], folder)
    except (AnalysisError, OSError) as error:
        print(f"no figures: {error}", file=sys.stderr)
        return
    if planned.rungs:
        print((folder / "tuning" / "tuning.md").read_text())
        print(f"final sweep: python -m analysis tune {folder} --final FILE.yaml")
        return
    print((folder / "tables" / "summary.md").read_text())
    print(f"{len(files)} files, report: {folder / 'report' / 'index.html'}")


if __name__ == "__main__":
    sys.argv[1:] = as_meant(sys.argv[1:])
    sys.exit(main(sys.argv[1:]))
