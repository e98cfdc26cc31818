"""What a page shows of verdicts: bars, and images with marks on them."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Tick(NamedTuple):
    """A published score on a bar."""

    model: str
    value: float
    share: float
    """Of the bar's length, 0 to 100."""


class Bar(NamedTuple):
    """One tag's score, with its interval, beside published ones; lengths are 0 to 100."""

    name: str
    value: float
    share: float
    low: float | None
    high: float | None
    interval: tuple[float, float] | None
    ticks: list[Tick]


class Mark(NamedTuple):
    """An object that was found in an image."""

    words: str
    box: tuple[float, float, float, float]
    """x1, y1, x2, y2 in pixels."""
    path: str
    """Outline of the mask in pixels; empty where there is none."""
    is_asked: bool
    """Whether the prompt asks for its class."""
    is_kept: bool
    """Whether it counts; of the others, those of an asked class are shown."""


class Card(NamedTuple):
    """One image."""

    sample: int
    uri: str
    size: tuple[int, int]
    """Width and height of the image, in whose pixels marks are."""
    prompt: str
    correct: bool | None
    """None where there is no right and wrong."""
    lines: list[str]
    """Reasons, answers or scores."""
    marks: list[Mark]


class More(NamedTuple):
    """Images that open on demand."""

    words: str
    """What they are: `12 more that are wrong`."""
    cards: list[Card]


class Group(NamedTuple):
    """Images of one tag."""

    name: str
    words: str
    cards: list[Card]
    more: list[More]


def bar_of(name: str, one: Mapping[str, Any], most: float, published: Mapping[str, float]) -> Bar:
    """A bar of `one`, which has `score` and `interval`; `most` is its full length."""

    def share(value: float) -> float:
        return round(100 * min(max(value / most, 0.0), 1.0), 2)

    interval = one["interval"]
    low, high = (None, None) if interval is None else (share(interval[0]), share(interval[1]))
    ticks = [Tick(model, value, share(value)) for model, value in published.items()]
    shown = None if interval is None else (interval[0], interval[1])
    return Bar(name, one["score"], share(one["score"]), low, high, shown, ticks)


def spread(candidates: Sequence[tuple[int, str]], count: int) -> list[int]:
    """Up to `count` indices, one of each key before a second of any; in the order of indices."""
    seen: dict[str, int] = {}
    ranked = []
    for index, key in sorted(candidates):
        seen[key] = seen.get(key, 0) + 1
        ranked.append((seen[key], index))
    return sorted(index for _, index in sorted(ranked)[:count])
