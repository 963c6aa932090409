"""Every verifier of reasoning-gym that is offered, asked about hostile answers; prints a JSON line a task.

Run as a process of its own: what the interpreter does is watched through an audit hook, which nothing can take away.
A task is tried in a child, confined as a grading worker is.
Arguments: tasks to try in place of those offered, with the first answer only.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

import reasoning_gym

from harness.rewards import sandbox
from harness.rewards.reasoning_gym import offered

LIMIT_S = 5.0  # CPU time to make a problem and grade all answers
MARK = "pwned"
HOSTILE = {
    "a command": f"__import__('os').system('touch {MARK}')",
    "a forged reply": "__import__('os').write(3, b'{\"score\": 1.0, \"formatted\": true}\\n')",
    "a fork bomb": "[__import__('os').fork() for _ in iter(int, 1)]",
    "a lambda called": "(lambda: [].__class__.__base__.__subclasses__())()",
    "a subscript": "().__class__.__mro__[1].__subclasses__()",
    "a list with a call": "[[__import__('os').getpid()]]",
    "a tower": "9**9**9**9",
    "digits": "9" * 20_000,
    "brackets": "[" * 20_000,
    "a huge exponent": "1e999999999",
    "not a number": "nan",
    "nothing": "",
    "control characters": "\x00\x1b[31m",
    "a surrogate": "\ud800",
}
WATCHED = ("os.", "subprocess.", "socket.", "ctypes.", "pty.", "signal.", "shutil.")
seen: list[str] = []
watching = [False]


def hook(event: str, arguments: tuple[Any, ...]) -> None:
    """Notes text that is run as code, and whatever a process could do to others."""
    if not watching[0]:
        return
    is_text = event == "exec" and arguments[0].co_filename == "<string>"
    if is_text or (event.startswith(WATCHED) and event not in ("os.listdir", "os.scandir")):
        seen.append(event)


def tried(name: str) -> dict[str, Any]:
    """What grading hostile answers to a problem of a task did."""
    data = reasoning_gym.create_dataset(name, seed=0, size=2**31 - 1)  # as the task does
    entry, scores = data[3], {}
    right = data.score_answer(answer=str(entry["answer"]).strip(), entry=entry)
    watching[0] = True
    for kind, answer in list(HOSTILE.items())[: 1 if sys.argv[1:] else None]:
        try:
            scores[kind] = float(data.score_answer(answer=answer, entry=entry))
        except Exception as error:  # counted as a failure by the worker
            scores[kind] = type(error).__name__
    watching[0] = False
    return {"task": name, "right": right, "scores": scores, "events": sorted(set(seen))}


def main() -> None:
    names = sys.argv[1:] or sorted(offered())
    for name in names:
        if not (child := os.fork()):
            sys.addaudithook(hook)
            sandbox.confine()
            signal.setitimer(signal.ITIMER_PROF, LIMIT_S)
            os.write(1, json.dumps(tried(name)).encode() + b"\n")
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status:
            print(json.dumps({"task": name, "status": status}), flush=True)


if __name__ == "__main__":
    main()
