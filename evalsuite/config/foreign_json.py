"""JSON of other people, or of files that may be damaged: what cannot be used is one error."""

import json
import re
from typing import Any

DEEPEST = 64
"""Brackets within brackets; nothing that is read here needs more, and other code takes no more."""
MOST_DIGITS = 300
"""Of a number: a whole one that is longer fits no float."""
_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_NO_BRACKET = re.compile(r"[^\[\]{}]+")
_LONG_NUMBER = re.compile(rf"\d{{{MOST_DIGITS + 1}}}", re.ASCII)


def parse_json(text: str) -> Any:  # noqa: ANN401 - whatever is there
    """The value of a JSON text.

    Raises:
        ValueError: it is no JSON, its brackets are too deep, or a number is too long; the message
            is one short line.
    """
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg} at character {error.pos}") from error
    except RecursionError as error:
        raise ValueError(f"brackets are more than {DEEPEST} deep") from error
    except ValueError as error:
        raise ValueError(f"a number has more than {MOST_DIGITS} digits") from error
    if _LONG_NUMBER.search(text) and _LONG_NUMBER.search(_STRING.sub("", text)):
        raise ValueError(f"a number has more than {MOST_DIGITS} digits")
    if text.count("[") + text.count("{") > DEEPEST and _is_deep(text):
        raise ValueError(f"brackets are more than {DEEPEST} deep")
    return value


def _is_deep(text: str) -> bool:
    """Whether a text that is JSON has brackets deeper than `DEEPEST`."""
    brackets = _NO_BRACKET.sub("", _STRING.sub("", text))
    for _ in range(DEEPEST):
        brackets = brackets.replace("[]", "").replace("{}", "")
        if not brackets:
            return False
    return True
