"""Answers graded a second: GSM8K's rule and math-verify, two grading processes.

    python benchmarks/grading.py

`--check` exits 1 below 500 GSM8K answers a second. Responses are distinct and of the length of real ones.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks import targets
from harness.rewards.pool import Pool
from harness.rewards.process import Job

REASONING = "She has 16 eggs and eats 3 of them, so 16 - 3 = 13 remain, which she sells for $2 each. " * 8


def jobs(verifier: str, count: int) -> list[Job]:
    form = "{text}\n#### {n:,}" if verifier == "gsm8k" else "{text}\nThe answer is \\boxed{{\\frac{{{n}}}{{7}}}}."
    answer = "26" if verifier == "gsm8k" else "\\dfrac{26}{7}"
    texts = (form.format(text=REASONING, n=i) for i in range(count))
    return [Job(verifier, {"response": text, "answer": answer}) for text in texts]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    pool, rates = Pool(options.workers, 5.0), {}
    for verifier, count in (("gsm8k", 20_000), ("math", 500)):
        work = jobs(verifier, count)
        pool.run(jobs(verifier, 32))  # the workers are started and have imported what they need
        started = time.perf_counter()
        outcomes = pool.run(work)
        rates[verifier] = count / (time.perf_counter() - started)
        print(f"- {verifier}: {rates[verifier]:,.0f} answers/s, {sum(o.score == 1 for o in outcomes)} right")
    print(targets.table([targets.row("GSM8K answers graded", [rates["gsm8k"]], "≥ 500", "a second")]))
    return int(options.check and rates["gsm8k"] < 500)


if __name__ == "__main__":
    sys.exit(main())
