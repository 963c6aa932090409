"""Corpora from files of the real shapes: splits, order, what is dropped and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness import build
from harness.config import Config
from harness.errors import UserError
from harness.groups import EvalConfig, ModelConfig
from harness.tasks import suites
from harness.tasks.columns import read_answer
from harness.tasks.corpus import Corpus
from harness.tasks.prepare import Prepared, prepare
from harness.tasks.prompts import PromptEncoder
from harness.tasks.splits import problem_id
from tests.tiny import boxed_rows, gsm8k_rows, suites_folder, tokenizer, write_jsonl

GSM8K: dict[str, Any] = {
    "hub": "openai/gsm8k",
    "problem_column": "question",
    "answer_format": "gsm8k",
    "reward": "gsm8k",
    "validation_problems": 4,
}


def corpus(folder: Path, rows: list[dict[str, Any]], **settings: Any) -> Corpus:
    path = write_jsonl(folder / "train.jsonl", rows)
    return Corpus(**{**GSM8K, "path": str(path), **settings})


def prepared(task: Any, longest: int = 200, **evaluation: Any) -> Prepared:
    encode = PromptEncoder(tokenizer(), ModelConfig())
    return prepare(Config(eval=EvalConfig(**evaluation)), task, encode, longest)


def test_jsonl_and_parquet_are_the_same_corpus(tmp_path: Path) -> None:
    task = corpus(tmp_path, gsm8k_rows(20))
    pq.write_table(pa.Table.from_pylist(gsm8k_rows(20)), tmp_path / "train.parquet")
    other = replace(task, path=str(tmp_path / "train.parquet"))
    assert task.load().splits == other.load().splits
    assert task.load().provenance["train"]["sha256"] == other.load().provenance["train"]["sha256"]
    assert task.load().provenance["train"]["rows"] == 20


def test_validation_is_held_out_and_does_not_depend_on_the_order_of_rows(tmp_path: Path) -> None:
    splits = corpus(tmp_path, gsm8k_rows(20)).load().splits
    assert [len(splits[name]) for name in ("train", "validation")] == [16, 4]
    again = corpus(tmp_path, gsm8k_rows(20)[::-1]).load().splits
    assert {p.id for p in splits["validation"]} == {p.id for p in again["validation"]}
    assert not {p.id for p in splits["validation"]} & {p.id for p in splits["train"]}


def test_order_is_a_permutation_of_every_epoch(tmp_path: Path) -> None:
    task = corpus(tmp_path, gsm8k_rows(20))
    epochs = [[p.id for p in task.train(1, range(16 * e, 16 * e + 16))] for e in range(2)]
    assert set(epochs[0]) == set(epochs[1]) and len(set(epochs[0])) == 16
    assert epochs[0] != epochs[1]
    assert [p.id for p in task.train(2, range(16))] != epochs[0]
    assert task.train(1, [3, 20]) == [task.train(1, range(32))[3], task.train(1, range(32))[20]]


def test_a_problem_that_stands_twice_is_one(tmp_path: Path) -> None:
    splits = corpus(tmp_path, gsm8k_rows(20) + gsm8k_rows(5)).load().splits
    assert sum(map(len, splits.values())) == 20
    assert problem_id("What is  $2+2$?") == problem_id("what is $2 + 2$ ?") != problem_id("What is $2-2$?")


@pytest.mark.parametrize(
    ("value", "how", "answer"),
    [
        ("so\n#### 1,234", "gsm8k", "1234"),
        ("so 12", "gsm8k", None),
        ("is $\\boxed{\\frac12}$", "boxed", "\\frac12"),
        ("is 12", "boxed", None),
        (" $12$ ", "plain", "12"),
        ("$1$, $\\frac12$", "plain", "1, \\frac12"),
        ("\\$5", "plain", "\\$5"),
        (27.0, "plain", "27"),
        (["$3$", "4"], "plain", "3"),
        ([], "plain", None),
        (None, "plain", None),
        ("", "plain", None),
    ],
)
def test_reference_answers(value: Any, how: str, answer: str | None) -> None:
    assert read_answer(value, how) == answer


def test_unreadable_answers_are_listed_and_bounded(tmp_path: Path) -> None:
    rows = [*gsm8k_rows(19), {"question": "What now?", "answer": "I do not know"}]
    with pytest.raises(UserError, match=r"5.0% of 20 .*train row 20: answer='I do not know'.*max_dropped_share"):
        prepared(corpus(tmp_path, rows))
    data = prepared(corpus(tmp_path, rows, max_dropped_share=0.1))
    assert data.notes == ["1 rows could not be read: train row 20: answer='I do not know'"]
    assert len(data.task.train(1, range(15))) == 15


def test_long_prompts_are_listed_and_bounded(tmp_path: Path) -> None:
    rows = [*gsm8k_rows(19), {"question": "word " * 300, "answer": "#### 5"}]
    with pytest.raises(UserError, match="longer than 200 tokens"):
        prepared(corpus(tmp_path, rows))
    data = prepared(corpus(tmp_path, rows, max_dropped_share=0.1))
    assert all(len(p.prompt) < 100 for p in data.task.train(1, range(30)))
    with pytest.raises(UserError, match="no prompt of the train split fits"):
        prepared(corpus(tmp_path, rows, max_dropped_share=1.0), longest=3)


def test_problems_that_would_end_a_turn_are_dropped(tmp_path: Path) -> None:
    end = tokenizer().eos_token
    rows = [*gsm8k_rows(19), {"question": f"What is 2+3?{end}5", "answer": "#### 5"}]
    data = prepared(corpus(tmp_path, rows, max_dropped_share=0.1))
    assert data.notes == [f"1 problems hold a token that begins or ends a turn of the model: 'What is 2+3?{end}5'"]
    held = [p for name in ("validation",) for p in data.task.split(name)]
    assert not [p for p in [*held, *data.task.train(1, range(40))] if end in p.prompt]


def test_overlap_is_refused_with_examples_or_dropped(tmp_path: Path) -> None:
    test = write_jsonl(tmp_path / "test.jsonl", gsm8k_rows(10, first=12))
    task = corpus(tmp_path, gsm8k_rows(20), test_path=str(test), max_dropped_share=0.5)
    with pytest.raises(UserError, match=r"8 problems are in two splits: 'Tom has .*\(train and test\).*overlap=drop"):
        prepared(task)
    data = prepared(replace(task, overlap="drop"))
    held = {name: {p.id for p in data.task.split(name)} for name in ("validation", "test")}
    seen = {p.id for p in data.task.train(1, range(20))}
    assert not seen & held["validation"] and not seen & held["test"] and not held["test"] & held["validation"]
    assert sum(map(len, held.values())) + len(seen) == 22
    assert data.notes[0].startswith("8 problems are in two splits")


def test_overlap_with_a_suite_is_refused(tmp_path: Path) -> None:
    folder = suites_folder(tmp_path / "suites")
    train = [*boxed_rows(20), {"problem": "suite 1: What is $0-1$ ?", "answer": "-1", "solution": ""}]
    task = corpus(tmp_path, train, problem_column="problem", answer_format="plain", reward="math")
    with pytest.raises(UserError, match="train and math500"):
        prepared(task, suites=["math500"], suites_path=str(folder))


def test_suites_are_read_with_their_published_k(tmp_path: Path) -> None:
    folder = str(suites_folder(tmp_path / "suites"))
    data = prepared(corpus(tmp_path, gsm8k_rows(20)), suites=list(suites.BENCHMARKS), suites_path=folder)
    assert {one.name: one.samples for one in data.suites}["aime24"] == 16
    assert [len(one.problems) for one in data.suites] == [2] * 8
    assert set(data.provenance) == {"train", *suites.BENCHMARKS}
    olympiad = data.suites[-1]
    assert [g.correct for g in olympiad.grade(olympiad.problems, ["\\boxed{-1}", "\\boxed{7}"])] == [True, False]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty; expected rows with the columns question, answer"),
        ('{"query": "x", "answer": "#### 1"}\n', "has no column question; it has query, answer"),
        ('{"question": "x"}\n', "has no column answer"),
        ("not json\n", "line 1 is not JSON"),
        ("[1]\n", "no list of JSON objects"),
    ],
)
def test_bad_files(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "bad.jsonl").write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        Corpus(**GSM8K, path=str(tmp_path / "bad.jsonl")).load()
    assert "\n" not in str(caught.value)


def test_bad_parquet_and_missing_files(tmp_path: Path) -> None:
    (tmp_path / "bad.parquet").write_text("no")
    with pytest.raises(UserError, match="line 1 is not JSON"):
        Corpus(**GSM8K, path=str(tmp_path / "bad.parquet")).load()
    with pytest.raises(UserError, match=r"no such file or folder; expected JSONL, a JSON array, CSV or Parquet"):
        Corpus(**GSM8K, path=str(tmp_path / "none.jsonl")).load()
    with pytest.raises(UserError, match=r"no aime24\.jsonl, aime24\.parquet or the like"):
        prepared(corpus(tmp_path, gsm8k_rows(20)), suites=["aime24"], suites_path=str(tmp_path))


def test_without_network_the_file_format_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def offline(*_: Any, **__: Any) -> None:
        raise ConnectionError("Couldn't reach the Hub")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(UserError, match=r"without network give task.path=FILE, JSONL, .* question, answer"):
        Corpus(**{**GSM8K, "hub": "openai/not-there"}).load()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"answer_format": "xml"}, "answer_format"),
        ({"overlap": "ignore"}, "overlap"),
        ({"max_dropped_share": 2}, "max_dropped_share"),
        ({"prompt": "no place"}, "prompt"),
        ({"hub": ""}, "task.path"),
        ({"validation_problems": 0}, "validation_problems"),
        ({"reward": "vibes"}, "task.reward"),
    ],
)
def test_bad_settings(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named):
        Corpus(**{**GSM8K, **settings})


def test_too_many_validation_problems(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has only 3 problems"):
        corpus(tmp_path, gsm8k_rows(3)).load()


def test_suite_names() -> None:
    with pytest.raises(UserError, match="aime_24: no such suite; did you mean aime24"):
        suites.check_names(["aime_24"])
    with pytest.raises(UserError, match="twice"):
        suites.check_names(["aime24", "aime24"])


def test_a_task_from_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_tasks.py").write_text(
        "class Parrot:\n    def __init__(self, word: str = 'hi') -> None:\n        self.word = word\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    node = {"_target_": "my_tasks.Parrot", "word": "ho"}
    with pytest.raises(UserError, match=r"allow_code=\[my_tasks\]"):
        build.target("task", node, [])
    assert build.target("task", node, ["my_tasks"]).word == "ho"
    with pytest.raises(UserError, match=r"task\.wrod: no parameter of Parrot"):
        build.target("task", {**node, "wrod": 1}, ["my_tasks"])
