"""`python run.py algo=m2po staleness=64`: one run, or with -m a sweep. See --help."""

import contextlib
import io
import os
import signal
import sys
from pathlib import Path
from typing import TextIO

from harness.progress import QUIET, VARIED, status

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C before a cell runs: nothing is written yet, nothing is said
if __name__ == "__main__" and "quiet=true" not in sys.argv:
    status("reading the configuration …")  # before Hydra, which takes a while to import

import hydra
from omegaconf import DictConfig

from harness.command.arguments import SHOW_ONLY, as_meant
from harness.command.compose import (
    CONF,
    check_shown,
    config_of_job,
    set_project_root,
    words_of_job,
)
from harness.command.help import help_text, version
from harness.command.output import open_closed_streams
from harness.command.plan import Plan, plan
from harness.command.points import file_of
from harness.command.together import followers_released, follows
from harness.errors import UserError, first_line, printable, without_secrets
from harness.paths import bases

HELP = {"--help", "-h"}


def main(arguments: list[str]) -> int:
    open_closed_streams()
    try:
        beside_the_first = follows()
    except UserError as error:
        complain(str(error))
        return 2
    if beside_the_first:
        return follow()
    with followers_released():
        return drive(arguments)


def follow() -> int:
    """A rank beside the first, where torchrun or srun has started several."""
    from harness.command.follow import follow

    return follow()


def drive(arguments: list[str]) -> int:
    set_project_root()
    if "quiet=true" in arguments:
        os.environ[QUIET] = "1"
    status("reading the configuration …")
    try:
        bases()
        if "--version" in arguments:
            return show(version())
        listed = file_of([word for word in arguments if "=" in word])  # --cfg job, --help learner: no overrides
        if {argument.split("=")[0] for argument in arguments} & set(SHOW_ONLY):
            if listed:
                raise UserError(f"{listed} lists many runs, none of which is shown; dry_run=true tells what they do")
            check_shown(arguments)
            return show_only()
        if HELP & set(arguments):
            return show(help_text([word for word in arguments if not (listed and word.startswith("sweep="))]))
        planned = plan(arguments)
        status("")
        return estimate(planned) if planned.only_estimated else run(planned)
    except UserError as error:
        status("")
        complain(str(error))
        return 2
    except OSError as error:  # of the disk, of rights: what a cell meets, its folder says
        complain(printable(first_line(error)))
        return 2


def complain(text: str) -> None:
    """Says in one line what was wrong, in the name of what was typed: run.py, or `lagrange`."""
    print(f"{Path(sys.argv[0]).name}: {without_secrets(text)}", file=sys.stderr)


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
    status("")
    print(without_secrets(text))
    return 0


def estimate(planned: Plan) -> int:
    from harness.command import dry_run

    show(dry_run.report(planned))
    refusals = dry_run.refusals(planned)
    for line in refusals:
        complain(line)
    return 2 if refusals else 0


def run(planned: Plan) -> int:
    from harness.command import banner, launch
    from harness.command.output import outlive_readers
    from harness.command.processes import run_cells
    from harness.command.watch import varied, watching

    outlive_readers()
    if planned.cells[0].quiet:
        os.environ[QUIET] = "1"
    os.environ[VARIED] = ",".join(varied(planned))
    tell(banner.header(planned), sys.stderr)
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
        status("waiting for the records to reach MLflow …" if planned.cells[0].tracking.backend == "mlflow" else "")
    status("")
    code = launch.summary(planned)
    if not code and not launch.interrupted():
        conclude(planned)
    return code


def tell(text: str, stream: TextIO) -> None:
    """Says something that quiet=true leaves out."""
    if text and QUIET not in os.environ:
        print(without_secrets(text), file=stream)


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
            tell(f"{len(cells)} of {len(planned.cells)} runs go on past update {update}", sys.stderr)
    except AnalysisError as error:
        complain(str(error))
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
    tell("drawing figures …", sys.stderr)
    try:
        files = write_choices(folder) if planned.rungs else write_all([folder], folder, status)
    except (AnalysisError, OSError) as error:
        status("")
        print(f"no figures: {error}", file=sys.stderr)
        return
    status("")
    if not planned.rungs:
        print(f"{len(files)} files, report: {folder / 'report' / 'index.html'}")


def conclude(planned: Plan) -> None:
    """What was found, in one sentence, and what to type next."""
    from analysis import answer
    from analysis.errors import AnalysisError
    from harness.command import banner

    first = planned.cells[0]
    try:
        if planned.rungs:
            tell((planned.sweep_folder / "tuning" / "tuning.md").read_text(), sys.stdout)
        elif planned.is_sweep:
            tell(banner.wrapped(f"found: {answer(planned.sweep_folder)}"), sys.stdout)
        elif first.mode == "train" and (found := banner.learned(first.folder)):
            tell(banner.wrapped(f"found: {found}"), sys.stdout)
    except (AnalysisError, OSError, ValueError) as error:
        print(f"nothing could be concluded: {error}", file=sys.stderr)
    tell(banner.next_steps(planned), sys.stdout)


def command() -> int:
    """The `lagrange` of an installed copy."""
    sys.argv[1:] = as_meant(sys.argv[1:])
    return main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(command())
