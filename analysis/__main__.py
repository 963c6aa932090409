"""python -m analysis figures | table | compare | leaderboard | report | pack (see --help of each)."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from analysis.errors import AnalysisError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; bad input is one line on stderr and exit code 2."""
    choices = _parser().parse_args(arguments)
    try:
        choices.command(choices)
    except AnalysisError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        return 0
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m analysis", description="What the runs say.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, function, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.add_argument(
            "runs", nargs="+", metavar="RUNS", help="run or sweep folders, any folder above them, packs"
        )
        sub.add_argument("--where", action="append", default=[], metavar="COLUMN=VALUE",
                         help="only runs with this value, e.g. task=carry")  # fmt: skip
        sub.add_argument("--incomplete", action="store_true", help="use unfinished and failed runs, too")
        sub.set_defaults(command=function)
        return sub

    figures = command(
        "figures", _figures, "draw every figure whose data is there; say which are not, and why"
    )
    figures.add_argument("--out", type=Path, default=Path("figures"), help="folder (default: figures)")
    figures.add_argument("--only", type=_names, default=[], metavar="NAME,…", help="these figures alone")
    figures.add_argument("--curve", type=_names, default=[], metavar="METRIC,…",
                         help="also this metric of metrics.jsonl against updates")  # fmt: skip
    figures.add_argument("--columns", type=int, choices=(1, 2), help="width of one or two columns")
    figures.add_argument(
        "--metric", default="sampled_accuracy", help="the accuracy shown (default: sampled_accuracy)"
    )

    table = command("table", _table, "best, final and last-k accuracy with n and an interval")
    table.add_argument("--metric", default="sampled_accuracy", help="default: sampled_accuracy")
    table.add_argument(
        "--last", type=int, default=3, metavar="K", help="evaluations in the last-k mean (default: 3)"
    )
    table.add_argument("--out", type=Path, help="also write Markdown, LaTeX and CSV into this folder")
    return parser


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _study(choices: argparse.Namespace):
    from analysis import runs

    study = runs.load(choices.runs, incomplete=choices.incomplete)
    for condition in choices.where:
        column, equals, value = condition.partition("=")
        if not equals:
            raise AnalysisError(f"--where {condition!r}: expected COLUMN=VALUE")
        study = study.where(**{column: value})
    _tell(study)
    return study


def _tell(study) -> None:
    """On stderr: how much was found, and everything that does not count."""
    print(f"{len(study.used)} of {len(study.runs)} runs used", file=sys.stderr)
    for row in study.unused.itertuples():
        print(f"  not used: {row.run}: {row.why_not}", file=sys.stderr)
    for note in study.notes:
        print(f"  note: {note}", file=sys.stderr)


def _figures(choices: argparse.Namespace) -> None:
    from analysis import figures

    index = figures.write(_study(choices), choices.out, only=choices.only, curves=choices.curve,
                          columns=choices.columns, metric=choices.metric)  # fmt: skip
    for name, told in index.items():
        if told["drawn"]:
            lacks = f" (missing: {'; '.join(told['missing'])})" if told["missing"] else ""
            print(f"{choices.out / name}.png{lacks}")
    for name, told in index.items():
        if not told["drawn"]:
            print(f"not drawn: {name}: {told['why_not']}")


def _table(choices: argparse.Namespace) -> None:
    from analysis import figures, tables

    study = _study(choices)
    figures.one_task(study)
    table = tables.summary(study, choices.metric, choices.last)
    print(tables.markdown(table), end="")
    if choices.out:
        figures.prepare(choices.out)
        tables.write(table, choices.out, "summary")


if __name__ == "__main__":
    sys.exit(main())
