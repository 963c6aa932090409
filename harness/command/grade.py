"""`python -m harness.grade`: what a response is worth, and how it and the reference answer were read.

    python -m harness.grade --reward math --gold '\\frac{1}{2}' --answer 'so \\boxed{0.5}'
    python -m harness.grade --task reasoning_gym --name leg_counting --index 3 --answer '<answer>12</answer>'
    python -m harness.grade --reward math --file runs/…/samples.jsonl
    python -m harness.grade --reward my_package.score --allow-code my_package --row '{"answer": "5"}' --answer 'It is 5'

The first line is the reward. Grading runs where it does in training: in a confined process, within its limits.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from harness.errors import UserError, printable
from harness.records.layout import CONFIG
from harness.records.limits import read_yaml
from harness.rewards import sandbox
from harness.rewards.pool import Pool
from harness.rewards.process import OWN, Job, Outcome
from harness.rewards.reward import REWARDS, is_own
from harness.tasks.columns import read_answer
from harness.tasks.corpus import ANSWER_FORMATS

LIMIT_S = 5.0
SHOWN = 300  # characters of a reading


@dataclass(frozen=True)
class Asked:
    """A response to be graded.

    job: for the grading process.
    number: its line in the file; 0: from the command line.
    recorded: the reward that the file says it had; None: it says none.
    """

    job: Job
    number: int = 0
    recorded: float | None = None


def main(arguments: Sequence[str] | None = None) -> int:
    """Grades what the command line names; returns the exit status.

    arguments: those of this process where None.
    """
    options = _parser().parse_args(arguments)
    sandbox.switch(options.sandbox == "on")
    pool = Pool(1, options.timeout_s)
    try:
        sandbox.require_sandbox()
        asked = list(_asked(options))
        outcomes = pool.run([one.job for one in asked])
        readings = pool.run([_reading(one.job) for one in asked])
    except UserError as error:
        print(f"harness.grade: {error}", file=sys.stderr)
        return 2
    finally:
        pool.close()
    for one, outcome, reading in zip(asked, outcomes, readings, strict=True):
        failed = {"reading": f"failed ({reading.failure})"} if reading.failure and not reading.details else {}
        _show(one, outcome, reading.details | failed)
    return 0


def _reading(job: Job) -> Job:
    """What says how a job's two sides are read: of a user's own function, its parts."""
    return job if job.verifier == OWN else Job("readings", {"verifier": job.verifier, **job.arguments})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m harness.grade", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--reward", help=f"{', '.join(REWARDS)}, or a function of your own such as my_package.score")
    parser.add_argument("--allow-code", default="", help="package of that function, which is then run")
    parser.add_argument("--problem", default="", help="the problem's text, for a function of your own")
    parser.add_argument("--row", type=yaml.safe_load, default={}, help="its row of the data file, as JSON")
    parser.add_argument("--gold", help="reference answer, as it stands in a data file")
    parser.add_argument("--answer", help="a whole response")
    parser.add_argument("--answer-format", choices=ANSWER_FORMATS, help="how --gold is read; else by what it holds")
    parser.add_argument("--task", choices=("reasoning_gym",), help="grade as this task does")
    parser.add_argument("--name", help="task.name: data set of reasoning-gym")
    parser.add_argument("--index", type=int, default=0, help="entry of that data set")
    parser.add_argument("--options", type=yaml.safe_load, default={}, help="task.options: {max_animals: 5}")
    parser.add_argument("--file", type=Path, help="rows with response and answer, for instance a run's samples.jsonl")
    parser.add_argument("--timeout-s", type=float, default=LIMIT_S, help="CPU seconds an answer")
    parser.add_argument("--sandbox", choices=("on", "off"), default="on")
    return parser


def _asked(options: argparse.Namespace) -> Iterator[Asked]:
    """The jobs that a command line names. Raises UserError."""
    if options.reward and options.reward not in REWARDS:
        _check_own(options)
    if options.file:
        yield from _rows(options)
    elif options.answer is None:
        raise UserError("--answer: needed, a whole response; or --file with rows of them")
    elif options.task or options.name:
        yield Asked(_gym_job(options, options.answer, options.gold))
    elif options.reward and is_own(options.reward):
        yield Asked(_own_job(options.reward, options.answer, options.problem, options.row))
    else:
        if not options.reward or options.gold is None:
            raise UserError(f"--reward and --gold: both needed; the rewards are {', '.join(REWARDS)}")
        yield Asked(_job(options.reward, options.answer, gold_of(options.gold, options.reward, options.answer_format)))


def _job(reward: str, response: str, answer: str) -> Job:
    return Job(reward, {"response": response, "answer": answer})


def _check_own(options: argparse.Namespace) -> None:
    """Raises UserError for a reward that is neither known nor a function that may run."""
    package = options.allow_code
    if not is_own(options.reward):
        raise UserError(f"--reward={options.reward}: expected one of {', '.join(REWARDS)}, or package.function")
    if not package or not options.reward.startswith(f"{package}."):
        top = options.reward.split(".")[0]
        raise UserError(f"--reward={options.reward}: code from outside; to run it add --allow-code {top}")


def _own_job(reward: str, response: str, problem: str, row: dict[str, Any]) -> Job:
    return Job(OWN, {"response": response, "function": reward, "problem": problem, "row": row})


def _gym_job(options: argparse.Namespace, response: str, gold: str | None) -> Job:
    if not options.name:
        raise UserError("--name: needed with --task reasoning_gym, a data set such as leg_counting")
    asked = {"name": options.name, "index": options.index, "options": options.options, "gold": gold}
    return Job("reasoning_gym", {"response": response, **asked})


def gold_of(text: str, reward: str, how: str | None) -> str:
    """The reference answer as a corpus would read it.

    text: as it stands in a data file.
    reward: that compares it.
    how: answer_format; None: gsm8k where there is a ####, boxed where there is a box, else plain.
    Raises UserError if it holds no answer.
    """
    found = "gsm8k" if reward == "gsm8k" and "####" in text else "boxed" if "\\boxed" in text else "plain"
    gold = read_answer(text, how or found)
    if gold is None:
        raise UserError(f"--gold={text[:60]!r}: holds no answer, read as {how or found}; expected one to compare with")
    return gold


def _rows(options: argparse.Namespace) -> Iterator[Asked]:
    """Every row of a file. A run's samples.jsonl is graded as its config.yaml says, unless --reward is given."""
    reward = options.reward or _reward_of(options.file)
    try:
        lines = options.file.read_text(encoding="utf-8").strip().split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--file={options.file}: cannot be read ({error})") from error
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            response, answer = row["response"], row.get("answer", row.get("gold"))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise UserError(
                f"--file={options.file}: line {number} is no JSON object with response and answer"
            ) from error
        if options.name:
            job = _gym_job(options, response, answer)
        elif is_own(reward):
            job = _own_job(reward, response, str(row.get("prompt", "")), row)
        else:
            job = _job(reward, response, gold_of(str(answer), reward, options.answer_format))
        recorded = row.get("reward")
        yield Asked(job, number, recorded if isinstance(recorded, int | float) else None)


def _reward_of(file: Path) -> str:
    """The reward of the run that a file lies in. Raises UserError."""
    config = file.parent / CONFIG
    try:
        reward = str(read_yaml(config)["task"].get("reward"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # none there, or damaged
        reward = ""
    if reward not in REWARDS:
        raise UserError(f"--reward: needed for {file}; expected one of {', '.join(REWARDS)}, or --task and --name")
    return reward


def _show(one: Asked, outcome: Outcome, readings: dict[str, Any]) -> None:
    reward = f"{outcome.score:g}"
    if one.number:
        was = "" if one.recorded is None else f"  recorded {one.recorded:g}"
        both = "  ".join(f"{name} {_short(text)}" for name, text in readings.items())
        print(f"{reward}  line {one.number}{was}  {both}")
        return
    print(reward)
    for name, text in readings.items():
        print(f"{name:<8} {_short(text)}")
    if outcome.failure:
        print(f"{'failure':<8} {outcome.failure}: the grader gave up, which counts as 0")


def _short(text: object) -> str:
    line = printable(" ".join(str(text).split()))
    return line if len(line) <= SHOWN else line[: SHOWN - 1] + "…"


if __name__ == "__main__":
    sys.exit(main())
