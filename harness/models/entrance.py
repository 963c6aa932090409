"""How a model that is cut into slices is entered: what its policy computes by itself must begin and end as a forward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

Entrance = Callable[[nn.Module, Callable[..., Any]], Callable[..., Any]]
"""(module, a function that computes it) → the function to call in its place, which brings the slices together first."""
