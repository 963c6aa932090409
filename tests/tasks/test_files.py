"""Files as people have them: told apart by their bytes, read or refused in one line."""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.config import Config
from harness.errors import UserError
from harness.groups import ModelConfig
from harness.tasks import files, readable
from harness.tasks.columns import is_verl, messages_of, read_answer, value_of
from harness.tasks.corpus import Corpus, newlines
from harness.tasks.files import parsed, shards, split_of
from harness.tasks.prepare import Prepared, prepare
from harness.tasks.prompts import PromptEncoder
from tests.tiny import CHAT_TEMPLATE, gsm8k_rows, tokenizer, write_jsonl

ROWS = [{"question": f"Caf\u00e9 {i}: {i} + 2?", "answer": f"#### {i + 2}"} for i in range(12)]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
SETTINGS: dict[str, Any] = {
    "problem_column": "question", "answer_format": "gsm8k", "reward": "gsm8k", "validation_problems": 2
}  # fmt: skip


def as_csv(delimiter: str) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, ["question", "answer"], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(ROWS)
    return text.getvalue()


def as_parquet(rows: list[dict[str, Any]] = ROWS) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


GOOD: dict[str, tuple[str, bytes]] = {
    "UTF-8": ("a.jsonl", LINES.encode()),
    "a byte order mark": ("a.jsonl", LINES.encode("utf-8-sig")),
    "UTF-16": ("a.jsonl", LINES.encode("utf-16")),
    "UTF-16, big end first": ("a.jsonl", b"\xfe\xff" + LINES.encode("utf-16-be")),
    "UTF-16 without a mark": ("a.jsonl", LINES.encode("utf-16-le")),
    "UTF-32": ("a.jsonl", LINES.encode("utf-32")),
    "cp1252": ("a.jsonl", LINES.encode("cp1252")),
    "gzip": ("a.jsonl.gz", gzip.compress(LINES.encode())),
    "gzip by another name": ("a.jsonl", gzip.compress(LINES.encode())),
    "Windows' line ends": ("a.jsonl", LINES.replace("\n", "\r\n").encode()),
    "no name's ending": ("a", LINES.encode()),
    "a JSON array": ("a.json", json.dumps(ROWS, indent=2).encode()),
    "an array in one line": ("a.jsonl", json.dumps(ROWS).encode()),
    "an object that holds the rows": ("a.json", json.dumps({"version": 1, "data": ROWS}, indent=1).encode()),
    "CSV": ("a.csv", as_csv(",").encode()),
    "CSV with semicolons": ("a.csv", as_csv(";").encode()),
    "tabs": ("a.tsv", as_csv("\t").encode()),
    "CSV by another name": ("a.txt", as_csv(",").encode()),
    "CSV of a spreadsheet": ("a.csv", as_csv(",").encode("utf-8-sig")),
    "Parquet": ("a.parquet", as_parquet()),
    "Parquet in capitals": ("A.PARQUET", as_parquet()),
    "Parquet without an ending": ("a", as_parquet()),
    "Parquet, packed": ("a.parquet.gz", gzip.compress(as_parquet())),
}


@pytest.mark.parametrize("kind", GOOD)
def test_the_same_rows_whatever_the_file(tmp_path: Path, kind: str) -> None:
    name, content = GOOD[kind]
    (tmp_path / name).write_bytes(content)
    (tmp_path / "plain.jsonl").write_text(LINES)
    read = Corpus(path=str(tmp_path / name), **SETTINGS).load()
    plain = Corpus(path=str(tmp_path / "plain.jsonl"), **SETTINGS).load()
    assert read.splits == plain.splits and not read.unreadable
    assert read.provenance["train"]["sha256"] == plain.provenance["train"]["sha256"]


DEEP = "[" * 5000 + "]" * 5000
BAD: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "is empty"),
    "white space": (b" \n\n", "is empty"),
    "no text": (b"\x81\x8d" * 50, "not text: byte 0x81 at 0"),
    "a web page": (b"<!DOCTYPE html><html>", "a web page"),
    "an LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
    "zip": (b"PK\x03\x04" + b"\0" * 50, "a zip archive; unpack it"),
    "zstd": (b"\x28\xb5\x2f\xfd" + b"\0" * 50, "zstd -d"),
    "a pickle": (b"\x80\x04\x95" + b"\0" * 50, "would run code"),
    "a torn gzip": (gzip.compress(LINES.encode())[:-40], "gzip that cannot be unpacked"),
    "a torn Parquet": (as_parquet()[:-40], "no Parquet file that can be read"),
    "half a line": (LINES.encode()[:-20], "line 12 is not JSON"),
    "half an array": (json.dumps(ROWS).encode()[:-20], "is not JSON"),
    "numbers": (b"[1, 2]", "no list of JSON objects"),
    "a list a line": (b"{}\n[1]\n", "line 2 is no JSON object"),
    "prose": (b"Once upon a time", "line 1 is not JSON"),
    "depth": (f'{{"question": {DEEP}}}'.encode(), "nested more than 64 levels"),
    "some depth": (f'{{"question": {"[" * 100}{"]" * 100}}}'.encode(), "nested more than 64 levels"),
    "other columns": (b'{"q": "x", "a": {"b": 1}}\n', "has no column question; it has q, a.b"),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_cannot_be_read_is_said_in_one_line(tmp_path: Path, kind: str) -> None:
    content, message = BAD[kind]
    (tmp_path / "bad").write_bytes(content)
    with pytest.raises(UserError) as refusal:
        Corpus(path=str(tmp_path / "bad"), **SETTINGS).load()
    assert message in str(refusal.value) and "\n" not in str(refusal.value)
    assert str(refusal.value).startswith("task.path")


def test_what_grows_when_it_is_unpacked_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LARGEST", 1_000_000)
    (tmp_path / "bomb.jsonl.gz").write_bytes(gzip.compress(b" " * 3_000_000))
    table = pa.table({"question": pa.array(["x" * 1000] * 20_000).dictionary_encode(), "answer": ["#### 1"] * 20_000})
    pq.write_table(table, tmp_path / "bomb.parquet")
    (tmp_path / "large.jsonl").write_bytes(b" " * 1_000_001)
    assert (tmp_path / "bomb.parquet").stat().st_size < 200_000
    for name in ("bomb.jsonl.gz", "bomb.parquet", "large.jsonl"):
        with pytest.raises(UserError, match=r"more than|at most"):
            Corpus(path=str(tmp_path / name), **SETTINGS).load()


def test_odd_values_cost_their_row_only(tmp_path: Path) -> None:
    odd = ['{"question": "digits", "answer": %s}' % ("9" * 5000), '{"question": "nan", "answer": NaN}',
           '{"question": "bad \\ud800", "answer": "#### 1"}', '{"question": null, "answer": "#### 1"}',
           '{"question": ["a"], "answer": "#### 1"}', '{"answer": "#### 1"}']  # fmt: skip
    (tmp_path / "odd.jsonl").write_text(LINES + "\n".join(odd) + "\n")
    loaded = Corpus(path=str(tmp_path / "odd.jsonl"), max_dropped_share=0.5, **SETTINGS).load()
    assert len(loaded.unreadable) == 6 and sum(map(len, loaded.splits.values())) == 12
    said = "\n".join(loaded.unreadable)
    assert "train row 13: answer='999" in said and "train row 14: answer='None'" in said
    assert "train row 15: question='bad" in said


def test_a_folder_of_shards_is_read_in_order_and_by_split(tmp_path: Path) -> None:
    folder = tmp_path / "downloaded" / "data"
    folder.mkdir(parents=True)
    (tmp_path / "downloaded" / "README.md").write_text("# about")
    (tmp_path / "downloaded" / ".cache").mkdir()
    (tmp_path / "downloaded" / ".cache" / "train.jsonl").write_text("junk")
    (folder / "train-00001-of-00002.parquet").write_bytes(as_parquet(ROWS[6:]))
    (folder / "train-00000-of-00002.parquet").write_bytes(as_parquet(ROWS[:6]))
    write_jsonl(folder / "test-00000-of-00001.jsonl", gsm8k_rows(3))
    whole = str(tmp_path / "downloaded")
    task = Corpus(path=whole, test_path=whole, **SETTINGS)
    loaded = task.load()
    assert [len(loaded.splits[name]) for name in ("train", "validation", "test")] == [10, 2, 3]
    assert [f.name[:11] for f in shards(tmp_path / "downloaded", "train")] == ["train-00000", "train-00001"]
    with pytest.raises(UserError, match=r"task\.validation_path=.*no file of the split validation .*test, train"):
        Corpus(path=whole, validation_path=whole, **SETTINGS).load()
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no file that ends in"):
        Corpus(path=str(tmp_path / "empty"), **SETTINGS).load()
    assert split_of(Path("validation/part-0.parquet")) == "validation" and split_of(Path("trains.jsonl")) == ""


VERL = [
    {
        "data_source": "openai/gsm8k",
        "prompt": [{"role": "user", "content": f"{i} + 2? Think, then answer after ####."}],
        "reward_model": {"style": "rule", "ground_truth": str(i + 2)},
        "extra_info": {"index": i, "split": "train"},
    }
    for i in range(12)
]


def test_verls_layout_as_it_comes(tmp_path: Path) -> None:
    (tmp_path / "verl.parquet").write_bytes(as_parquet(VERL))
    task = Corpus(path=str(tmp_path / "verl.parquet"), prompt="{problem}\nReason.", **SETTINGS)
    (problem, *_) = task.split("validation")
    assert problem.prompt.endswith("Think, then answer after ####.") and problem.answer.isdigit()
    assert task.grade([problem], [f"#### {problem.answer}"])[0].correct
    dotted = {**SETTINGS, "problem_column": "prompt", "answer_column": "reward_model.ground_truth"}
    named = Corpus(path=str(tmp_path / "verl.parquet"), **{**dotted, "answer_format": "plain"})
    assert {p.id for p in named.split("validation")} == {p.id for p in task.split("validation")}


def test_dotted_columns_and_messages() -> None:
    row = {"a": {"b": {"c": 5}}, "a.b": 7}
    assert value_of(row, "a.b.c") == 5 and value_of(row, "a.b") == 7 and value_of(row, "a.x") is None
    assert messages_of([{"role": "user", "content": [{"type": "text", "text": "hi"}]}]) == (("user", "hi"),)
    for bad in (
        [],
        "hi",
        [{"role": "user"}],
        [{"role": "robot", "content": "x"}],
        [{"role": "assistant", "content": "x"}],
    ):
        assert messages_of(bad) is None
    assert not is_verl(VERL[0], ("prompt", "reward_model.ground_truth")) and is_verl(VERL[0], ("question", "answer"))


TURNS = [
    {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": f"What is {i}?"},
            {"role": "assistant", "content": "A number."},
            {"role": "user", "content": "And plus 2?"},
        ],
        "gold": i + 2,
    }
    for i in range(12)
]


def prepared(task: Corpus, template: str = "plain", prompt: str = "") -> Prepared:
    words = tokenizer(template == "chat")
    encode = PromptEncoder(words, ModelConfig(path="m", template=template, system_prompt=prompt))
    return prepare(Config(), task, encode, 300)


def test_several_turns_go_through_the_models_template(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "turns.jsonl", TURNS)
    settings = {**SETTINGS, "problem_column": "messages", "answer_column": "gold", "answer_format": "plain"}
    data = prepared(Corpus(path=str(path), **settings), "chat", "You are a poet.")
    assert CHAT_TEMPLATE
    shown = data.opening.partition("the first prompt: ")[2]
    assert shown.startswith("<system>Be brief.<user>What is ") and "<assistant>A number.<user>And plus 2?" in shown
    assert "poet" not in shown
    assert "10 problems to train on, to evaluate 2 validation (taken from the training problems" in data.opening
    with pytest.raises(UserError, match=r"several turns .*model.template=chat"):
        prepared(Corpus(path=str(path), **settings))


def test_a_newline_typed_in_a_shell_is_one_and_is_shown(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "train.jsonl", ROWS)
    data = prepared(Corpus(path=str(path), prompt="{problem}\\nReason, \\neq", **SETTINGS))
    assert data.task.train(1, [0])[0].prompt.endswith("?\nReason, \\neq")
    assert "?\\nReason, " in data.opening
    assert newlines("\\nabla \\nu \\ne x\\n") == "\\nabla \\nu \\ne x\n" and newlines("\\nNow \\next") == "\nNow \next"


def test_another_answer_to_the_same_problem_is_said(tmp_path: Path) -> None:
    rows = [*ROWS, {"question": ROWS[0]["question"], "answer": "#### 99"}, ROWS[1]]
    data = prepared(Corpus(path=str(write_jsonl(tmp_path / "t.jsonl", rows)), **SETTINGS))
    note, repeated = data.notes
    assert note.startswith("1 problems stand there again with another answer") and "'99' after '2'" in note
    assert repeated == "1 rows repeat a problem and its answer; each problem counts once"


def test_the_column_at_fault_is_named_not_the_number_of_validation_problems(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "t.jsonl", [{"question": {"text": "x"}, "answer": "#### 1"}] * 5)
    with pytest.raises(
        UserError, match=r"5 rows could not be read: train row 1: question=.*; train row 3: .*problem_column"
    ):
        Corpus(path=str(path), **SETTINGS).load()


@pytest.mark.parametrize(
    ("value", "answer"), [([["5"]], "5"), ([[]], None), (float("nan"), None), (float("inf"), None)]
)
def test_answers_in_lists_and_no_numbers(value: Any, answer: str | None) -> None:
    assert read_answer(value, "plain") == answer


def test_reference_answers_are_checked_once_for_their_contents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAGRANGE_CACHE", str(tmp_path / "cache"))
    tried: list[int] = []
    real: Callable[..., list[bool]] = readable._try

    def counted(answers: Any, workers: int, timeout_s: float) -> list[bool]:
        tried.append(len(answers))
        return real(answers, workers, timeout_s)

    monkeypatch.setattr(readable, "_try", counted)
    golds = ["5", "nan", None, "\\frac{1}{2}", "5", "I do not know"]
    assert readable.comparable(golds, 1, 5.0) == [True, False, False, True, True, False]
    readable._tried.cache_clear()  # as a new process
    assert readable.comparable(golds[::-1], 1, 5.0) == [False, True, True, False, False, True]
    assert tried == [4]
    (file,) = (tmp_path / "cache").rglob("*.json")
    file.write_text("[tru")
    readable._tried.cache_clear()
    assert readable.comparable(golds, 1, 5.0)[0] and tried == [4, 4]
    monkeypatch.setenv("LAGRANGE_CACHE", "/proc/nowhere")
    readable._tried.cache_clear()
    assert readable.comparable(golds, 1, 5.0)[0] and sys.stderr is not None


def test_text_that_looks_like_csv_is_not_taken_for_it() -> None:
    with pytest.raises(files.Unreadable, match="line 1 is not JSON"):
        parsed("1,2\n3,4\n", "a.txt")
