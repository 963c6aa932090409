"""The hash that says whether two models are the same, bit for bit."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def weights_sha256(state: dict[str, Tensor]) -> str:
    """SHA-256 of a model's weights.

    state: name → tensor; names, shapes, types and bytes are hashed, in the order of the names.
    Returns the hexadecimal digest.
    """
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()
