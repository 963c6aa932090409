"""`staleness` as a distribution: the ages at which the prompts of a batch are trained on, in updates.

    uniform:0:256          every age from 0 to 256 as often as another
    two_point:0:256:.5     half of the prompts 0, half (the share that stands last) 256 updates old
    long_tail:64           exponential with mean 64: most are fresh, a few several times as old as the mean
    by_length:0:256        the ages of uniform:0:256, the older the longer the response is expected to be
    by_length:long_tail:64 those of any of the others

    partial:64             within a response: its beginning 64 updates older than its end (harness/lag/partial.py)

Every batch of P prompts has the same P ages, quantiles of the distribution: what is asked for is what happens, in
every batch and not only on average. A prompt's responses share its age.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness import randomness
from harness.errors import UserError, nearest, require

BY_LENGTH, PARTIAL = "by_length", "partial"
LARGEST = 10**9  # updates


def uniform(count: int, unit: int, first: float, last: float) -> np.ndarray:
    """Each of first, first + unit … last, as often as another."""
    values = int(last - first) // unit + 1
    return first + unit * ((np.arange(count) + 0.5) * values / count).astype(int)


def two_point(count: int, unit: int, one: float, other: float, share: float) -> np.ndarray:
    """Two ages, the second in so large a share of the prompts."""
    return np.where(np.arange(count) < count - round(share * count), one, other)


def long_tail(count: int, unit: int, mean: float) -> np.ndarray:
    """The exponential distribution, cut into `count` parts of equal probability; each part's mean, in whole units.

    Sums are rounded instead of ages, so that the mean of all is the one asked for.
    """
    left = 1 - np.arange(count + 1) / count  # the probability of an age above each part's lower edge
    with np.errstate(divide="ignore", invalid="ignore"):
        below = 1 - left + np.where(left > 0, left * np.log(left), 0)  # ∫ of the quantile function, for mean 1
    return np.diff(np.round(count * mean * below / unit)) * unit


SHAPES: dict[str, tuple[str, Callable[..., np.ndarray]]] = {
    "uniform": ("uniform:FROM:TO", uniform),
    "two_point": ("two_point:AGE:AGE:SHARE", two_point),
    "long_tail": ("long_tail:MEAN", long_tail),
}
SPELLINGS = ", ".join([*(spelling for spelling, _ in SHAPES.values()), "by_length:FROM:TO", "partial:AGE"])


@dataclass(frozen=True)
class Ages:
    """A distribution of ages.

    name: one of SHAPES.
    numbers: its parameters, ages in updates.
    by_length: prompts with a longer expected response are older; else chance says which are.
    """

    name: str
    numbers: tuple[float, ...]
    by_length: bool = False

    def __str__(self) -> str:
        prefix = [BY_LENGTH] if self.by_length else []
        return ":".join([*prefix, self.name, *map(spelt, self.numbers)])

    def ascending(self, count: int, unit: int) -> np.ndarray:
        """The ages of a batch of `count` prompts, int [count], multiples of `unit` updates."""
        return np.sort(SHAPES[self.name][1](count, unit, *self.numbers)).astype(np.int64)

    def dealt(self, seed: int, batch: int, count: int, unit: int, lengths: Sequence[float] | None) -> np.ndarray:
        """The age of each prompt of a batch, int [count], a function of seed and batch.

        seed: of the run. batch: its number. count: prompts. unit: updates a batch, which `count` is a multiple of.
        lengths: [count], expected of each prompt's responses; read where by_length.

        Without lengths every update gets its fair part: of each `unit` neighbours in the order of age one.
        """
        ages = self.ascending(count, unit)
        if not self.by_length:
            return in_fair_parts(ages, seed, batch, unit)
        assert lengths is not None
        dealt = np.empty_like(ages)
        dealt[np.lexsort((_draws(seed, batch, count), np.asarray(lengths)))] = ages
        return dealt

    def check(self, unit: int) -> None:
        """Raises UserError for ages that are no multiples of `unit` updates, or parameters out of their range."""
        ages = self.numbers[:2]  # what stands third is a share
        for age in ages:
            if not 0 <= age <= LARGEST or age % unit:
                raise _wrong(str(self), f"{spelt(age)}: ages are multiples of updates_per_step={unit}, 0 to {LARGEST}")
        if self.name == "uniform" and ages[0] > ages[1]:
            raise _wrong(str(self), f"FROM is above TO; type {spelt(ages[1])}:{spelt(ages[0])}")
        if self.name == "two_point" and not 0 <= self.numbers[2] <= 1:
            share = spelt(self.numbers[2])
            raise _wrong(str(self), f"{share}: the second age's share of the prompts is between 0 and 1")


def in_fair_parts(ages: np.ndarray, seed: int, batch: int, unit: int) -> np.ndarray:
    """Ascending ages in an order by chance, in which every update of a step gets its part, int [n].

    ages: [n], n a multiple of `unit`: one of each `unit` neighbours goes to each of the updates.
    seed: of the draws. batch: its number. unit: updates a batch.
    """
    draws = _draws(seed, batch, len(ages)).reshape(-1, unit)
    neighbours = np.take_along_axis(ages.reshape(-1, unit), draws.argsort(1), 1)
    again = randomness.keys(seed, "age order", batch, np.arange(len(ages))).reshape(unit, -1)
    return np.take_along_axis(neighbours.T, again.argsort(1), 1).reshape(-1)


def _draws(seed: int, batch: int, count: int) -> np.ndarray:
    return randomness.keys(seed, "age", batch, np.arange(count))


@dataclass(frozen=True)
class Partial:
    """Two ages within a response.

    age: of its beginning, updates; its end is as fresh as staleness=0.
    share: where the beginning ends, as a share of the longest response; None: anywhere, by chance.
    """

    age: float
    share: float | None = None

    def __str__(self) -> str:
        return f"{PARTIAL}:{spelt(self.age)}" + ("" if self.share is None else f":{spelt(self.share)}")

    def check(self, unit: int) -> None:
        """Raises UserError for an age that is no multiple of `unit` updates, or a share that is none."""
        if not unit <= self.age <= LARGEST or self.age % unit:
            age = spelt(self.age)
            raise _wrong(str(self), f"{age}: the age is a multiple of updates_per_step={unit}, {unit} to {LARGEST}")
        if self.share is not None and not 0 <= self.share <= 1:
            raise _wrong(str(self), f"{spelt(self.share)}: the share of the longest response is between 0 and 1")


def read(text: str) -> Ages | Partial:
    """The distribution that `staleness` spells. Raises UserError, in one line."""
    head, *rest = text.split(":")
    if head == PARTIAL:
        numbers = _numbers(text, head, rest)
        if len(numbers) not in (1, 2):
            raise _wrong(text, "expected partial:AGE or partial:AGE:SHARE")
        return Partial(*numbers)
    by_length = head == BY_LENGTH
    if by_length:
        head, *rest = rest if rest and rest[0][:1].isalpha() else ["uniform", *rest]
    if head not in SHAPES:
        raise _wrong(text, nearest(head, [*SHAPES] if by_length else [*SHAPES, BY_LENGTH, PARTIAL]))
    numbers = _numbers(text, head, rest)
    spelling = SHAPES[head][0]
    if len(numbers) != spelling.count(":"):
        raise _wrong(text, f"expected {spelling}")
    return Ages(head, numbers, by_length)


def spelt(number: float) -> str:
    """A number as short as it can be and still itself: 256, 0.5, 1e+09; no -0."""
    short = f"{number + 0.0:g}"
    return short if float(short) == number or math.isnan(number) else repr(number).removesuffix(".0")


def _numbers(text: str, head: str, words: Sequence[str]) -> tuple[float, ...]:
    try:
        return tuple(float(word) for word in words)
    except ValueError as error:
        raise _wrong(text, f"{head} takes numbers") from error


def canonical(value: Any) -> Any:
    """`staleness` as it counts for a run's identity: 0.5 and .5 are the same share. Raises UserError, in one line."""
    if isinstance(value, str):
        return str(read(value))
    shown = "null" if value is None else value
    require(
        type(value) is int and value >= 0, "staleness", shown, f"at least 0 updates, or a distribution ({SPELLINGS})"
    )
    return value


def _wrong(text: str, why: str) -> UserError:
    return UserError(f"staleness={text}: expected a number of updates, or a distribution ({SPELLINGS}); {why}")
