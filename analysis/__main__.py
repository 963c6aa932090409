"""python -m analysis COMMAND: what a set of runs says; --help lists the commands."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from analysis.errors import AnalysisError, first_line
from analysis.plain import printable

SHARE = 0.5  # of the parent's best accuracy: what a rescued fork ends at

STORE = "of mlflow:EXPERIMENT (default: $MLFLOW_TRACKING_URI, else sqlite:///runs/mlflow.db)"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; bad input is one line on stderr and exit code 2."""
    choices = _parser().parse_args(arguments)
    try:
        choices.command(choices)
    except AnalysisError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        return 0
    except OSError as error:  # of the disk, of rights
        print(f"error: {printable(first_line(error))}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m analysis", description="What the runs say.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, function, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.add_argument("runs", nargs="+", metavar="RUNS",
                         help="run or sweep folders, any folder above them, packs, mlflow:EXPERIMENT")  # fmt: skip
        sub.add_argument("--where", action="append", default=[], metavar="COLUMN=VALUE",
                         help="only runs with this value, e.g. task=carry or learner.lr=3e-5")  # fmt: skip
        sub.add_argument("--incomplete", action="store_true", help="use unfinished and failed runs, too")
        sub.add_argument("--tracking-uri", metavar="URI", help=STORE)
        sub.set_defaults(command=function)
        return sub

    figures = command("figures", _figures, "draw every figure whose data is there; say which are not, and why")
    figures.add_argument("--out", type=Path, default=Path("figures"), help="folder (default: figures)")
    figures.add_argument("--only", type=_names, default=[], metavar="NAME,…", help="these figures alone")
    figures.add_argument("--curve", type=_names, default=[], metavar="METRIC,…",
                         help="also this metric of metrics.jsonl against updates")  # fmt: skip
    for name, what in {"x": "horizontal axis", "hue": "colours", "group": "panels"}.items():
        figures.add_argument(f"--{name}", default="", metavar="COLUMN",
                             help=f"{what} of outcome_by_axis: column or key (default: what varies)")  # fmt: skip
    figures.add_argument("--columns", type=int, choices=(1, 2), help="width of one or two columns")
    figures.add_argument("--metric", default="sampled_accuracy", help="the accuracy shown (default: sampled_accuracy)")

    table = command("table", _table, "area, best, final and last-k accuracy; by decoding; how far it fell")
    table.add_argument("--metric", default="sampled_accuracy", help="default: sampled_accuracy")
    table.add_argument("--last", type=int, default=3, metavar="K", help="evaluations in the last-k mean (default: 3)")
    table.add_argument("--group", type=_names, default=[], metavar="COLUMN,…",
                       help="instead, a row for each combination of these columns or keys")  # fmt: skip
    table.add_argument("--out", type=Path, help="also write Markdown, LaTeX and CSV into this folder")

    leaderboard = command(
        "leaderboard", _leaderboard, "methods in the order of one outcome under staleness, tested against GRPO"
    )
    leaderboard.add_argument("--metric", default="sampled_accuracy", help="default: sampled_accuracy")
    leaderboard.add_argument("--outcome", choices=("area", "final", "last_k"), default="area",
                             help="what ranks (default: area, under the accuracy curve)")  # fmt: skip
    leaderboard.add_argument("--out", type=Path, help="also write Markdown, LaTeX and CSV into this folder")

    compare = commands.add_parser("compare", help="configuration, paired differences and curves of two sides")
    compare.add_argument("sides", nargs="+", metavar="A [B]",
                         help="RUNS of A and of B; one path for both where --a and --b choose")  # fmt: skip
    for side in "ab":
        compare.add_argument(f"--{side}", action="append", default=[], metavar="COLUMN=VALUE",
                             help=f"only these runs in {side.upper()}, e.g. algorithm=m2po")  # fmt: skip
    compare.add_argument("--where", action="append", default=[], metavar="COLUMN=VALUE", help="on both sides")
    compare.add_argument("--incomplete", action="store_true", help="use unfinished and failed runs, too")
    compare.add_argument("--tracking-uri", metavar="URI", help=STORE)
    compare.add_argument("--metric", default="sampled_accuracy", help="default: sampled_accuracy")
    compare.add_argument("--out", type=Path, help="also draw compare.png, .pdf and .csv into this folder")
    compare.set_defaults(command=_compare)

    report = command("report", _report, "one HTML page that opens from disk: numbers, figures, provenance")
    report.add_argument("--out", type=Path, default=Path("report"), help="folder (default: report)")
    report.add_argument("--title", default="", help="default: made from what was run")
    report.add_argument("--tuning", type=Path, metavar="FOLDER",
                        help="of the tuning sweep that chose these settings: its choices and price")  # fmt: skip
    report.add_argument("--notice", type=Path, metavar="FILE",
                        help="text for the top of the page, a paragraph a line")  # fmt: skip

    _add_across(command("across", _across, "methods against one of them in several tasks and stalenesses, one family"))

    _add_interaction(
        command("interaction", _interaction, "whether a method's gain over another depends on the task or staleness")
    )

    _add_ages(command("ages", _ages, "distributions of ages beside each other, tested in the order given"))

    width = command("width", _width, "the fixed clip that M2PO's mask amounts to, for algo=clip_at_width")
    width.add_argument("--out", type=Path, help="also write Markdown, LaTeX and CSV into this folder")

    _add_tune(commands.add_parser("tune", help="what a sweep=tune/NAME chose, its price, and the final sweep"))
    _add_fork(commands.add_parser("fork", help="until when a switch still rescues a collapsing run, by forks of it"))

    pack = command("pack", _pack, "a study in one Parquet file that every command takes in place of folders")
    pack.add_argument("--out", type=Path, required=True, metavar="FILE.parquet")
    pack.add_argument("--every", type=int, default=0, metavar="K",
                      help="every K-th update (default: as many as fit into 5 MB)")  # fmt: skip
    return parser


def _add_across(across: argparse.ArgumentParser) -> None:
    across.add_argument("--against", default="grpo", metavar="ALGORITHM", help="what is subtracted (default: grpo)")
    across.add_argument("--tested", type=_names, default=[], metavar="ALGORITHM,…",
                        help="what is tested against it (default: all others)")  # fmt: skip
    across.add_argument("--planned", type=int, default=0, metavar="N",
                        help="comparisons of the registered family, where more than were made")  # fmt: skip
    across.add_argument("--planned-places", type=int, default=0, metavar="N",
                        help="places that were registered, where more than were run")  # fmt: skip
    across.add_argument("--out", type=Path, help="also write Markdown, LaTeX and CSV into this folder")


def _add_interaction(interaction: argparse.ArgumentParser) -> None:
    interaction.add_argument("--method", required=True, metavar="ALGORITHM", help="whose gain")
    interaction.add_argument("--against", default="grpo", metavar="ALGORITHM", help="over whom (default: grpo)")
    interaction.add_argument("--places", nargs=2, required=True, metavar="TASK:STALENESS",
                             help="the first minus the second")  # fmt: skip
    interaction.add_argument("--out", type=Path, help="also write Markdown, LaTeX and CSV into this folder")


def _add_ages(ages: argparse.ArgumentParser) -> None:
    ages.add_argument("--contrast", nargs=2, action="append", required=True, metavar=("A", "B"),
                      help="two values of staleness, A − B: uniform:0:128 64; again for the next one")  # fmt: skip
    ages.add_argument("--scale", nargs=2, action="append", default=[], metavar=("A", "B"),
                      help="likewise, shown beside them and not tested: 128 0")  # fmt: skip
    ages.add_argument("--out", type=Path, help="also write the table, and draw it, into this folder")


def _add_tune(tune: argparse.ArgumentParser) -> None:
    tune.add_argument("sweep", type=Path, metavar="FOLDER", help="of the tuning sweep, runs/sweeps/tune-NAME-…")
    tune.add_argument("--out", type=Path, help="also write the table, and the best so far against the budget, here")
    tune.add_argument("--final", type=Path, metavar="FILE.yaml",
                      help="write the final sweep, e.g. sweeps/sweep/tuned/NAME.yaml for sweep=tuned/NAME")  # fmt: skip
    tune.add_argument("--seeds", type=_numbers, default=[], metavar="N,…",
                      help="of the final sweep (default: the first 12 that tuning did not use)")  # fmt: skip
    tune.set_defaults(command=_tune)


def _add_fork(fork: argparse.ArgumentParser) -> None:
    fork.add_argument("run", type=Path, metavar="RUN", help="folder of a run that collapsed and keeps its checkpoints")
    fork.add_argument("--switch", action="append", required=True, metavar="KEY=VALUE …",
                      help="what a fork types: algo=gspo, learner.lr=1e-5, staleness=0; again for more")  # fmt: skip
    fork.add_argument("--with", dest="more", default="", metavar="KEY=VALUE …",
                      help="what every fork types, too, e.g. 'device=cuda tracking=none'")  # fmt: skip
    fork.add_argument("--share", type=float, default=SHARE, metavar="X",
                      help=f"of the parent's best accuracy: where a rescued fork ends ({SHARE:g})")  # fmt: skip
    fork.add_argument("--metric", default="sampled_accuracy", help="on validation (default: sampled_accuracy)")
    fork.add_argument("--out", type=Path, default=Path("forks"), help="of forks, tables, figure (default: forks)")
    fork.add_argument("--dry-run", action="store_true", help="say how many runs and how long, and stop")
    fork.set_defaults(command=_fork)


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _numbers(text: str) -> list[int]:
    return [int(name) for name in _names(text)]


def _study(choices: argparse.Namespace):
    study = _load(choices, choices.runs, choices.where)
    _tell(study)
    return study


def _load(choices: argparse.Namespace, paths: Sequence[str], conditions: Sequence[str]):
    from analysis import runs

    expected = {}
    for condition in conditions:
        column, equals, value = condition.partition("=")
        if not equals:
            raise AnalysisError(f"{condition!r}: expected COLUMN=VALUE")
        expected[column] = value
    study = runs.load(paths, incomplete=choices.incomplete, tracking_uri=choices.tracking_uri)
    return study.where(**expected) if expected else study


def _tell(study, side: str = "") -> None:
    """On stderr: how much was found, and everything that does not count."""
    print(f"{side}{len(study.used)} of {len(study.runs)} runs used", file=sys.stderr)
    for row in study.unused.itertuples():
        print(f"  not used: {row.run}: {row.why_not}", file=sys.stderr)
    for note in study.notes:
        print(f"  note: {printable(note)}", file=sys.stderr)


def _figures(choices: argparse.Namespace) -> None:
    from analysis import figures

    index = figures.write(_study(choices), choices.out, only=choices.only, curves=choices.curve,
                          columns=choices.columns, metric=choices.metric,
                          along=(choices.x, choices.hue, choices.group))  # fmt: skip
    for name, entry in index.items():
        if entry["drawn"]:
            lacks = f" (missing: {'; '.join(entry['missing'])})" if entry["missing"] else ""
            print(f"{choices.out / name}.png{lacks}")
    for name, entry in index.items():
        if not entry["drawn"]:
            print(f"not drawn: {name}: {entry['why_not']}")


def _table(choices: argparse.Namespace) -> None:
    from analysis import figures, tables, tabular, terminal

    study = _study(choices)
    figures.one_task(study)
    made = tables.of_a_sweep(study, choices.metric, choices.last)
    if choices.group:
        made = {"grouped": tables.grouped(study, choices.group, choices.metric)}
    for name, shown in made.items():
        if name != "table1":
            terminal.show(shown)
    if choices.out:
        figures.prepare(choices.out)
        for name, table in made.items():
            tabular.write(table, choices.out, name)


def _leaderboard(choices: argparse.Namespace) -> None:
    from analysis import figures, leaderboard, tabular, terminal

    study = _study(choices)
    figures.one_task(study)
    table = leaderboard.leaderboard(study, choices.metric, choices.outcome)
    terminal.show(table)
    if choices.out:
        figures.prepare(choices.out)
        tabular.write(table, choices.out, "leaderboard")


def _compare(choices: argparse.Namespace) -> None:
    from analysis import compare, figures

    if len(choices.sides) > 2:
        raise AnalysisError(f"compare takes two sides, got {len(choices.sides)}")
    paths = choices.sides * (3 - len(choices.sides))
    a = _load(choices, paths[:1], choices.where + choices.a)
    b = _load(choices, paths[1:2], choices.where + choices.b)
    _tell(a, "A: ")
    _tell(b, "B: ")
    result = compare.compare(a, b, choices.metric)
    compare.show(result)
    if choices.out:
        figures.prepare(choices.out)
        compare.write(result, choices.out)


def _report(choices: argparse.Namespace) -> None:
    from analysis import figures, report, tuned, tuning

    study = _study(choices)
    figures.one_task(study)
    figures.prepare(choices.out)
    budget = tuned.table(tuning.read(choices.tuning)) if choices.tuning else None
    print(report.write(study, choices.out, choices.title, notice=_paragraphs(choices.notice), budget=budget))


def _across(choices: argparse.Namespace) -> None:
    from analysis import across, figures, tabular, terminal

    study = _study(choices)
    made = {
        "differences": across.differences(study, choices.against, choices.tested, choices.planned),
        "agreement": tabular.made("agreement", across.agreement, study, choices.planned_places),
        "collapses": across.collapses(study),
    }
    if choices.out:
        figures.prepare(choices.out)
    for table in made.values():
        terminal.show(table)
    if choices.out:
        for name, table in made.items():
            tabular.write(table, choices.out, name)


def _interaction(choices: argparse.Namespace) -> None:
    from analysis import figures, interaction, tabular, terminal

    table = interaction.table(_study(choices), choices.method, choices.places, choices.against)
    terminal.show(table)
    if choices.out:
        figures.prepare(choices.out)
        tabular.write(table, choices.out, "interaction")


def _ages(choices: argparse.Namespace) -> None:
    from analysis import ages, figures, tabular, terminal
    from analysis.figures import common, contrasts

    study = _study(choices)
    figures.one_task(study)
    found = ages.contrasts(study, choices.contrast, choices.scale)
    table = ages.table(study, found)
    if choices.out:
        figures.prepare(choices.out)
    terminal.show(table)
    if choices.out:
        tabular.write(table, choices.out, "contrasts")
        with common.options():
            common.save(contrasts.draw(study, found), choices.out, "contrasts_by_seed")


def _width(choices: argparse.Namespace) -> None:
    from analysis import figures, tabular, terminal, width

    table = width.width(_study(choices))
    terminal.show(table)
    if choices.out:
        figures.prepare(choices.out)
        tabular.write(table, choices.out, "width")


def _tune(choices: argparse.Namespace) -> None:
    from analysis import figures, terminal, tuned, tuning

    sweep = tuning.read(choices.sweep)
    terminal.show(tuned.table(sweep))
    for line in tuned.curves(sweep):
        print(line)
    if choices.out:
        figures.prepare(choices.out)
        tuned.write(sweep, choices.out)
    if choices.final:
        figures.prepare(choices.final.parent)
        choices.final.write_text(tuned.final_sweep(sweep, choices.seeds), encoding="utf-8")
        print(f"final sweep: {choices.final}")


def _fork(choices: argparse.Namespace) -> None:
    from analysis import figures, rescue, rescued, terminal

    parent, more = rescue.read(choices.run, choices.metric, choices.share), choices.more.split()
    for switch in choices.switch:
        rescue.check_switch(switch)
    searches = [rescue.Search(parent, switch) for switch in dict.fromkeys(choices.switch)]
    print(rescue.announcement(searches, choices.out, more), file=sys.stderr)
    if choices.dry_run:
        return
    figures.prepare(choices.out)
    for search in searches:
        for line in rescue.bisect(search, choices.out, more, rescue.launch):
            print(line, file=sys.stderr)
    terminal.show(rescued.table(searches))
    print("\n".join(map(str, rescued.write(searches, choices.out))))


def _paragraphs(file: Path | None) -> list[str]:
    if file is None:
        return []
    try:
        return [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise AnalysisError(f"--notice {file}: cannot be read ({first_line(error)}); expected a text file") from error


def _pack(choices: argparse.Namespace) -> None:
    from analysis import pack

    if choices.every < 0:
        raise AnalysisError(f"--every {choices.every}: expected a positive number of updates")
    study = _study(choices)
    k = pack.write(study, choices.out, choices.every)
    size = choices.out.stat().st_size / 1e6
    kept = "every update" if k == 1 else f"one update in {k}"
    print(f"{choices.out}: {len(study.runs)} runs, {kept}, {size:.2f} MB")


if __name__ == "__main__":
    sys.exit(main())
