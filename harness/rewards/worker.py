"""A grading worker: `python -m harness.rewards.worker LIMIT_S`, a JSON line in, a JSON line out.

A process of its own, so that whatever a response does to a verifier (a hang, a gigabyte, a crash of the
interpreter) ends here; and a confined one, so that a response which comes to run as code can do nothing else.
The kernel ends it when one answer takes more than its CPU time.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from harness.rewards import sandbox
from harness.rewards.own import load_function, own
from harness.rewards.process import OWN
from harness.rewards.readings import readings
from harness.rewards.verifiers import VERIFIERS, Verdict

CALLED: dict[str, Callable[..., Verdict]] = {**VERIFIERS, "readings": readings, OWN: own}
LONGEST_MESSAGE = 300  # characters of an exception's


def main() -> None:
    """Grades the jobs of stdin until it is closed; the first reply, {}, says that it is ready."""
    limit = float(sys.argv[1])
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not pass for a reply
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    _warm_up(sys.argv[2:])
    (sandbox.confine if sandbox.is_on() else sandbox.limit)()
    print("{}", file=replies, flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, limit)  # SIGPROF ends the process: nobody handles it
        reply = {"index": job["index"], "nonce": job["nonce"], **_graded(job)}
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps(reply), file=replies, flush=True)


def _warm_up(verifiers: list[str]) -> None:
    """Seconds of imports and first calls, paid before the clock of the first answer starts."""
    if "math" in verifiers:
        VERIFIERS["math"](response="\\boxed{x^2+1}", answer="\\frac{1}{2}")
    if "reasoning_gym" in verifiers:
        import reasoning_gym  # noqa: F401
    for name in verifiers:
        if name.startswith(OWN + ":"):
            with suppress(Exception):  # what is wrong with it, the first answer says
                load_function(name.removeprefix(OWN + ":"))


def _graded(job: dict[str, Any]) -> dict[str, object]:
    try:
        score, formatted, details = CALLED[job["verifier"]](**job["arguments"])
    except Exception as error:  # a verifier's bug on hostile text: reward 0, counted
        return {"failure": type(error).__name__, "details": {"error": str(error)[:LONGEST_MESSAGE]}}
    return {"score": score, "formatted": formatted, "details": details}


if __name__ == "__main__":
    main()
