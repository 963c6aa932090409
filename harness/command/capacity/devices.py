"""The devices a plan speaks of, and what was measured on one of them.

On the H200 the product of matrices and the copy were measured: .79 and .875 of the data sheet. The others are their
data sheets times the same shares: nothing of this project has been timed on them.
"""

from __future__ import annotations

from dataclasses import dataclass

GIB = 2**30
OF_THE_PRODUCT, OF_THE_COPY = 0.79, 0.875  # of the data sheet
USABLE = 0.97  # of the memory: the rest is the driver's, the libraries' and fragmentation


@dataclass(frozen=True)
class Device:
    """gib: memory, as the device is sold. flops: of a bfloat16 product of matrices, a second. copy: bytes a second."""

    name: str
    gib: int
    flops: float
    copy: float

    @property
    def usable(self) -> float:
        """Bytes that a run can have."""
        return USABLE * self.gib * GIB


def _listed(name: str, gib: int, tera_flops: float, terabytes: float) -> Device:
    return Device(name, gib, OF_THE_PRODUCT * tera_flops * 1e12, OF_THE_COPY * terabytes * 1e12)


DEVICES = [
    _listed("RTX 4090", 24, 165, 1.01),
    _listed("A100", 40, 312, 1.56),
    _listed("H100", 80, 989, 3.35),
    _listed("H200", 141, 989, 4.8),
]
