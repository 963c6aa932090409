"""How a model that is cut into slices is entered: its slices come together before what a policy computes of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

Entrance = Callable[[nn.Module, Callable[..., Any]], Callable[..., Any]]
"""(module, a function that computes it) → the function to call in its place, which brings the slices together first."""
