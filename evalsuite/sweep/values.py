"""Values of an axis as a person writes them: ranges, lists, pairs."""

import decimal
import math
from decimal import Decimal

import yaml

from evalsuite.config import AxisValue, Scalar
from evalsuite.errors import UsageError

MOST_VALUES = 10_000
PAIRS = ("guidance_interval",)
"""Settings whose value is LO:HI."""
_WORDS = ("weights", "ema", "guide_weights", "guide_model", "guide_ema")
"""Settings whose values are names, also where they look like numbers."""


def parse_values(name: str, text: str) -> tuple[AxisValue, ...]:
    """Values of one axis from `1.5:4.0:0.25`, `1,2,3`, or `0.1:1.0,0.3:1.0` of an interval.

    Raises:
        UsageError: an empty list, a range that is reversed or has no end, a value given twice.
    """
    items = [item.strip() for item in text.split(",")]
    if not all(items):
        raise UsageError(f"{_flag(name)} {text!r} has an empty place: give values such as 1,2,3")
    values: list[AxisValue] = []
    for item in items:
        values += _item(name, item)
        if len(values) > MOST_VALUES:
            raise UsageError(f"{_flag(name)} {text!r} has more than {MOST_VALUES} values")
    check_distinct(name, values)
    return tuple(values)


def check_distinct(name: str, values: "list[AxisValue] | tuple[AxisValue, ...]") -> None:
    """Raise UsageError when an axis has no value, one twice, or a number that is not finite."""
    if not values:
        raise UsageError(f"axis {name!r} has no values")
    for value in values:
        if not all(math.isfinite(part) for part in _floats(value)):
            raise UsageError(f"axis {name!r}: {shown(value)} is no finite number")
    for place, value in enumerate(values):
        if value in values[:place]:
            raise UsageError(f"axis {name!r} has {shown(value)} twice")


def _floats(value: AxisValue) -> list[float]:
    """Floating numbers in a value."""
    parts: list[object] = [value]
    if isinstance(value, dict | tuple):
        parts = [*(value.values() if isinstance(value, dict) else value)]
    nested = [one for part in parts for one in (part if isinstance(part, tuple) else (part,))]
    return [part for part in nested if isinstance(part, float)]


def _item(name: str, item: str) -> list[AxisValue]:
    if name in _WORDS:
        return [item]
    parts = item.split(":")
    if name in PAIRS:
        if len(parts) != 2:
            raise UsageError(f"{_flag(name)} {item!r} must be LO:HI, or several: 0.1:1.0,0.3:1.0")
        return [tuple(float(_decimal(name, part, item)) for part in parts)]
    if len(parts) == 1:
        return [_scalar(name, item)]
    if len(parts) != 3:
        raise UsageError(f"{_flag(name)} {item!r} is no range: write START:STOP:STEP")
    return list(_range(name, item, parts))


def _range(name: str, item: str, parts: list[str]) -> list[Scalar]:
    """START, START + STEP, ... up to STOP, which is included; in decimal, so nothing drifts."""
    start, stop, step = (_decimal(name, part, item) for part in parts)
    if step <= 0:
        raise UsageError(f"{_flag(name)} {item!r}: the step must be above 0")
    if stop < start:
        raise UsageError(
            f"{_flag(name)} {item!r} is reversed: {parts[0]} comes after {parts[1]}; write"
            f" {parts[1]}:{parts[0]}:{parts[2]}"
        )
    if stop - start >= step * MOST_VALUES:  # before it becomes a whole number of any length
        raise UsageError(f"{_flag(name)} {item!r} has more than {MOST_VALUES} values")
    count = int((stop - start) / step) + 1
    values = [start + place * step for place in range(count)]
    if any("." in part or "e" in part.lower() for part in parts):
        return [float(value) for value in values]
    return [int(value) for value in values]


def _decimal(name: str, part: str, item: str) -> Decimal:
    """A number that a float can hold, so that arithmetic with it neither fails nor takes long."""
    try:
        value = Decimal(part.strip())
        fits = value.is_finite() and math.isfinite(float(value))
    except decimal.DecimalException:
        fits = False
    if not fits:
        raise UsageError(f"{_flag(name)} {item!r}: {part!r} is no number")
    return value


def _scalar(name: str, item: str) -> Scalar:
    """A number, a truth value or a word, as YAML reads it; 1e-4 is a number too."""
    try:
        if item.removeprefix("-").removeprefix("+").isdecimal():
            return int(item)
        return _float(name, item)
    except decimal.DecimalException:
        pass
    except ValueError as error:  # more digits than Python takes
        raise UsageError(f"{_flag(name)} {item!r} is no value") from error
    try:
        found = yaml.safe_load(item)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a day that is none
        raise UsageError(f"{_flag(name)} {item!r} is no value") from error
    return found if isinstance(found, bool | int | float) else item


def _float(name: str, item: str) -> float:
    """A finite number.

    Raises:
        decimal.DecimalException: it is no number.
        UsageError: it is none that is finite.
    """
    value = Decimal(item)
    if not value.is_finite() or not math.isfinite(float(value)):
        raise UsageError(f"{_flag(name)} {item!r} is no finite number")
    return float(value)


def shown(value: AxisValue) -> str:
    """A value in few words: `2.5`, `0.1:1`, `solver=adams order=2`."""
    if isinstance(value, dict):
        return " ".join(f"{key}={shown(part)}" for key, part in value.items())
    if isinstance(value, tuple):
        return ":".join(shown(part) for part in value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    return str(value)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
