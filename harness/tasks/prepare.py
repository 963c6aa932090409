"""The task and the suites of a run, loaded and checked: before anything is written, and again where it runs.

Splits must not share a problem, prompts must fit the model. What had to be dropped is counted and listed; above
`task.max_dropped_share` of a corpus the run is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.config import Config
from harness.errors import UserError, printable
from harness.tasks.corpus import Corpus, Loaded
from harness.tasks.interface import Task
from harness.tasks.prompts import PromptEncoder
from harness.tasks.splits import SHOWN, UNREADABLE, check_share, in_order
from harness.tasks.suites import Suite, check_names, suite
from harness.types import Grade, Problem

LONGEST_SHOWN = 400  # characters of the first prompt
PROBED = 64  # problems of an endless task whose prompts are measured


@dataclass(frozen=True)
class InMemory:
    """A corpus after the checks, as a task.

    corpus: grades the answers.
    splits: the problems that were not dropped, "train" among them.
    """

    corpus: Corpus
    splits: dict[str, list[Problem]]

    def train(self, seed: int, indices: Sequence[int]) -> list[Problem]:
        """The training problems with these consumption indices."""
        return in_order(self.splits["train"], seed, indices)

    def split(self, name: str) -> list[Problem]:
        """All problems of a split."""
        return self.splits[name]

    def evaluation_splits(self) -> list[str]:
        """Names of the held-out splits, "validation" first."""
        return [name for name in self.splits if name != "train"]

    def grade(self, problems: Sequence[Problem], responses: Sequence[str]) -> list[Grade]:
        """One grade for each response."""
        return self.corpus.grade(problems, responses)


@dataclass(frozen=True)
class Prepared:
    """The data of a run, ready to use.

    task: to train and evaluate on.
    suites: benchmarks to evaluate on, too.
    provenance: revision, number of rows and content hash of every source, for the manifest.
    notes: what was dropped, a line each.
    opening: how many problems there are, and the first prompt as the model sees it.
    """

    task: Task
    suites: list[Suite] = field(default_factory=list)
    provenance: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    opening: str = ""


def prepare(config: Config, task: Task, encode: PromptEncoder, longest_prompt: int) -> Prepared:
    """Loads and checks the data of a run; writes nothing.

    config: of the run; names the suites.
    task: as the configuration describes it.
    encode: problem → token ids.
    longest_prompt: tokens that a prompt may have.
    Raises UserError for data that cannot be read or used.
    """
    suites = _suites(config, encode, longest_prompt)
    notes = [f"suite {one.name}: {len(one.unreadable)} unreadable answers left out" for one in suites if one.unreadable]
    provenance = {one.name: one.provenance for one in suites}
    if not isinstance(task, Corpus):
        held_out = [problem for name in task.evaluation_splits() for problem in task.split(name)]
        seen = task.train(config.seed, range(PROBED))
        _refuse_long([*held_out, *seen], encode, longest_prompt, "task")
        return Prepared(task, suites, provenance, notes, _opening(config, task, suites, encode))
    loaded = task.load()
    splits, dropped = _fitting(task, loaded, suites, encode, longest_prompt)
    ready = InMemory(task, splits)
    opening = _opening(config, ready, suites, encode)
    return Prepared(ready, suites, loaded.provenance | provenance, notes + dropped, opening)


def _opening(config: Config, task: Task, suites: Sequence[Suite], encode: PromptEncoder) -> str:
    """How many problems there are to train and evaluate on, and the first prompt, its line breaks as \\n."""
    train = f"{len(task.splits['train'])} problems" if isinstance(task, InMemory) else "problems without end"
    taken = isinstance(task, InMemory) and "validation" not in task.corpus.sources()
    source = {"validation": " (taken from the training problems: task.validation_problems)"} if taken else {}
    sizes = [f"{len(task.split(name))} {name}{source.get(name, '')}" for name in task.evaluation_splits()]
    counted = ", ".join([*sizes, *(f"{len(one.problems)} {one.name}" for one in suites)])
    shown = printable(encode.text(task.train(config.seed, [0])[0])).replace("\n", "\\n")
    short = shown if len(shown) <= LONGEST_SHOWN else f"{shown[: LONGEST_SHOWN // 2]} … {shown[-LONGEST_SHOWN // 2 :]}"
    return f"{train} to train on, to evaluate {counted}; the first prompt: {short}"


def _suites(config: Config, encode: PromptEncoder, longest: int) -> list[Suite]:
    check_names(config.eval.suites)
    suites = [suite(name, config.eval.suites_path) for name in config.eval.suites]
    for one in suites:
        _refuse_long(one.problems, encode, longest, f"suite {one.name}")
    return suites


def _fitting(
    task: Corpus, loaded: Loaded, suites: Sequence[Suite], encode: PromptEncoder, longest: int
) -> tuple[dict[str, list[Problem]], list[str]]:
    """The splits without what must be dropped, and a note for each reason. Raises UserError above the share."""
    splits, shared = _apart(loaded, suites)
    if shared and task.overlap == "refuse":
        raise UserError(
            f"task: {len(shared)} problems are in two splits: {'; '.join(shared[:SHOWN])}; "
            "keep them for evaluation only with task.overlap=drop or give other files"
        )
    control = {p.id: p for problems in splits.values() for p in problems if encode.holds_control_token(p)}
    splits = {name: [p for p in problems if p.id not in control] for name, problems in splits.items()}
    splits, long = _short(splits, encode, longest)
    reasons = {
        UNREADABLE: loaded.unreadable,
        "problems hold a token that begins or ends a turn of the model": [_shorten(p) for p in control.values()],
        f"prompts are longer than {longest} tokens": [_shorten(p) for p in long],
        "problems are in two splits": shared,
    }
    notes = check_share(reasons, loaded.rows, task.max_dropped_share)
    if loaded.conflicts:
        what = "problems stand there again with another answer, the first is kept"
        notes.append(f"{len(loaded.conflicts)} {what}: {'; '.join(loaded.conflicts[:SHOWN])}")
    if loaded.repeated:
        notes.append(f"{loaded.repeated} rows repeat a problem and its answer; each problem counts once")
    return splits, notes


def _apart(loaded: Loaded, suites: Sequence[Suite]) -> tuple[dict[str, list[Problem]], list[str]]:
    """Splits without what a more important one has (suites and test, then validation, then training), and how
    each problem that was in two is to be shown."""
    taken = {problem.id: one.name for one in suites for problem in one.problems}
    splits: dict[str, list[Problem]] = {}
    shared: list[str] = []
    for name in reversed(loaded.splits):
        problems = loaded.splits[name]
        if name != "test":  # a task's test set may well be one of the suites
            shared += [f"{_shorten(p)} ({name} and {taken[p.id]})" for p in problems if p.id in taken]
            problems = [p for p in problems if p.id not in taken]
        taken |= {p.id: name for p in problems}
        splits[name] = problems
    return {name: splits[name] for name in loaded.splits}, shared


def _short(
    splits: dict[str, list[Problem]], encode: PromptEncoder, longest: int
) -> tuple[dict[str, list[Problem]], list[Problem]]:
    """Splits without the problems whose prompts are too long, and those. Raises UserError for an empty split."""
    long = {p.id: p for problems in splits.values() for p in problems if len(encode(p)) > longest}
    short = {name: [p for p in problems if p.id not in long] for name, problems in splits.items()}
    for name, problems in short.items():
        if not problems:
            raise UserError(
                f"task: no prompt of the {name} split fits in {longest} tokens; "
                "raise rollout.max_prompt_tokens or take a model with more positions"
            )
    return short, list(long.values())


def _refuse_long(problems: Sequence[Problem], encode: PromptEncoder, longest: int, what: str) -> None:
    for problem in problems:
        length = len(encode(problem))
        if not 0 < length <= longest:
            raise UserError(
                f"{what}: a prompt of {length} tokens ({_shorten(problem)}), expected 1 to {longest}; raise "
                "rollout.max_prompt_tokens, lower rollout.max_new_tokens or take a model with more positions"
            )


def _shorten(problem: Problem) -> str:
    text = " ".join(str(problem.data.get("problem", problem.prompt)).split())
    return repr(text if len(text) <= 60 else text[:57] + "...")
