"""python -m analysis.calibration: how often intervals cover and claims are false, simulated, as a page of the docs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np

from analysis import inference, statistics, tabular
from analysis.statistics import SEED
from analysis.tabular import Table

Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]
SIMULATIONS = 1000
BLOCK = 20  # families at once, to bound memory
PROBLEMS, SAMPLES = 256, 4
PAGE = """# Calibration

How often the intervals of [analysis.md](analysis.md#statistics) cover the truth, and how often its words are wrong or
missing, by simulation ({simulations} studies a line, standard error at 5 % {error:.1%}; a quarter as many over
seeds × problems). Written by `python -m analysis.calibration`.

"Collapses" are values of which one in five is 3 lower (standard deviation 1 otherwise); differences of two such runs
are what is tested. Sizes are in standard deviations of the paired differences.

## Coverage of the 95 % intervals

{coverage}
## False claims: families of which at least one comparison gets a wrong word

{errors}
## Power: comparisons that get the right word

{power}"""


def normal(rng: np.random.Generator, size: tuple[int, ...]) -> np.ndarray:
    """Standard normal values."""
    return rng.normal(size=size)


def collapses(rng: np.random.Generator, size: tuple[int, ...]) -> np.ndarray:
    """Normal values of which one in five is 3 lower, centred on their mean."""
    return rng.normal(size=size) - 3.0 * (rng.random(size) < 0.2) + 0.6


def pairs(draw: Draw) -> Draw:
    """Differences of two independent values, with standard deviation 1 for normal ones."""
    return lambda rng, size: (draw(rng, size) - draw(rng, size)) / np.sqrt(2)


def coverage(simulations: int) -> Table:
    """Share of intervals that hold the true mean."""
    rng = np.random.default_rng(SEED)
    rows: list[list[object]] = []
    for name, draw in {
        "normal": normal,
        "20 % collapses": collapses,
        "their paired differences": pairs(collapses),
    }.items():
        for n in (3, 5, 8, 10, 12):
            low, high = statistics.interval(draw(rng, (n, simulations)))
            rows.append(["t interval over seeds", name, n, _percent((low <= 0) & (high >= 0))])
    for name, draw in {"normal": normal, "20 % collapses": collapses}.items():
        for n in (5, 10):
            held = [_hierarchical_holds(rng, draw, n) for _ in range(max(1, simulations // 4))]
            rows.append([f"over seeds × {PROBLEMS} problems", name, n, _percent(np.array(held))])
    return Table(["interval", "data", "n", "covers"], rows, "")


def _hierarchical_holds(rng: np.random.Generator, draw: Draw, n: int) -> bool:
    """Logits of a seed and of a problem add up; the truth is the mean over many of both."""
    seed, problem = 0.3 * draw(rng, (n, 1)), rng.normal(size=(1, PROBLEMS))
    found = statistics.hierarchical(rng.binomial(SAMPLES, _sigmoid(seed + problem)) / SAMPLES)
    return bool(found.low <= _truth(draw) <= found.high)


@cache
def _truth(draw: Draw) -> float:
    rng = np.random.default_rng(0)
    return float(_sigmoid(0.3 * draw(rng, (1_000_000,)) + rng.normal(size=1_000_000)).mean())


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def errors(simulations: int) -> Table:
    """Share of families with a false word, where nothing differs, or everything by exactly the margin."""
    rng = np.random.default_rng(SEED)
    rows: list[list[object]] = []
    for name, draw in {"normal": normal, "20 % collapses": collapses}.items():
        for n, family in ((6, 1), (8, 6), (10, 16), (12, 16), (16, 16)):
            wrong = [
                (_told(x) < inference.ALPHA).any(axis=0) for x in _blocks(rng, pairs(draw), n, family, simulations)
            ]
            rows.append(["ahead or behind", f"no difference, {name}", n, family, _percent(np.concatenate(wrong))])
    for n, family in ((5, 1), (12, 16)):
        wrong = [(_close(x + 1.0, 1.0) < inference.ALPHA).any(axis=0)
                 for x in _blocks(rng, pairs(normal), n, family, simulations)]  # fmt: skip
        rows.append(["equivalent", "a difference of the margin, normal", n, family, _percent(np.concatenate(wrong))])
    return Table(["words", "truth", "n", "family", "families with a false claim"], rows, "")


def power(simulations: int) -> Table:
    """Share of comparisons that get the right word, where every one of the family has the difference."""
    rng = np.random.default_rng(SEED)
    rows: list[list[object]] = []
    for n, family, effect in ((6, 1, 2.0), (8, 6, 2.0), (10, 16, 2.0), (12, 16, 1.0), (12, 16, 1.5), (12, 16, 2.0)):
        rows.append(_powered(rng, n, family, effect, f"{effect:g}", simulations))
    for n, family in ((8, 1), (12, 1), (12, 16)):
        rows.append(
            _powered(rng, n, family, inference.detectable(1.0, n, family), "what is called detectable", simulations)
        )
    for n, family in ((5, 1), (12, 16)):
        right = [_close(x, 2.0) < inference.ALPHA for x in _blocks(rng, pairs(normal), n, family, simulations)]
        rows.append(["equivalent", "none, the margin being 2", n, family, _percent(np.concatenate(right, axis=1))])
    return Table(["words", "true difference", "n", "family", "comparisons told"], rows, "")


def _powered(
    rng: np.random.Generator, n: int, family: int, effect: float, words: str, simulations: int
) -> list[object]:
    """A single true difference in a family of which the others have none: what Holm is hardest on."""
    shift = np.zeros(family)
    shift[0] = effect
    found = [(_told(x + shift[None, :, None]) < inference.ALPHA)[0]
             for x in _blocks(rng, pairs(normal), n, family, simulations)]  # fmt: skip
    size = words if words != f"{effect:g}" else f"{effect:g}, one of the family"
    return ["ahead", size, n, family, _percent(np.concatenate(found))]


def _blocks(rng: np.random.Generator, draw: Draw, n: int, family: int, simulations: int) -> Iterator[np.ndarray]:
    for start in range(0, simulations, BLOCK):
        yield draw(rng, (n, family, min(BLOCK, simulations - start)))


def _told(differences: np.ndarray) -> np.ndarray:
    return inference.holm(inference.sign_flip(differences))


def _close(differences: np.ndarray, margin: float) -> np.ndarray:
    return inference.holm(inference.equivalence(differences, margin))


def _percent(held: np.ndarray) -> str:
    return f"{100 * held.mean():.1f} %"


def page(simulations: int) -> str:
    """The page as Markdown; the same number of simulations gives the same text."""
    made = {part.__name__: tabular.markdown(part(simulations)).rstrip() + "\n" for part in (coverage, errors, power)}
    return PAGE.format(simulations=f"{simulations:,}", error=np.sqrt(0.05 * 0.95 / simulations), **made)


def main() -> int:
    """Simulates and writes the page."""
    parser = argparse.ArgumentParser(prog="python -m analysis.calibration", description=__doc__)
    parser.add_argument("--simulations", type=int, default=SIMULATIONS, help=f"studies a line (default: {SIMULATIONS})")
    parser.add_argument("--out", type=Path, default=Path("docs/calibration.md"), help="default: docs/calibration.md")
    choices = parser.parse_args()
    choices.out.write_text(page(choices.simulations), encoding="utf-8")
    print(choices.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
