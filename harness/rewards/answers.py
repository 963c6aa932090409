"""Which part of a response is its answer, and that answer in one form whoever wrote it.

The normal form of a formula goes to math-verify, for the reference answer and the model's alike. What it removes is
what people add around the same value: `50\\%` is 50, `90^\\circ` is 90, `1\\,234` is 1234, `1.5e3` is 1.5 × 10³,
`5.` is 5. docs/grading.md has every pair that it was judged by.
"""

from __future__ import annotations

import re
from fractions import Fraction

from harness.rewards.numbers import LONGEST_NUMBER, leading_number, plain_signs

LONGEST_ANSWER = 1000  # characters; no reference answer comes near it

_HASHES = re.compile(rf"####+\s*([^#\n]{{0,{LONGEST_NUMBER + 1}}})")
_BOX_OR_BRACE = re.compile(r"(?P<box>\\(?:boxed|fbox)(?![A-Za-z])\s*(?P<open>\{)?)|\\.|[{}]", re.DOTALL)
_UNBRACED = re.compile(rf"[^\s${{}}][^\s$]{{0,{LONGEST_ANSWER}}}")

UNESCAPED_DOLLAR = re.compile(r"(?<!\\)\$")  # a formula's delimiters, not an amount of money
_BOLD = re.compile(r"\*\*(.*)\*\*", re.DOTALL)
_LOOKS = re.compile(  # how an answer is drawn, not what it says
    r"\\(?:text)?color\s*\{\w+\}"
    r"|\\(?:boldsymbol|underline|bm|bf|large|Large|huge|displaystyle|textstyle|checkmark)(?![A-Za-z])"
    r"|\\\\\s*$|(?<=\\\\)\[\d*\.?\d+(?:pt|em|ex|mm)\]"
)
_AROUND = re.compile(r"\\(?:text|textbf|mathrm|mbox)\s*\{([^{}]*[\d,][^{}]*)\}")  # \text{25\%}, no word
_LEAD = re.compile(r"\\text\s*\{[^{}]*(?:\bis|[:=])\s*\}\s*(?=\S)")  # \text{The answer is }
_ORDINAL = re.compile(r"(?<=\d)\s*\^?\s*\{?\s*\\(?:text|mathrm)\s*\{\s*(?:st|nd|rd|th)\s*\}\}?")
_TO = re.compile(r"(?<=\d)\s*(?:\\text\s*\{\s*to\s*\}|\bto\b)\s*(?=\d)")
_MIXED = re.compile(r"(?<![\d.\w}])(\d{1,9}) +(\d{1,9})\s*/\s*(\d{1,9})(?![\d.])", re.ASCII)  # 3 1/2
_REPEATING = re.compile(
    r"(?<![\d.])(\d{0,99})\.(\d{0,99})\\(?:overline|bar)\s*\{\s*(\d{1,99})\s*\}", re.ASCII
)  # 0.\overline{3}
_UNIT_LETTER = re.compile(r"\\(?:mathrm|text)\s*\{\s*([ie])\s*\}")  # 1+2\mathrm{i}
_CURRENCY = re.compile(r"[€£¥]|\\(?:pounds|euro)\b")
_GROUPS = re.compile(r"(?<![\d.])\d{1,3}(?: \d{3})+(?!\d)", re.ASCII)  # 1 234 567
_DEGREES = re.compile(
    r"\s*(?:°|\^\s*\{?\s*\\circ\s*\}?"
    r"|(?<=\d)\s*\^\s*(?:o\b|\{\s*(?:o|\\text\s*\{\s*o\s*\})\s*\})|\\(?:text)?degree\b"
    r"|\\text\s*\{\s*degrees?\s*\})(?:\s*\\(?:text|mathrm)\s*\{\s*[CF]\s*\})?"
)
_ANGLE = re.compile(r"(\d+(?:\.\d+)?)\s*(?:°|\^\s*\{?\s*\\circ\s*\}?)", re.ASCII)
_ANGLE_FUNCTION = re.compile(r"\\?(?:sin|cos|tan|cot|sec|csc)\b")
_PERCENT = re.compile(
    r"\s*(?:\\?%|\\(?:text|mbox|mathrm)\s*\{\s*(?:\\?%|per\s?cent)\s*\}|\bper\s?cent)\s*(?:\\text\s*\{[^{}]*\}\s*)?$"
)
_EXPONENT = re.compile(r"(?<![\w.\\])(-?(?:\d+\.?\d*|\.\d+))[eE]([-+]?\d{1,3})(?!\w)", re.ASCII)
_WORD = re.compile(r"\\(?:text|textbf|mathrm|mbox)\s*\{\s*\(?([A-Za-z]+)\)?\s*\}")
_TEXT = re.compile(r"\\(?:text|textbf|textit|mathrm|mbox)\s*\{([^{}]*)\}")
_OPTION = re.compile(r"(?:\(\s*([A-J])\s*\)|([A-J])\s*(?:[).:]|$))")
_OPTION_MARK = re.compile(r"\b[A-J]\s*\)")
_BASES = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
_NUMERAL = re.compile(
    r"(?P<digits>[0-9A-F]+)\s*_\s*\{?\s*(?:\\(?:text|mathrm)\s*\{\s*)?(?P<base>\d+|[a-z]+)\s*\}{0,2}", re.ASCII
)
_NOTHING = {"", "nan", "none", "null", "na", "n/a", "undefined", "unknown", "?", "-", "--", "todo", "tbd"}
_MACRO = re.compile(r"\\(?:text|textbf|mathrm|mbox|operatorname)\s*\{[^{}]*\}|\\[A-Za-z]+")
_END = re.compile(r"(?<!\\right)(?:\s|[.,;])+$")


def last_boxed(text: str) -> str | None:
    """What stands in the last box that is closed: `\\boxed{…}`, `\\boxed {…}`, `\\fbox{…}` or `\\boxed 2`.

    Braces are balanced, escaped ones (`\\{`) aside; a box that is cut off does not hide a whole one before it.
    Returns None if there is none. One pass.
    """
    best, content = -1, None
    open_braces: list[int] = []  # where the content of each begins; -1: no box
    for found in _BOX_OR_BRACE.finditer(text):
        if found["open"]:
            open_braces.append(found.end())
        elif found["box"]:
            bare = _UNBRACED.match(text, found.end())
            if bare and found["box"][-1:].isspace() | (bare[0][0] == "\\") | bare[0][0].isdigit():
                best, content = found.end(), bare[0]
        elif found[0] == "{":
            open_braces.append(-1)
        elif found[0] == "}" and open_braces:
            begin = open_braces.pop()
            if begin > best:
                best, content = begin, text[begin : found.start()]
    return content


def last_tagged(text: str) -> str | None:
    """What stands in the last `<answer>…</answer>`; None if there is none."""
    end = text.rfind("</answer>")
    start = text.rfind("<answer>", 0, max(end, 0))
    return text[start + len("<answer>") : end] if start >= 0 else None


def number_after_hashes(text: str) -> Fraction | None:
    """The number behind the last `####` that has one; None if there is none."""
    numbers = (leading_number(line) for line in reversed(_HASHES.findall(text)))
    return next((number for number in numbers if number is not None), None)


def normal_formula(text: str) -> tuple[str, bool]:
    """A formula without what people add around the same value.

    text: the content of a box, or a reference answer.
    Returns its normal form, and whether a percent sign was taken from it.
    """
    text = _END.sub("", UNESCAPED_DOLLAR.sub("", plain_signs(text))).strip()
    bold = _BOLD.fullmatch(text)
    text = _END.sub("", bold[1]).strip() if bold else text
    text = _undecorated(text)
    text = _GROUPS.sub(lambda m: m[0].replace(" ", ""), text)
    in_radians = bool(_ANGLE_FUNCTION.search(text))
    text = _ANGLE.sub(r"{\\frac{\1\\pi}{180}}", text) if in_radians else _DEGREES.sub("", text)
    whole = _PERCENT.sub("", text)
    return _END.sub("", _EXPONENT.sub(r"\1 \\times 10^{\2}", whole)).strip(), whole != text


def _undecorated(text: str) -> str:
    """A formula without colours, sizes and words around it, its numbers in the form that math-verify reads."""
    text = text.replace("\\text{:}", ":").replace("{:}", ":").replace("\\varnothing", "\\emptyset")
    text = _LEAD.sub("", _CURRENCY.sub("", _LOOKS.sub("", text)), count=1).strip()
    around = _AROUND.fullmatch(text)
    text = _TO.sub(":", around[1].strip() if around else text)
    text = _UNIT_LETTER.sub(r"\1", text) if _UNIT_LETTER.fullmatch(text) is None else text
    text = _MIXED.sub(_mixed, _ORDINAL.sub("", text))
    return _REPEATING.sub(_fraction, text)


def _mixed(found: re.Match[str]) -> str:
    """A mixed number's fraction in LaTeX; other numbers side by side as they are."""
    whole, above, below = found.groups()
    return f"{whole}\\frac{{{above}}}{{{below}}}" if int(above) < int(below) else found[0]


def _fraction(found: re.Match[str]) -> str:
    """A repeating decimal as the fraction that it is."""
    whole, fixed, repeated = found.groups()
    shift = 10 ** len(fixed)
    value = Fraction(int(whole + fixed or "0"), shift) + Fraction(int(repeated), shift * (10 ** len(repeated) - 1))
    return f"\\frac{{{value.numerator}}}{{{value.denominator}}}"


def phrase(formula: str) -> str | None:
    """What a formula holds besides `\\text{…}`, with single spaces; None where it has other macros.

    formula: for instance `6:30\\text{ p.m.}`, `\\text{Alice and Bob}` or `Alice and Bob`.
    """
    plain = _TEXT.sub(r"\1", formula)
    return None if set(plain) & set("\\^_") else " ".join(plain.split()).rstrip(" .,;")


def option(text: str) -> str | None:
    """The letter of a multiple choice answer: `B` of `(B)`, `B.`, `\\textbf{(B) }12` and `B) 12`; None of others."""
    text = _TEXT.sub(r"\1", text).strip()
    found = _OPTION.match(text)
    return (found[1] or found[2]) if found and not _OPTION_MARK.search(text, found.end()) else None


def in_base(formula: str) -> tuple[str, str]:
    """Digits and base of a numeral such as `1011_2` or `4210_{\\text{five}}`; the base is "" where there is none."""
    found = _NUMERAL.fullmatch(formula)
    if found is None:
        return formula, ""
    base = found["base"].lower()
    return found["digits"], str(_BASES.index(base)) if base in _BASES else base


def word(formula: str) -> str | None:
    """The one word that `\\text{Word}` or `\\text{(A)}` holds, in lower case; None for anything else."""
    found = _WORD.fullmatch(formula)
    return found[1].lower() if found else None


def is_nothing(answer: str) -> bool:
    """Whether a reference answer says that there is none (nan, None, N/A, ?), is prose, or is cut off."""
    text = normal_formula(answer)[0]
    braces = "".join(m[0] for m in _BOX_OR_BRACE.finditer(text) if m[0] in "{}")
    depth = [braces[:i].count("{") - braces[:i].count("}") for i in range(1, len(braces) + 1)]
    cut_off = bool(depth) and (depth[-1] != 0 or min(depth) < 0)
    words = re.findall(r"[^\W\d_]{2,}", _MACRO.sub(" ", text))
    prose = len(words) >= (5 if any(map(str.isdigit, text)) else 3)
    return (word(text) or text.lower()) in _NOTHING or prose or cut_off
