"""Verifiers against hand-graded answers, and hostile answers against the clock."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence

import pytest

from harness.errors import UserError
from harness.rewards import process
from harness.rewards.answers import last_boxed, last_tagged
from harness.rewards.pool import Pool
from harness.rewards.process import Job, Outcome
from harness.rewards.reward import Reward
from harness.rewards.verifiers import exact, gsm8k, gsm8k_answer
from harness.types import Problem

LIMIT_S = 1.0


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    made = Pool(2, LIMIT_S)
    yield made
    made.close()


@pytest.fixture(scope="module")
def patient_pool() -> Iterator[Pool]:
    """For answers that must be right on a busy machine too."""
    made = Pool(1, 30.0)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("response", "answer", "score"),
    [
        ("3+2=5\n#### 5", "5", 1),
        ("#### 4\nno, #### 5", "5", 1),
        ("#### 5\nno, #### 4", "5", 0),
        ("#### $1,234.50", "1234.5", 1),
        ("#### -07", "-7", 1),
        ("#### 5.0", "5", 1),
        ("#### .5", "0.5", 1),
        ("5", "5", 0),
        ("####", "5", 0),
        ("#### ٥", "5", 0),
        ("", "5", 0),
    ],
)
def test_gsm8k_rule(response: str, answer: str, score: float) -> None:
    assert gsm8k(response, answer)[0] == score


def test_extraction() -> None:
    assert gsm8k_answer("a <<1+1=2>>2\n#### 1,000") == "1000"
    assert last_boxed("\\boxed{1} then \\boxed{\\frac{1}{2}}.") == "\\frac{1}{2}"
    assert last_boxed("\\boxed{1") is None
    assert last_boxed("1") is None
    assert last_tagged("<answer>1</answer><answer>2</answer>") == "2"
    assert last_tagged("</answer><answer>2") is None
    assert exact(" yes\n", "yes") == (1.0, True, {})


@pytest.mark.parametrize(
    ("response", "answer", "score"),
    [
        ("so \\boxed{\\frac{1}{2}}", "0.5", 1),
        ("so \\boxed{10/2}", "5", 1),
        ("\\boxed{4} hm \\boxed{5}", "5", 1),
        ("\\boxed{5} hm \\boxed{4}", "5", 0),
        ("\\boxed{(1,2]}", "(1,2]", 1),
        ("\\boxed{x^2+2x+1}", "(x+1)^2", 1),
        ("the answer is 5", "5", 0),
        ("\\boxed{}", "5", 0),
    ],
)
def test_math_verify(patient_pool: Pool, response: str, answer: str, score: float) -> None:
    (outcome,) = patient_pool.run([Job("math", {"response": response, "answer": answer})])
    assert (outcome.score, outcome.failure) == (score, "")


HOSTILE = {
    "tower": "\\boxed{99**98**97}",
    "tower in LaTeX": "\\boxed{99^{98^{97}}}",
    "factorial": "\\boxed{999999999!}",
    "a megabyte of digits": "9" * 1_000_000,
    "a megabyte of boxed digits": "\\boxed{" + "9" * 1_000_000 + "}",
    "a thousand digits": "\\boxed{" + "9" * 999 + "}",
    "code": "\\boxed{__import__('os').system('touch pwned')}",
    "deep parentheses": "\\boxed{" + "(" * 450 + "5" + ")" * 450 + "}",
    "deep braces": "\\boxed{" + "{" * 450 + "5" + "}" * 450 + "}",
    "deep fractions": "\\boxed{" + "\\frac{1}{" * 90 + "2" + "}" * 90 + "}",
    "unclosed boxes": "\\boxed{" * 100_000,
    "unicode digits": "\\boxed{٥}",
    "full-width digits": "\\boxed{５}",
    "surrogate": "\\boxed{\ud800}",
    "control characters": "\\boxed{\x00\x1b[31m}",
    "format string": "\\boxed{%s%n{0}{x}}",
}


@pytest.mark.parametrize("verifier", ["math", "gsm8k", "exact"])
def test_hostile_answers_get_nothing_within_the_limit(pool: Pool, verifier: str) -> None:
    pool.run([Job(verifier, {"response": "", "answer": "5"})])  # the workers are up
    for name, response in HOSTILE.items():
        started = time.monotonic()
        (outcome,) = pool.run([Job(verifier, {"response": response, "answer": "5"})])
        assert outcome.score == 0, name
        # Asked twice, of two workers; a busy machine gives a second of CPU time in several of the clock.
        assert time.monotonic() - started < 2 * (LIMIT_S + 15), name


def test_a_time_out_costs_its_own_answer_only(pool: Pool) -> None:
    good = Job("math", {"response": "\\boxed{5}", "answer": "5"})
    hang = Job("math", {"response": "\\boxed{99^{98^{97}}}", "answer": "5"})
    outcomes = pool.run([good, hang, good, good])
    assert [o.score for o in outcomes] == [1, 0, 1, 1]
    assert [o.failure for o in outcomes] == ["", "timeout", "", ""]


def test_a_crash_is_a_counted_failure(pool: Pool) -> None:
    (outcome,) = pool.run([Job("gsm8k", {"response": None, "answer": "5"})])
    assert (outcome.score, outcome.failure) == (0.0, "TypeError")


RIGHT = Job("gsm8k", {"response": "#### 5", "answer": "5"})


def test_a_dead_worker_is_replaced() -> None:
    pool = Pool(1, LIMIT_S)
    assert pool.run([RIGHT])[0].score == 1
    pool._workers[0].process.kill()
    pool._workers[0].process.wait()
    assert [o.score for o in pool.run([RIGHT, RIGHT])] == [1, 1]
    pool.close()


@pytest.mark.parametrize("struck", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "suspended"])
def test_a_worker_struck_while_it_grades_costs_no_answer(struck: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "LEAST_WALL_S", 5.0)
    pool = Pool(2, 0.4)
    pool.run([RIGHT] * 32)
    victims = [worker.process.pid for worker in pool._workers]
    killer = threading.Timer(0.05, lambda: [os.kill(pid, struck) for pid in victims])
    killer.start()
    outcomes = pool.run([RIGHT] * 20_000)
    killer.join()
    assert {(o.score, o.failure) for o in outcomes} == {(1.0, "")}
    pool.close()


def test_a_worker_killed_while_it_starts_is_started_again() -> None:
    pool = Pool(1, LIMIT_S)
    pool._start_workers(1)
    pool._workers[0].process.kill()
    assert pool.run([RIGHT])[0].score == 1
    pool.close()


REPLY = {"index": 3, "nonce": "abc", "score": 1.0, "formatted": True}
ODD = {
    "no JSON": b"1.0",
    "not an object": b"[1.0]",
    "another index": {**REPLY, "index": 2},
    "another nonce": {**REPLY, "nonce": "abd"},
    "no nonce": {"index": 3, "score": 1.0},
    "more than all": {**REPLY, "score": 2.0},
    "not a number": {**REPLY, "score": float("nan")},
    "text for a score": {**REPLY, "score": "1.0"},
    "an unknown field": {**REPLY, "more": 1},
    "a failure that steers a terminal": {**REPLY, "failure": "\x1b[31m"},
    "a failure that is no text": {**REPLY, "failure": [1]},
    "deep": b"[" * 50_000,
}


@pytest.mark.parametrize("kind", ODD)
def test_an_odd_reply_counts_for_nothing(kind: str) -> None:
    line = ODD[kind]
    asked = process.Item(3, "abc", b"")
    assert process.parsed(line if isinstance(line, bytes) else json.dumps(line).encode(), asked) is None
    assert process.parsed(json.dumps(REPLY).encode(), asked) == Outcome(1.0, True)


def test_a_forging_worker_crashes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that writes one reply too many, of its own making, and goes on."""
    forged = "print('{}')\ninput()\nwhile True: print('{\"score\": 1.0, \"formatted\": true}', flush=True)"
    start = process.GradingProcess._start

    def start_forger(self: process.GradingProcess, command: Sequence[str]) -> None:
        monkeypatch.setattr(process.GradingProcess, "_start", start)  # the first worker only
        start(self, [sys.executable, "-uc", forged])

    monkeypatch.setattr(process.GradingProcess, "_start", start_forger)
    pool = Pool(2, LIMIT_S)
    wrong = Job("gsm8k", {"response": "#### 4", "answer": "5"})
    outcomes = pool.run([wrong, RIGHT] * 100)
    assert [o.score for o in outcomes] == [0, 1] * 100
    assert not any(o.failure for o in outcomes)
    pool.close()


def test_order_and_chunks(pool: Pool) -> None:
    jobs = [Job("gsm8k", {"response": f"{'x' * (i * 97 % 5000)} #### {i % 3}", "answer": "1"}) for i in range(1500)]
    assert [o.score for o in pool.run(jobs)] == [float(i % 3 == 1) for i in range(1500)]


def test_format_reward_is_no_accuracy() -> None:
    problems = [Problem("a", "a", "5")] * 3
    grades = Reward("gsm8k", format_reward=0.1).grade(problems, ["#### 5", "#### 4", "4"])
    assert [g.reward for g in grades] == [1.1, 0.1, 0.0]
    assert [g.correct for g in grades] == [True, False, False]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"verifier": "maths"}, "task.reward"),
        ({"timeout_s": 0}, "timeout"),
        ({"workers": 0}, "workers"),
        ({"format_reward": -1}, "format_reward"),
    ],
)
def test_bad_settings(settings: dict[str, object], named: str) -> None:
    with pytest.raises(UserError, match=named):
        Reward(**settings)  # type: ignore[arg-type]
