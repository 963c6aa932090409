"""The pairs that grading is judged by, what counts as the answer in a response, and the command that explains it."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import pytest

from benchmarks.grading_pairs import misjudged, read_pairs, table
from harness.command import grade
from harness.errors import UserError
from harness.rewards.answers import last_boxed
from harness.rewards.numbers import leading_number, written
from harness.rewards.process import Job
from harness.rewards.verifiers import gsm8k, gsm8k_answer, math_parses
from harness.tasks.word_problems import FOLDER
from tests.conftest import ROOT
from tests.tiny import write_jsonl

PAIRS = read_pairs()


def test_every_pair_is_judged_rightly_and_none_newly_wrong() -> None:
    assert not misjudged(PAIRS)
    assert len(PAIRS) >= 400 and sum(row["equal"] == "0" for row in PAIRS) >= 100


def test_the_page_shows_these_pairs() -> None:
    assert table(PAIRS) in (ROOT / "docs" / "grading.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("\\boxed{2}", "2"),
        ("\\boxed 2", "2"),
        ("so $\\boxed 2$.", "2"),
        ("\\boxed {2}", "2"),
        ("\\boxed\n{2}", "2"),
        ("\\fbox{2}", "2"),
        ("\\fbox {2}", "2"),
        ("$\\boxed\\frac12$", "\\frac12"),
        ("\\boxed{1} and \\fbox{2}", "2"),
        ("\\boxed{1} and then \\boxed{\\frac{1}{", "1"),
        ("\\boxed{\\{1,2\\}}", "\\{1,2\\}"),
        ("\\boxed{\\left\\{x\\right.}", "\\left\\{x\\right."),
        ("\\boxed{a \\boxed{b}}", "b"),
        ("} \\boxed{3}", "3"),
        ("\\boxed{}", ""),
        ("\\boxed{1\\\\2}", "1\\\\2"),
        ("\\boxedx{1}", None),
        ("\\boxed", None),
        ("boxed{1}", None),
        ("\\boxed{1", None),
    ],
)
def test_the_last_closed_box(text: str, content: str | None) -> None:
    assert last_boxed(text) == content


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("a <<1+1=2>>2\n#### 1,000", "1000"),
        ("#### 5\n####", "5"),
        ("#### 5\n#### none", "5"),
        ("#### 1\n#### 2", "2"),
        ("####\n7", "7"),
        ("##### 7", "7"),
        ("#### 1/3", "1/3"),
        ("#### -1/8", "-0.125"),
        ("#### 2.50", "2.5"),
        ("#### 1e9999", None),
        ("#### " + "9" * 1001, None),
        ("no hashes: 5", None),
    ],
)
def test_the_number_after_the_hashes(text: str, number: str | None) -> None:
    assert gsm8k_answer(text) == number


def test_every_solution_of_the_toy_in_gsm8ks_shape_is_right() -> None:
    rows = [json.loads(line) for file in sorted(FOLDER.glob("*.jsonl")) for line in file.read_text().splitlines()]
    assert len(rows) == 2400
    for row in rows:
        gold = row["answer"].rpartition("#### ")[2]
        assert gsm8k_answer(row["answer"]) == gold and gsm8k(row["answer"], gold)[0] == 1


@pytest.mark.parametrize("value", ["0", "7", "-7", "0.5", "-0.125", "1234.5", "1/3", "-22/7", "0.05", "100"])
def test_a_written_number_is_read_back(value: str) -> None:
    assert written(Fraction(value)) == value
    assert leading_number(value) == Fraction(value)


NO_GOLD = ["", "nan", "NaN", "None", "N/A", "?", "-", "null", "\\text{None}", "\\frac{1}{", "}{", "1+", "\\sqrt{}"]
NO_GOLD += ["I do not know", "The proof is left to the reader", "the value of x is 5 or perhaps 6", "..."]
GOLD = [
    "5",
    "\\frac12",
    "A",
    "Evelyn",
    "\\text{(B)}",
    "(3,4).",
    "[1,2)",
    "\\{1,2\\}",
    "x^2+1",
    "50\\%",
    "2516_8",
    "6:30",
]
GOLD += [
    "36\\text{ square feet}",
    "5 miles per hour",
    "\\text{No solution}",
    "\\$18.90",
    "y = 2x+3",
    "4.5e33",
    "\\infty",
]


@pytest.mark.parametrize("gold", NO_GOLD)
def test_no_reference_answer(gold: str) -> None:
    assert math_parses(gold)[0] == 0


@pytest.mark.parametrize("gold", GOLD)
def test_a_reference_answer(gold: str) -> None:
    assert math_parses(gold)[0] == 1


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        (["--reward", "math", "--gold", "50\\%", "--answer", "so \\boxed{50}"], ["1", "50\\% → 50 percent", "50 → 50"]),
        (["--reward", "math", "--gold", "It is $\\boxed{7}$.", "--answer", "7"], ["0", "7 → 7", "no closed \\boxed"]),
        (["--reward", "gsm8k", "--gold", "2+3=5\n#### 5", "--answer", "#### **$5**"], ["1", "5 → 5", "last #### → 5"]),
        (["--reward", "exact", "--gold", " yes", "--answer", "no\x1b[31m"], ["0", "yes", "no"]),
    ],
)
def test_a_reward_is_explained(words: list[str], lines: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert grade.main(words) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == lines[0]
    assert said[1].startswith("gold") and lines[1] in said[1]
    assert said[2].startswith("answer") and lines[2] in said[2]
    assert "\x1b" not in "".join(said)


def test_a_reasoning_gym_reward_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--task", "reasoning_gym", "--name", "leg_counting", "--index", "3", "--answer"]
    assert grade.main([*words, "<answer>-1</answer>"]) == 0
    said = capsys.readouterr().out.splitlines()
    right = said[1].split()[1]
    assert grade.main([*words, f"hm <answer>{right}</answer>"]) == 0
    assert float(said[0]) < 1 and capsys.readouterr().out.splitlines()[0] == "1"


def test_the_samples_of_a_run_are_graded_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"response": "#### 5", "answer": "5", "reward": 1.0}, {"response": "#### 4", "answer": "5", "reward": 1.0}]
    samples = write_jsonl(tmp_path / "samples.jsonl", rows)
    assert grade.main(["--file", str(samples)]) == 2
    assert "--reward: needed" in capsys.readouterr().err
    for text in ("[", "task: 3", "task: {reward: [1]}", "\0"):
        (tmp_path / "config.yaml").write_text(text)
        assert grade.main(["--file", str(samples)]) == 2
        assert "--reward: needed" in capsys.readouterr().err
    (tmp_path / "config.yaml").write_text("task: {reward: gsm8k}\n")
    assert grade.main(["--file", str(samples)]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("1  line 1  recorded 1") and second.startswith("0  line 2  recorded 1")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--reward", "math", "--gold", "5"], "--answer: needed"),
        (["--answer", "5"], "--reward and --gold"),
        (["--reward", "gsm8k", "--gold", "#### none", "--answer", "5"], "holds no answer"),
        (["--task", "reasoning_gym", "--answer", "5"], "--name: needed"),
        (["--file", "/nowhere", "--reward", "math"], "cannot be read"),
    ],
)
def test_a_wrong_command_is_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert grade.main(words) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


def test_a_gold_is_read_as_a_corpus_reads_it() -> None:
    assert grade.gold_of("so\n#### 1,234", "gsm8k", None) == "1234"
    assert grade.gold_of("It is $\\boxed{x}$", "math", None) == "x"
    assert grade.gold_of("$x$", "math", None) == "x"
    with pytest.raises(UserError, match="read as boxed"):
        grade.gold_of("5", "math", "boxed")


def test_jobs_of_readings_stay_within_the_reply() -> None:
    from harness.rewards.pool import shared_pool

    job = Job("readings", {"verifier": "exact", "response": "x" * 200_000, "answer": "5"})
    (outcome,) = shared_pool(1, 5.0).run([job])
    assert outcome.details["answer"].startswith("xxx") and len(outcome.details["answer"]) < 5000
