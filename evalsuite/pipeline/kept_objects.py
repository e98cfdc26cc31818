"""What a verdict's row says that counts, held against all that it says was found.

Rows hold scores of six decimals: of two that are equal here either may have been the better one,
and one at the threshold may have been on either side. What may have been so is not wrong.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from evalsuite.t2i.geneval import GenevalOptions
from evalsuite.t2i.geometry import box_iou

_SCORE_ROUNDING = 1e-6


def wrongly_kept(row: Mapping[str, Any], options: GenevalOptions) -> str:
    """In what the objects that count are none of those that were found; "" where they are."""
    found, threshold = row["detections"], options.threshold_for(row["tag"])
    for name, places in row["kept"].items():
        if len(set(places)) < len(places):
            return f"kept names a detection of {name[:60]!r} twice"
        for one in places:
            if found[one]["class"] != name:
                return f"kept calls detection {one} {name[:60]!r}, which is of another class"
            if found[one]["score"] < threshold - _SCORE_ROUNDING:
                return f"kept names detection {one}, whose score is below {threshold:g}"
    return ""


def otherwise_kept(row: Mapping[str, Any], options: GenevalOptions) -> str:
    """In what the rules keep other objects of a row that `wrongly_kept` passes; "" where in none.

    The rules are those of `keep_objects`: above the threshold, best first, so many of a class, and
    no two of it that are one object.
    """
    found, threshold = row["detections"], options.threshold_for(row["tag"])
    by_class: dict[str, list[int]] = {}
    for place, one in enumerate(found):
        if one["score"] >= threshold - _SCORE_ROUNDING:
            by_class.setdefault(one["class"], []).append(place)
    faults = (
        _fault_of_class(found, places, row["kept"].get(name, []), options, threshold)
        for name, places in by_class.items()
    )
    return next(filter(None, faults), "")


def _fault_of_class(
    found: Sequence[Mapping[str, Any]],
    places: Sequence[int],
    kept: Sequence[int],
    options: GenevalOptions,
    threshold: float,
) -> str:
    """Of one class, of which `places` may be above the threshold and `kept` are said to count."""
    most, scores = options.max_objects, {place: found[place]["score"] for place in places}
    if len(kept) > most:
        return f"kept names {len(kept)} detections of a class of which {most} count at most"
    if any(scores[a] < scores[b] for a, b in pairwise(kept)):
        return f"kept names detection {kept[0]} and others of its class not from the best on"
    for place, score in scores.items():
        ahead = [other for other in kept if other != place and scores[other] >= score]
        is_double = any(_are_one(found, other, place, options) for other in ahead)
        if place in kept:
            if is_double or sum(s > score for s in scores.values()) >= most:
                return f"kept names detection {place}, which the rules leave out"
            continue
        is_one_of_the_best = sum(s >= score for s in scores.values()) <= most  # itself among them
        if score > threshold + _SCORE_ROUNDING and is_one_of_the_best and not is_double:
            return f"kept leaves out detection {place}, which the rules keep"
    return ""


def _are_one(found: Sequence[Mapping[str, Any]], a: int, b: int, options: GenevalOptions) -> bool:
    """Whether two boxes overlap so much that they are one object; 1 keeps all."""
    overlap = box_iou(found[a]["box"], found[b]["box"])
    return options.max_overlap < 1.0 and overlap >= options.max_overlap
