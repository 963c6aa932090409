"""Who starts the ranks: rank 0, on this machine; or torchrun or srun, before anything runs.

A rank beside the first is always `python -m harness.follow` or run.py itself, with torchrun's environment variables:
RANK and WORLD_SIZE (srun: SLURM_PROCID and SLURM_NTASKS), LOCAL_RANK, and MASTER_ADDR and MASTER_PORT, or MEETING.
How many there are on its machine is LOCAL_WORLD_SIZE, or srun's list of tasks a node.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from typing import Protocol

from harness import interrupts
from harness.errors import UserError

MEETING = "LAGRANGE_RANKS_MEET_AT"  # where the ranks that rank 0 has started find each other
VARIABLES = (("RANK", "WORLD_SIZE", "LOCAL_RANK"), ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"))
AGENT = "TORCHELASTIC_USE_AGENT_STORE"  # torchrun says True where it keeps the store itself
_PR_SET_PDEATHSIG = 1  # sys/prctl.h


@dataclass(frozen=True)
class Place:
    """Where a process stands among the ranks.

    rank: 0 drives.
    world: number of ranks.
    local: number among those of its machine; its GPU.
    here: how many are on its machine; 0: nobody has said.
    """

    rank: int
    world: int
    local: int
    here: int = 0


def launched() -> Place | None:
    """This process's place among those that were started together; None where it was started alone.

    Raises UserError for variables that say no place.
    """
    if not {"MASTER_ADDR", MEETING} & set(os.environ):
        return None
    for rank, world, local in VARIABLES:
        if rank in os.environ and (among := _number(world, 1)) > 1:
            number = _number(rank)
            if number >= among:
                raise UserError(f"{rank}={number} with {world}={among}: expected a rank from 0 to {among - 1}")
            here = _number("LOCAL_WORLD_SIZE", 0) if rank == "RANK" else _tasks_of_this_node()
            return Place(number, among, _number(local, number), here)
    return None


def _number(name: str, unset: int | None = None) -> int:
    """An environment variable of torchrun or srun. Raises UserError for one that is no number."""
    text = os.environ.get(name, "" if unset is None else str(unset))
    if not (text.isascii() and text.isdigit()):
        raise UserError(f"{name}={text}: expected a whole number, for with MASTER_ADDR set several ranks meet there")
    return int(text)


def meeting() -> str:
    """Address of the store where the ranks that were started together find each other.

    Raises UserError for one that is none.
    """
    if MEETING in os.environ:
        return os.environ[MEETING]
    port = _number("MASTER_PORT")
    if not 0 < port < 2**16:
        raise UserError(f"MASTER_PORT={port}: expected a port of MASTER_ADDR, from 1 to 65535")
    return f"tcp://{os.environ['MASTER_ADDR']}:{port}"


def agent_keeps_the_store() -> bool:
    """Whether torchrun itself listens where the ranks meet; else rank 0 does."""
    return os.environ.get(AGENT) == "True"


def _tasks_of_this_node() -> int:
    """As srun says: "4(x2),3" is 4 tasks on each of two nodes and 3 on a third. Returns 0 where it says nothing."""
    listed = re.findall(r"(\d+)(?:\(x(\d+)\))?", os.environ.get("SLURM_STEP_TASKS_PER_NODE", ""))
    tasks = [int(count) for count, times in listed for _ in range(int(times or 1))]
    return tasks[int(os.environ["SLURM_NODEID"])] if tasks else 0


def forget() -> None:
    """From now on this process counts as started alone: the others have met it, and wait for its orders only."""
    os.environ.pop("MASTER_ADDR")


def on_this_machine(ranks: int) -> int:
    """How many of the ranks are on this machine; all of them, as far as anybody has said."""
    place = launched()
    return (place.here if place is not None else 0) or ranks


def check_launched(ranks: int, cells: int) -> None:
    """Raises UserError where torchrun or srun has started another number of processes than the run has ranks, or they
    cannot meet.

    cells: of the command; ranks that were started together serve one.
    """
    place = launched()
    if place is not None and place.world != ranks:
        raise UserError(f"ranks={ranks}: {place.world} processes were started together; expected ranks={place.world}")
    if place is not None and cells > 1:
        raise UserError(f"{cells} cells: ranks started by torchrun or srun serve one; start a command a cell")
    if place is not None and place.rank == 0 and not agent_keeps_the_store():
        _check_address(*meeting().removeprefix("tcp://").rsplit(":", 1))


def _check_address(host: str, port: str) -> None:
    """Raises UserError where rank 0 cannot listen, or is not to be found."""
    try:
        socket.getaddrinfo(host, port)
    except OSError as error:
        raise UserError(f"MASTER_ADDR={host}: no such machine ({error}); expected the one of rank 0") from error
    try:
        socket.create_server(("", int(port))).close()
    except OSError as error:
        raise UserError(f"MASTER_PORT={port}: {error}; choose another port, the same for all ranks") from error


class Started(Protocol):
    """The ranks 1 … world − 1 that rank 0 has started, wherever they are. meeting: address of the store of all."""

    meeting: str

    def exit_code(self, rank: int) -> int | None:
        """Of a rank's process; None while it lives."""
        ...

    def kill(self, rank: int) -> bool:
        """Kills one. Returns whether its connections are closed then."""
        ...

    def stop(self) -> None:
        """Kills them."""
        ...


class Followers:
    """The ranks 1 … world − 1, as processes of this machine that rank 0 has started.

    world: number of ranks.
    meeting: address of the store where all ranks meet.
    """

    def __init__(self, world: int) -> None:
        if sys.platform.startswith("linux"):
            for library in ("GLOO", "NCCL"):  # nobody outside this machine takes part
                os.environ.setdefault(f"{library}_SOCKET_IFNAME", "lo")
        self._folder = tempfile.TemporaryDirectory(prefix="ranks-")
        self.meeting = f"file://{self._folder.name}/store"
        self._processes = [start(rank, world, rank, self.meeting) for rank in range(1, world)]

    def exit_code(self, rank: int) -> int | None:
        """Of a rank's process; None while it lives."""
        return self._processes[rank - 1].poll()

    def kill(self, rank: int) -> bool:
        """Kills one; the kernel closes its connections."""
        self._processes[rank - 1].kill()
        return True

    def stop(self) -> None:
        """Kills them: nothing is lost, for what a rank holds is in the checkpoints."""
        for process in self._processes:
            process.kill()
            process.wait()
        self._folder.cleanup()


def start(rank: int, world: int, local: int, meeting: str) -> subprocess.Popen[bytes]:
    """One rank as a process of this machine, with this one's code and folder."""
    place = {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(local), MEETING: meeting}
    code = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    # A session of its own: Ctrl-C on the terminal is for rank 0 to answer.
    return subprocess.Popen(
        [sys.executable, "-m", "harness.follow"],
        env=os.environ | code | place,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )


def obey_rank_0() -> None:
    """In a rank beside the first: leaves signals to rank 0, and ends when its parent does.

    torchrun and srun pass what they are sent on to all of them.
    """
    for number in interrupts.ASKING:
        signal.signal(number, signal.SIG_IGN)
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
