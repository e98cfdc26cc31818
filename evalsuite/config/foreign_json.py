"""JSON of other people, or of files that may be damaged: what cannot be used is one error."""

import json
import math
import re
from typing import Any, NoReturn

DEEPEST = 64
"""Brackets within brackets; nothing that is read here needs more, and other code takes no more."""
MOST_DIGITS = 300
"""Of a number: a whole one that is longer fits no float."""
_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_NO_BRACKET = re.compile(r"[^\[\]{}]+")
_LONG_NUMBER = re.compile(rf"\d{{{MOST_DIGITS + 1}}}", re.ASCII)


class _RefusedError(ValueError):
    """What is not taken: NaN and infinities, of which no hash is taken, and a key given twice."""


def parse_json(content: str | bytes) -> Any:  # noqa: ANN401 - whatever is there
    """The value of a JSON text, or of its bytes.

    Raises:
        ValueError: it is no JSON, its brackets are too deep, or a number is too long, too large or
            none, or a key is given twice; the message is one short line.
    """
    text = content if isinstance(content, str) else content.decode(json.detect_encoding(content))
    try:
        value = json.loads(
            text, parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_unique
        )
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg} at character {error.pos}") from error
    except _RefusedError:
        raise
    except RecursionError as error:
        raise ValueError(f"brackets are more than {DEEPEST} deep") from error
    except ValueError as error:
        raise ValueError(f"a number has more than {MOST_DIGITS} digits") from error
    if _LONG_NUMBER.search(text) and _LONG_NUMBER.search(_STRING.sub("", text)):
        raise ValueError(f"a number has more than {MOST_DIGITS} digits")
    if text.count("[") + text.count("{") > DEEPEST and _is_deep(text):
        raise ValueError(f"brackets are more than {DEEPEST} deep")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise _RefusedError(f"{name} is no number in JSON")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise _RefusedError("a number is too large")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise _RefusedError(f"key {name[:40]!r} is given twice")
        found[name] = value
    return found


def _is_deep(text: str) -> bool:
    """Whether a text that is JSON has brackets deeper than `DEEPEST`."""
    brackets = _NO_BRACKET.sub("", _STRING.sub("", text))
    for _ in range(DEEPEST):
        brackets = brackets.replace("[]", "").replace("{}", "")
        if not brackets:
            return False
    return True
