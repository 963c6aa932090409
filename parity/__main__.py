"""`python -m parity`: compare with the peers and write docs/parity.md; exit 1 beyond tolerance."""

import argparse
import logging
import math
import sys
import warnings
from importlib.metadata import version
from pathlib import Path

from parity.catalogue import MATCHES, absent
from parity.compare import DTYPES, TOLERANCE, Difference, everything, tolerance
from parity.edge_cases import table
from parity.reverse import k1_bounds, theirs

OUT = Path(__file__).resolve().parents[1] / "docs" / "parity.md"
PEERS = {"verl": "verl", "TRL": "trl", "Liger": "liger-kernel", "AReaL": "areal"}


def magnitude(value: float | None) -> str:
    """The next power of ten above a difference, which is all of it that is the same on every machine."""
    if value is None:
        return "–"
    if math.isnan(value):
        return "NaN"
    return "0" if value == 0 else f"1e{max(-16, math.ceil(math.log10(value)))}"


def cell(difference: Difference | None, limit: float) -> str:
    """gradient / value, with a warning sign beyond the tolerance."""
    if difference is None:
        return ""
    text = f"{magnitude(difference.gradient)} / {magnitude(difference.value)}"
    return text if difference.within(limit) else f"**{text} (!)**"


def markdown(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def document(differences: dict[tuple[str, str, str], Difference], edges: dict[str, dict[str, str]]) -> str:
    """The whole page."""
    columns = [(peer, kind) for peer in PEERS for kind in DTYPES]
    rows = [
        [match.label, f"`{match.name}`"]
        + [cell(differences.get((match.label, peer, kind)), tolerance(peer, kind)) for peer, kind in columns]
        for match in MATCHES
    ]
    versions = ", ".join(f"{peer} {version(package)}" for peer, package in PEERS.items())
    names = list(next(iter(edges.values())))
    notes = "\n".join(f"- {match.label}: {match.note}." for match in MATCHES if match.note)
    without = "\n".join(f"- `{name}`: {why}." for name, why in absent().items())
    tolerances = ", ".join(f"{value:g} in {kind}" for kind, value in TOLERANCE.items())
    return f"""# Parity with the field

Written by `python -m parity` (`make parity`) with {versions} and torch {version("torch")}; do not edit.

## Gradients and values

Each cell: largest difference of the gradients with respect to the log-probs, over the largest gradient / difference of
`surrogate` and the peer's loss value; rounded up to a power of ten, 0 if equal to the last bit. Tolerance:
{tolerances}; beyond it a cell is marked (!) and the command fails. 24 responses of 1 to 40
tokens, log-ratios inside ±20.

{markdown(["compared", "method", *(f"{peer} {kind}" for peer, kind in columns)], rows)}

{notes}
- verl divides sequence means by the length + 1e-8, which shows in float64.
- TRL makes SAPO's temperatures from Python numbers, in float32, which shows in float64.
- AReaL makes π_prox/π_behav in float32, which shows in float64: its tolerance is that of float32. It is installed
  without its dependencies, and the functions compared are read out of its files (`parity/areal.py`).
- verl's presets run with its own defaults: ε = 0.2 and a dual clip of 3. Rows of rejection and presets scale the drift
  so that both sides of the threshold are met.

Registered methods that no peer here has:

{without}

## What they have, and what it is here

Every policy loss and every rejection option that verl registers, every loss type of TRL and Liger, TRL's trainers
with a policy loss on rewards (its others are for preferences and distillation), AReaL's losses. Estimators of the
advantage are no stabilisers and are left out; ours are in [diagnostics](diagnostics.md#parts-that-any-method-takes).

{markdown(["peer", "theirs", "here"], [list(row) for row in theirs()])}

## verl's k1 bounds act on 1/r

Token rejection with verl's `token_k1` and the threshold "0.6_1.4", and with `reject metric=k1 level=token ratio_low=0.6
ratio_high=1.4`:

{markdown(["r", "verl", "LagRange"], k1_bounds())}

## Edge cases

GRPO with ε = 0.2 and no dual clip, token mean unless the row says otherwise, float32, three responses of 4, 3 and 2
tokens; ratio e^0.05 but where the row changes one token. LagRange's loss value here is its `surrogate`.

{markdown(["input", *names], [[row, *(cells[name] for name in names)] for row, cells in edges.items()])}

Beyond ±20 the published surrogates of verl lose their gradient (its clamp is inside the graph), those of TRL and Liger
overflow; LagRange bounds the weight at e^±20 and keeps the gradient. A current log-prob of −Inf makes LagRange's *loss*
non-finite, so that the update is refused, although a clipped surrogate's value may be finite.
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    differences = everything()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(document(differences, table()))
    beyond = {key: value for key, value in differences.items() if not value.within(tolerance(*key[1:]))}
    for key, value in beyond.items():
        print(f"beyond tolerance: {' · '.join(key)}: {value}", file=sys.stderr)
    print(f"{len(differences) - len(beyond)} of {len(differences)} comparisons within tolerance; wrote {options.out}")
    return 1 if beyond else 0


if __name__ == "__main__":
    sys.exit(main())
