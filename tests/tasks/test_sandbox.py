"""What a confined process cannot do, and that no verifier of reasoning-gym that is offered runs what it grades."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

from harness.command.plan import plan
from harness.errors import UserError
from harness.rewards import sandbox
from harness.rewards.reasoning_gym import UNFIT, evaluates, refused
from tests.conftest import ROOT, SMALL

ATTACKS = {
    "start a program": "os.execv('/bin/true', ['true'])",
    "start a shell": "assert os.system('touch {path}') == 0",
    "start a child": "os.fork()",
    "start a thread": "threading.Thread(target=print).start()",
    "open a file for writing": "open('{path}', 'w')",
    "open a file for appending": "open('{path}', 'a')",
    "open a file without a name": "os.open('/tmp', os.O_RDWR | os.O_TMPFILE)",
    "open its own memory": "open('/proc/self/mem', 'r+b')",
    "make a folder": "os.mkdir('{path}')",
    "make a link": "os.symlink('/', '{path}')",
    "remove a file": "os.unlink('{kept}')",
    "rename a file": "os.rename('{kept}', '{path}')",
    "change a mode": "os.chmod('{kept}', 0o777)",
    "cut a file": "os.truncate('{kept}', 0)",
    "open a socket": "socket.socket()",
    "open a pair of sockets": "socket.socketpair()",
    "signal its parent": "os.kill(os.getppid(), 9)",
    "signal by a descriptor": "fcntl.fcntl(0, fcntl.F_SETOWN, os.getppid())",
    "raise its limits": "resource.setrlimit(resource.RLIMIT_CPU, (1, 1))",
    "look into its parent": "open('/proc/%d/mem' % os.getppid(), 'r+b')",
    "change its root": "os.chroot('/')",
    "share memory": "os.memfd_create('x')",
}


def confined(code: str) -> subprocess.CompletedProcess[str]:
    """A process that confines itself and then runs this."""
    start = "import fcntl, os, resource, socket, threading\nfrom harness.rewards.sandbox import confine\nconfine()\n"
    return subprocess.run(
        [sys.executable, "-c", start + code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=sandbox.environment(),
        check=False,
    )


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_confined_process_cannot(tmp_path: Path, attack: str) -> None:
    kept = tmp_path / "kept"
    kept.write_text("kept")
    code = ATTACKS[attack].format(path=tmp_path / "pwned", kept=kept)
    tried = confined(f"try:\n    {code}\nexcept Exception as error:\n    print(type(error).__name__)")
    allowed = {"PermissionError", "RuntimeError", "AssertionError", "OSError", "ValueError"}
    assert tried.stdout.strip() in allowed, tried
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert kept.read_text() == "kept"


def test_a_confined_process_computes_and_reads() -> None:
    tried = confined("import decimal, fractions, sqlite3\nprint(len(open('run.py').read()) > 0, 2**1000 % 7)")
    assert tried.stdout.split() == ["True", "2"], tried


def test_memory_is_limited() -> None:
    assert "MemoryError" in confined("bytearray(5 * 2**30)").stderr


def test_where_no_kernel_confines_sandbox_off_must_be_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["task=gsm8k_small", "dry_run=true"]
    monkeypatch.setattr(sandbox, "_why_not", lambda: "Unable to find libseccomp")
    with pytest.raises(UserError, match=r"Unable to find libseccomp.*add sandbox=off") as refusal:
        plan(words)
    assert "\n" not in str(refusal.value)
    assert plan([*words, "sandbox=off"]).cells[0].sandbox == "off"
    sandbox.switch(True)


def test_the_sandbox_is_no_part_of_what_a_run_is() -> None:
    on, off = (plan([f"sandbox={s}", "dry_run=true", *SMALL]).cells[0] for s in ("on", "off"))
    sandbox.switch(True)
    assert on.folder == off.folder


def test_no_offered_verifier_has_an_evaluator_in_its_source() -> None:
    from reasoning_gym.factory import DATASETS

    assert len(refused()) == 12
    for name, (cls, _) in DATASETS.items():
        source = inspect.getsource(cls.score_answer)
        assert name in refused() or not any(word in source for word in ("eval(answer", "exec(", "sympy", "parse_expr"))


def test_what_is_reached_through_others_counts() -> None:
    from reasoning_gym.arithmetic.bitwise_arithmetic import BitwiseArithmeticDataset

    assert evaluates(BitwiseArithmeticDataset) == "verify_solution calls eval"


@pytest.mark.parametrize("name", UNFIT)
def test_a_task_that_cannot_be_trained_on_is_refused_at_once(name: str) -> None:
    with pytest.raises(UserError, match=f"task.name={name}: not offered, for it {UNFIT[name]}"):
        plan(["task=reasoning_gym", f"task.name={name}", "dry_run=true", *SMALL])


@pytest.mark.parametrize("name", ["n_queens", "countdown", "puzzle24", "composite"])
def test_a_task_whose_verifier_evaluates_is_refused_by_name(name: str) -> None:
    with pytest.raises(UserError, match=f"task.name={name}: not offered.*calls .*choose another than") as refusal:
        plan(["task=reasoning_gym", f"task.name={name}", "dry_run=true", *SMALL])
    assert "\n" not in str(refusal.value)


def test_no_offered_verifier_runs_a_hostile_answer() -> None:
    command = [sys.executable, "-m", "tests.tasks.hostile_answers"]
    ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=sandbox.environment(), check=True)
    rows = [json.loads(line[line.index("{") :]) for line in ran.stdout.splitlines() if "{" in line]  # one prints a dot
    assert len(rows) == 106 - len(refused()) - len(UNFIT)
    for row in rows:
        assert not row.get("events"), row
        assert 1 not in row.get("scores", {}).values(), row
    assert {row["task"] for row in rows if "status" in row} <= {"coin_flip", "mahjong_puzzle", "zebra_puzzles"}  # slow


def test_the_watch_sees_an_answer_that_runs() -> None:
    command = [sys.executable, "-m", "tests.tasks.hostile_answers", "n_queens"]
    ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=sandbox.environment(), check=True)
    assert {"exec", "os.system"} <= set(json.loads(ran.stdout)["events"])
