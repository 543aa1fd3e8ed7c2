"""Checks every number that comes in from outside: its type, its range, and that it is a number at all.

One rule for all parameters, settings and variables of the environment:

- Whole numbers are integers of Python or of a library (numpy's). Seconds and other amounts are those, or floats of
  either. What is exact elsewhere and not here (`Decimal`, `Fraction`), texts and truth values are refused: a
  conversion is the user's to make.
- What is refused is refused by the parameter's name, with the value.
- Infinity is a number only where it has a meaning: no bound, or to wait without end.

Nothing here knows a parameter. Pure: no Ray, no clock, no store.
"""

from __future__ import annotations

import math
import numbers
import operator
import re
from typing import Any

from holdfast.engine.errors import InvalidNumberError, NotANumberError
from holdfast.engine.redaction import redact, written

FARTHEST_UNIX_S = 253_370_764_800.0
"""The year 9999, as a time and as a duration: what waits longer waits until then, since no calendar goes further."""

_WHOLE = re.compile(r"\s*[+-]?[0-9]+\s*")
_MOST_DIGITS = 100

LARGEST = (1 << 63) - 1
"""The largest whole number that is taken: rows hold no larger ones."""


def check_whole(
    name: str,
    value: Any,
    *,
    least: int,
    most: int = LARGEST,
    also: int | None = None,
    unit: str = "",
    meaning: str = "",
) -> int:
    """Checks a whole number, and gives it as Python's own.

    Args:
        name: The parameter, as its user knows it.
        value: What was given.
        least: The smallest one there may be.
        most: The largest one.
        also: One more that is allowed, as -1.
        unit: Of what, as "bytes"; for the message.
        meaning: What `also` means; for the message.

    Raises:
        NotANumberError: Not a whole number.
        InvalidNumberError: Out of range.
    """
    rule = f"a whole number{f' of {unit}' if unit else ''} {'above 0' if least == 1 else f'of at least {least}'}"
    in_range = rule
    if also is not None:
        rule += f", or {also} for {meaning}"
        in_range = f"{least} or more, or {also} for {meaning}"
    if _is_truth(value) or not isinstance(value, numbers.Integral):
        raise NotANumberError(name, rule, _shown(value))
    found = operator.index(value)
    if found != also and found < least:
        raise InvalidNumberError(name, in_range, _shown(value))
    if found > most:
        raise InvalidNumberError(name, f"{in_range}, and {most} at most", _shown(value))
    return found


def check_whole_text(name: str, text: str, *, least: int, most: int = LARGEST, unit: str = "") -> int:
    """Checks a whole number that is written out, as in a variable of the environment.

    Args:
        name: The variable.
        text: What it holds.
        least: The smallest one there may be.
        most: The largest one.
        unit: Of what; for the message.

    Raises:
        NotANumberError: Not a whole number.
        InvalidNumberError: Out of range.
    """
    if not _WHOLE.fullmatch(text):
        return check_whole(name, text, least=least, most=most, unit=unit)
    # Longer ones are out of range whatever they are, and Python may refuse to read them.
    return check_whole(name, int(text[:_MOST_DIGITS]), least=least, most=most, unit=unit)


def check_number(
    name: str,
    value: Any,
    *,
    least: float = 0.0,
    above: bool = False,
    most: float = FARTHEST_UNIX_S,
    infinite: str = "",
    unit: str = "seconds",
    rule: str = "",
) -> float:
    """Checks an amount, and gives it as a float.

    Args:
        name: The parameter, as its user knows it.
        value: What was given.
        least: The smallest one there may be.
        above: It must be more than `least`.
        most: The largest one.
        infinite: Refuse infinity with this advice, as "-1 for ever". Default: nothing more is said.
        unit: Of what; for the message. Empty for a mere number.
        rule: What it must be, for the message, where that is not to be made of the others.

    Raises:
        NotANumberError: Neither an integer nor a float.
        InvalidNumberError: Not finite, or out of range.
    """
    rule = rule or f"a number{f' of {unit}' if unit else ''} {'above' if above else 'of at least'} {least:g}"
    found = _float(name, rule, value)
    if not math.isfinite(found):
        raise InvalidNumberError(name, f"{rule}{f', or {infinite}' if infinite else ', and finite'}", _shown(value))
    if found < least or (above and found == least):
        raise InvalidNumberError(name, f"{rule}{f', or {infinite}' if infinite else ''}", _shown(value))
    if found > most:
        raise InvalidNumberError(name, f"{rule}, and {most:.15g} at most", _shown(value))
    return found


def check_unbounded(name: str, value: Any, *, least: float = 0.0, above: bool = False, unit: str = "seconds") -> float:
    """Checks an amount that may be infinite: what no calendar holds becomes the longest that one does.

    Args:
        name: As for `check_number`.
        value: As for `check_number`.
        least: As for `check_number`.
        above: As for `check_number`.
        unit: As for `check_number`.

    Returns:
        A finite number, so that it can be stored.

    Raises:
        NotANumberError: Neither an integer nor a float.
        InvalidNumberError: Not a number (NaN), or too small.
    """
    rule = f"a number{f' of {unit}' if unit else ''} {'above' if above else 'of at least'} {least:g}"
    found = _float(name, rule, value, huge=math.inf)
    if math.isnan(found) or found < least or (above and found == least):
        raise InvalidNumberError(name, rule, _shown(value))
    return min(found, FARTHEST_UNIX_S)


def check_limit(
    name: str, value: Any, *, least: float = 0.0, above: bool = False, unit: str = "seconds"
) -> float | None:
    """Checks an upper bound: None and infinity are no bound.

    Args:
        name: As for `check_number`.
        value: As for `check_number`.
        least: As for `check_number`.
        above: As for `check_number`.
        unit: As for `check_number`.

    Raises:
        NotANumberError: Neither an integer nor a float.
        InvalidNumberError: Not a number (NaN), or too small.
    """
    if value is None:
        return None
    found = check_unbounded(name, value, least=least, above=above, unit=unit)
    return None if found >= FARTHEST_UNIX_S else found


def _float(name: str, rule: str, value: Any, huge: float | None = None) -> float:
    exact = isinstance(value, numbers.Rational) and not isinstance(value, numbers.Integral)
    if _is_truth(value) or exact or not isinstance(value, numbers.Real):
        raise NotANumberError(name, rule, _shown(value))
    try:
        return float(value)
    except OverflowError:
        if huge is not None:
            return huge if value > 0 else -huge  # type: ignore[operator] # each real number is one or the other
        raise InvalidNumberError(name, f"{rule}, and finite", _shown(value)) from None


def _is_truth(value: Any) -> bool:
    # numpy's is not Python's, and registered as no kind of number.
    return isinstance(value, bool)


def _shown(value: Any) -> str:
    shown = written(value)
    if not isinstance(value, numbers.Number):
        # A text may be a secret that was given in the wrong place.
        shown = redact(shown)
    return shown if len(shown) <= 200 else f"{shown[:200]}..."
