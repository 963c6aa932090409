"""`python -m parity.schedules`: logs of made-up runs, written by the code of verl and AReaL that writes their logs.

tests/drivers/logs holds them, and tests/drivers/test_imported.py imports them; exit 1 where what lay there was another.
Only the functions that write are run: they are taken out of the peers' files by name, as in parity/areal.py.
"""

import __future__

import ast
import asyncio
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, redirect_stdout
from importlib.metadata import distribution
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

OUT = Path(__file__).resolve().parents[1] / "tests" / "drivers" / "logs"
# Of each step, from 1: first and last version of its trajectories (one that spans two was continued after an update).
VERL = {1: [(0, 0)] * 4, 2: [(0, 0), (0, 1), (1, 1), (1, 1)], 3: [(0, 1), (0, 2), (2, 2), (2, 2)], 4: [(1, 3)] * 4}
# Of each task: the versions of the tokens of its two responses.
AREAL = [
    [[0, 0], [0]],
    [[0], [0]],
    [[0, 1], [0]],
    [[1], [1, 1]],
    [[0, 1], [1]],
    [[2], [2, 2]],
    [[2, 2], [1]],
    [[3], [3]],
]


def function(package: str, path: str, name: str, names: dict[str, Any]) -> Any:
    """A function of a peer's file, wherever in it, run as it stands with these names around it."""
    source = str(distribution(package).locate_file(path))
    tree = ast.parse(Path(source).read_text())
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    found = next(node for node in ast.walk(tree) if isinstance(node, kinds) and node.name == name)
    found.decorator_list = []
    tree.body = [found]
    # Their annotations name types that are not there.
    exec(compile(tree, source, "exec", flags=__future__.annotations.compiler_flag), names)
    return names[name]


def verl(out: Path) -> None:
    """A trainer.rollout_data_dir of verl, with the versions passed on as docs/lags.md says."""
    write = function("verl", "verl/trainer/ppo/ray_trainer.py", "_write_generations", {"json": json, "os": os})
    for step, spans in VERL.items():
        n = len(spans)
        versions = {}
        for place, name in enumerate(("min_global_steps", "max_global_steps")):
            versions[name] = np.empty(n, dtype=object)  # as the agent loop makes them
            versions[name][:] = [span[place] for span in spans]
        with redirect_stdout(StringIO()):
            write(["1+1="] * n, ["2"] * n, ["2"] * n, [1.0] * n, versions, str(out), step)


def areal(out: Path) -> None:
    """A folder of dumped rollouts of AReaL, each made as its RLVR workflow does."""

    @asynccontextmanager
    async def opened(path: str, mode: str) -> AsyncIterator[SimpleNamespace]:
        with open(path, mode) as file:

            async def written(text: str) -> None:
                file.write(text)

            yield SimpleNamespace(write=written)

    async def makedirs(path: str, exist_ok: bool) -> None:
        os.makedirs(path, exist_ok=exist_ok)

    aiofiles = SimpleNamespace(open=opened, os=SimpleNamespace(makedirs=makedirs))
    names = {"aiofiles": aiofiles, "os": os, "json": json, "RTensor": SimpleNamespace(localize=lambda traj: traj)}
    dump = function("areal", "areal/infra/workflow_executor.py", "_dump_trajectory", names)
    tokenizer = SimpleNamespace(decode=lambda ids, skip_special_tokens: "".join(map(str, ids)))
    executor = SimpleNamespace(_get_dump_dir=lambda is_eval: str(out), _get_tokenizer=lambda: tokenizer)
    for task, responses in enumerate(AREAL):
        asyncio.run(dump(executor, trajectory(responses), task, False))


def trajectory(responses: list[list[int]]) -> dict[str, torch.Tensor]:
    """A task's tensors, padded; the prompt's two tokens have version −1, as in areal/workflow/rlvr.py."""
    width = 2 + max(map(len, responses))
    rows = [[-1, -1, *versions] for versions in responses]
    there = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    mine = torch.tensor([[0, 0] + [1] * (len(row) - 2) + [0] * (width - len(row)) for row in rows])
    versions = torch.tensor([row + [0] * (width - len(row)) for row in rows], dtype=torch.int32)
    rewards = torch.ones(len(rows))
    return {
        "input_ids": there, "attention_mask": there, "loss_mask": mine, "versions": versions, "rewards": rewards
    }  # fmt: skip


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*.jsonl")}


def main() -> int:
    with tempfile.TemporaryDirectory() as made:
        verl(Path(made) / "verl")
        areal(Path(made) / "areal")
        now, before = contents(Path(made)), contents(OUT)
    for name, text in now.items():
        (OUT / name).parent.mkdir(parents=True, exist_ok=True)
        (OUT / name).write_text(text)
    for name in sorted(name for name in now.keys() | before.keys() if now.get(name) != before.get(name)):
        print(f"{OUT / name}: the peers write it otherwise now", file=sys.stderr)
    return int(now != before)


if __name__ == "__main__":
    sys.exit(main())
