"""Numbers as people and models write them → exact values: `$1,234.50`, `2 1/2`, `3.5e2`, `1.000,50`, `−5`."""

from __future__ import annotations

import re
from fractions import Fraction

LONGEST_NUMBER = 1000  # characters; no reference answer comes near it
LARGEST_EXPONENT = 999

_MINUS = str.maketrans(dict.fromkeys("\u2212\u2013\u2010\u2011\ufe63\uff0d", "-"))  # − – ‐ ‑ ﹣ －
_THIN = re.compile(r"(?<!\\)\\[,;:> ]|~|\\thinspace\b|[\u00a0\u2009\u202f]")
_FRACTION = re.compile(r"\\[dt]?frac\s*(?:\{\s*(\d+)\s*\}\s*\{\s*(\d+)\s*\}|(\d)\s*(\d))", re.ASCII)

_MARKS = r"(?:[\s*_`$€£¥({]|\\[$(\[]|\\(?:boxed|text|mathbf|mathrm)\b)*+"  # emphasis, currency, LaTeX around a number
_DIGITS = r"""(?:
    (?P<european>\d{1,3}(?:\.\d{3})+,\d+ | \d{1,3}(?:\.\d{3}){2,})      # 1.000,50 · 1.234.567
  | (?P<decimal_comma>\d+,\d{1,2})(?![\d,])                              # 1,5 · 1,50
  | (?P<grouped>\d+(?:,\d+)+(?:\.\d+)? | \d{1,3}(?:[ ]\d{3})+(?:\.\d+)?)  # 1,234.5 · 1,00,000 · 1 234
  | (?P<plain>\d*\.\d+ | \d+)
)"""
_NUMBER = re.compile(
    rf"""{_MARKS}(?P<sign>[-+]?){_MARKS}
    (?: (?P<whole>\d+)\s+(?P<part>\d+\s*/\s*\d+)                         # 2 1/2
      | {_DIGITS}
        (?: [eE](?P<e>[-+]?\d+) | \s*(?:\\times|\\cdot|[×x*·])\s*10\s*\^\s*\{{?\s*(?P<ten>[-+]?\d+)\s*\}}? )?
        (?: \s*/\s*(?P<below>\d+(?:\.\d+)?) )?
    )""",
    re.VERBOSE | re.ASCII,
)


def plain_signs(text: str) -> str:
    """A text with one kind of minus sign, and plain spaces where LaTeX or Unicode has thin ones."""
    return _THIN.sub(" ", text.translate(_MINUS).replace("\\!", "").replace("{,}", ","))


def leading_number(text: str) -> Fraction | None:
    """The number that a text begins with, whatever marks stand before it and words behind it.

    text: for instance "$1,234.50", "**−5**", "2 1/2 cups" or "3.5e2"; ASCII digits only.
    Returns its exact value, None if there is none, it is too long, or it divides by zero.
    """
    text = _FRACTION.sub(lambda m: f" {m[1] or m[3]}/{m[2] or m[4]}", plain_signs(text))
    found = _NUMBER.match(text)
    if found is None or found.end() > LONGEST_NUMBER:
        return None
    try:
        value = _value(found)
    except (ZeroDivisionError, OverflowError):
        return None
    return -value if found["sign"] == "-" else value


def _value(found: re.Match[str]) -> Fraction:
    """The value without its sign. Raises ZeroDivisionError and OverflowError."""
    if found["whole"]:
        return int(found["whole"]) + Fraction("".join(found["part"].split()))
    if found["european"]:
        digits = found["european"].replace(".", "").replace(",", ".")
    elif found["decimal_comma"]:
        digits = found["decimal_comma"].replace(",", ".")
    else:
        digits = (found["grouped"] or found["plain"]).replace(",", "").replace(" ", "")
    exponent = int(found["e"] or found["ten"] or 0)
    if abs(exponent) > LARGEST_EXPONENT:
        raise OverflowError(exponent)
    return Fraction(digits) * Fraction(10) ** exponent / Fraction(found["below"] or 1)


def written(value: Fraction) -> str:
    """A value in its shortest exact form: "1234.5", "-7", and "1/3" where decimals do not end."""
    rest, places = value.denominator, 0
    for factor in (2, 5):
        count = 0
        while rest % factor == 0:
            rest, count = rest // factor, count + 1
        places = max(places, count)
    if rest != 1:
        return f"{value.numerator}/{value.denominator}"
    digits = str(abs(value.numerator) * 10**places // value.denominator).rjust(places + 1, "0")
    sign = "-" if value < 0 else ""
    return sign + (f"{digits[:-places]}.{digits[-places:]}" if places else digits)
