"""How long a prompt and its response may be together, by what a model's config says of its positions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

SWITCHING = ("dynamic", "longrope")  # rotary embeddings that depend on the longest sequence of a batch


@dataclass(frozen=True)
class Positions:
    """How many tokens a prompt and its response may have together.

    most: of them; None: as many as one likes.
    reason: what sets the limit, for a message.
    """

    most: int | None
    reason: str


def positions(architecture: Any) -> Positions:
    """The positions of a model: all it has, or those below which a rotary embedding is the same for every batch.

    Dynamic and LongRoPE embeddings take other frequencies once the longest sequence of a batch is above a length, so
    that what sampled a token and what scores it would differ.

    architecture: transformers' configuration of the model.
    """
    text = architecture.get_text_config()
    names = ("max_position_embeddings", "n_positions", "max_seq_len")
    most = next((value for name in names if (value := getattr(text, name, None))), None)
    for rope in _ropes(getattr(text, "rope_parameters", None) or {}):
        if rope.get("rope_type") in SWITCHING:
            original = rope.get("original_max_position_embeddings") or getattr(
                text, "original_max_position_embeddings", 0
            )
            return Positions(original or most, f"positions before its {rope['rope_type']} rotary embedding changes")
    return Positions(most, "positions")


def _ropes(parameters: dict[str, Any]) -> list[dict[str, Any]]:
    """The rotary embeddings of a config: one, or one a kind of layer."""
    return [parameters] if "rope_type" in parameters else [r for r in parameters.values() if isinstance(r, dict)]
