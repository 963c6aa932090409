"""What a learner knows: whole for publication and for the final hash, in files for a checkpoint.

With several ranks no process holds all of it. For publication rank 0 collects the weights; of a checkpoint every rank
writes a file of whole tensors, dealt out in turn and brought together one at a time; and from one every rank reads its
slices, however many ranks have written it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.errors import RunFailed
from harness.learner.learner import Learner
from harness.ranks.alone import Alone
from harness.ranks.sharding import Slices, named_once
from harness.records import flat
from harness.records.checkpoint import Checkpoint
from harness.records.files import sync, write_hashed
from harness.records.parts import METADATA, OPTIMIZER, WEIGHTS, WEIGHTS_INDEX, index_of, part_name, tensor_files
from harness.records.tensors import pieces

Files = dict[str, dict[str, Any]]  # name → {"bytes": size, "sha256": hash}


class LearnerState:
    """The weights, the optimizer and the version of a learner; rank 0 calls, the others follow.

    learner: whose.
    ranks: that share it.
    """

    def __init__(self, learner: Learner, ranks: Alone) -> None:
        self._learner = learner
        self._ranks = ranks
        self._module = learner.policy.model

    # Whole -------------------------------------------------------------------------------------------

    def weights(self) -> dict[str, Tensor]:
        """The state dict: the learner's own tensors; of several ranks whole ones on the CPU, on rank 0 alone."""
        if self._ranks.world == 1:
            return self._module.state_dict()
        self._ranks.order("weights")
        state = self._module.state_dict(keep_vars=True)
        whole = {id(tensor): self._collected(tensor.detach()) for tensor in named_once(self._module).values()}
        return {name: whole[id(tensor)] for name, tensor in state.items()}

    def _collected(self, tensor: Tensor) -> Tensor:
        whole = self._ranks.whole(tensor)
        return whole.cpu() if self._ranks.rank == 0 else torch.empty(0)

    # Files -------------------------------------------------------------------------------------------

    def write(self, folder: Path) -> Files:
        """Writes weights, their index and the optimizer into a folder, on rank 0 and its followers a file each.

        Returns size and hash of every file. Raises OSError for one that could not be written.
        """
        self._ranks.order("write", folder)
        weights, optimizer = named_once(self._module), flat.optimizer_tensors(self._learner.optimizer)
        files = self._write(folder, WEIGHTS, weights, METADATA) | self._write(folder, OPTIMIZER, optimizer)
        if self._ranks.rank == 0:
            index = index_of(self._dealt(WEIGHTS, weights))
            files[WEIGHTS_INDEX] = write_hashed(folder / WEIGHTS_INDEX, index)
        return files

    def _write(
        self, folder: Path, whole: str, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None
    ) -> Files:
        """The file that every rank writes of some tensors. whole: its name, were it one for all."""
        name = part_name(whole, self._ranks.rank, self._ranks.world)
        own = {tensor for tensor, file in self._dealt(whole, tensors).items() if file == name}
        content = pieces(tensors, metadata=metadata, whole=self._ranks.whole, own=own)
        files: Files = {}
        for written in self._ranks.together(_written(folder / name, content)):
            if isinstance(written, str):
                raise OSError(written)
            files |= written
        return files

    def _dealt(self, whole: str, names: Iterable[str]) -> dict[str, str]:
        """The file that each tensor goes to: they are dealt out in the order of their names."""
        world = self._ranks.world
        return {name: part_name(whole, i % world, world) for i, name in enumerate(sorted(names))}

    def restore(self, found: Checkpoint) -> None:
        """Carries on from a checkpoint.

        found: of this learner or one with another number of ranks.
        Raises RunFailed for a checkpoint of another model.
        """
        version = found.counters["version"]
        if self._ranks.world > 1:
            self.read(found.folder, list(found.files), version)
            return
        self._learner.version = version
        flat.restore_weights(self._module.state_dict(), found.weights())
        flat.restore_optimizer(self._learner.optimizer, found.optimizer)

    def read(self, folder: Path, files: list[str], version: int) -> None:
        """Reads a checkpoint's slices on every rank, and makes its version the learner's.

        files: names of the checkpoint's files, of which rank 0 knows that they are whole.
        """
        self._ranks.order("read", folder, files, version)
        self._learner.version = version
        weights = Slices(folder / name for name in tensor_files(files, WEIGHTS))
        own = named_once(self._module)
        if set(own) != weights.names:
            raise RunFailed(f"the checkpoint's weights are not this model's: {min(set(own) ^ weights.names)}")
        for name, tensor in own.items():
            weights.fill(tensor, name)
        stored = Slices(folder / name for name in tensor_files(files, OPTIMIZER))
        flat.restore_optimizer(self._learner.optimizer, dict(self._optimizer_tensors(stored)))

    def _optimizer_tensors(self, stored: Slices) -> Iterator[tuple[str, Tensor]]:
        """This rank's part of the optimizer's state: a moment is cut as its parameter is."""
        parameters = self._learner.optimizer.param_groups[0]["params"]
        for name in stored.names:
            index, _, kind = name.partition(".")
            target = torch.zeros(()) if kind == "step" else torch.zeros_like(parameters[int(index)])
            stored.fill(target, name)
            yield name, target


def _written(path: Path, content: Iterator[memoryview]) -> Files | str:
    """Writes a rank's file. Returns its size and hash, or what went wrong, once the other ranks have what they need."""
    try:
        file = write_hashed(path, content)
        sync(path)
        return {path.name: file}
    except OSError as error:
        for _ in content:
            pass
        return str(error)
