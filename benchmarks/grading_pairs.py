"""The pairs that grading is judged by, as a page: `python -m benchmarks.grading_pairs` writes docs/grading.md.

Every pair of tests/tasks/answer_pairs.tsv is graded again; exits 1 if one is judged otherwise than the file says.
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

from harness import PROJECT
from harness.rewards.verifiers import VERIFIERS

PAIRS = PROJECT / "tests" / "tasks" / "answer_pairs.tsv"
FORM = {"math": "so \\boxed{{{}}}", "gsm8k": "so\n#### {}"}
VERDICT = {"1": "right", "0": "wrong"}
INTRODUCTION = """# Grading: every pair it is judged by

`math` puts the last closed `\\boxed{{}}` and the reference answer into one form (`harness/rewards/answers.py`), then
asks math-verify; `gsm8k` reads the number behind the last `####` (`harness/rewards/numbers.py`). A percentage is its
number where both sides or neither have the sign; beside a side without it, it also counts as a hundredth: `50\\%` is
`50`, and it is `1/2`.

```
python -m harness.grade --reward math --gold '50\\%' --answer 'so it is \\boxed{{50}}'
python -m harness.grade --reward gsm8k --gold '… #### 18' --answer '#### **$18**'
python -m harness.grade --task reasoning_gym --name leg_counting --index 3 --answer '<answer>12</answer>'
python -m harness.grade --file runs/…/samples.jsonl
```

prints the reward, then how both sides were read: what to type when a reward looks wrong.

{count} pairs, {unequal} of them unequal. Release 0.1.0 judged {before} of them wrongly, this one {now}; what 0.1.0
said is in the last column where it was wrong. Made by `python -m benchmarks.grading_pairs` from
`tests/tasks/answer_pairs.tsv`.

"""


def read_pairs() -> list[dict[str, str]]:
    """The rows of the file: reward, gold, answer, equal and in_0.1.0."""
    with PAIRS.open(encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def table(rows: list[dict[str, str]]) -> str:
    """The pairs as Markdown, a row each."""
    lines = ["| reward | reference answer | response's answer | | 0.1.0 said |", "|---|---|---|---|---|"]
    for row in rows:
        before = VERDICT[row["in_0.1.0"]] if row["in_0.1.0"] != row["equal"] else ""
        cells = (row["reward"], _code(row["gold"]), _code(row["answer"]), VERDICT[row["equal"]], before)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _code(text: str) -> str:
    """Text as Markdown shows it letter by letter, also in a table."""
    escaped = text.replace("|", "\\|")
    return f"`` {escaped} ``" if "`" in text else f"`{escaped}`" if text else ""


def misjudged(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """The pairs that grading judges otherwise than the file says."""
    return [
        row
        for row in rows
        if VERIFIERS[row["reward"]](FORM[row["reward"]].format(row["answer"]), row["gold"])[0] != float(row["equal"])
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=PROJECT / "docs" / "grading.md")
    rows, wrong = read_pairs(), misjudged(read_pairs())
    unequal = sum(row["equal"] == "0" for row in rows)
    before = sum(row["in_0.1.0"] != row["equal"] for row in rows)
    head = INTRODUCTION.format(count=len(rows), unequal=unequal, before=before, now=len(wrong))
    out: Path = parser.parse_args().out
    out.write_text(head + table(rows), encoding="utf-8")
    for row in wrong:
        print(f"{row['reward']}: {row['gold']} and {row['answer']} should be {VERDICT[row['equal']]}")
    print(f"{len(rows)} pairs, {len(wrong)} misjudged · {out}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
