"""GenEval's rules: from what was found in an image to a verdict with its reasons.

Source: GenEval (Ghosh et al. 2023) and its published scorer, commit af4902f. Objects of one clause
are shown to the classifier of colours together, those of several images are not: how many there are
depends on what was found, and a batch of another size may have other last bits and so a verdict of
its own.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from pydantic import Field

from evalsuite.artifacts.images import Images
from evalsuite.config import Frozen
from evalsuite.t2i.colors import COLORS
from evalsuite.t2i.detections import ColorClassifier, Detection, Detections
from evalsuite.t2i.geneval_prompts import Clause, GenevalPrompt
from evalsuite.t2i.geometry import box_iou, relations_of

COUNTING = "counting"
RULES_VERSION = 1
"""Of the rules, and of what is done to a network's input and output before them; to be raised with
every change that gives any image another verdict, so that rows of two kinds are never mixed."""
Kept = Mapping[str, tuple[int, ...]]
"""Class => places in the detector's list, best first."""


class GenevalOptions(Frozen):
    """What decides a verdict besides the detector; part of the protocol."""

    threshold: float = Field(default=0.3, ge=0, le=1)
    """Score above which an object counts, for every tag but counting."""
    counting_threshold: float = Field(default=0.9, ge=0, le=1)
    max_objects: int = Field(default=16, ge=1)
    """Of one class in one image."""
    max_overlap: float = Field(default=1.0, gt=0, le=1)
    """Boxes of one class that overlap as much or more are one object; 1 keeps all."""
    position_threshold: float = Field(default=0.1, ge=0)
    """Share of the two sizes that the centres must be apart."""

    def threshold_for(self, tag: str) -> float:
        """Of one tag."""
        return self.counting_threshold if tag == COUNTING else self.threshold


class Verdict(NamedTuple):
    """Whether an image shows what its prompt asks for, and what it lacks."""

    correct: bool
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class ColorQuestion:
    """Objects of one image whose colour has to be known, asked by one clause."""

    clause: int
    class_name: str
    objects: tuple[int, ...]
    """Places in the detector's list."""


@dataclass(frozen=True, eq=False)
class Judged:
    """Everything about one image that a page shows and a second aggregation needs."""

    verdict: Verdict
    kept: dict[str, tuple[int, ...]]
    colors: dict[int, tuple[str, ...]]
    """Answers by the place of the clause."""


def keep_objects(
    found: Detections, tag: str, options: GenevalOptions
) -> dict[str, tuple[int, ...]]:
    """The objects that count: above the threshold, best first, at most so many of a class.

    Of equal scores the later object comes first, as the original's reversed sort has it.
    """
    threshold = np.float32(options.threshold_for(tag))
    by_class: dict[str, list[int]] = {}
    for place, detection in enumerate(found.found):
        if np.float32(detection.score) > threshold:
            by_class.setdefault(detection.class_name, []).append(place)
    return {name: _best(found.found, places, options) for name, places in by_class.items()}


def _best(
    found: Sequence[Detection], places: Sequence[int], options: GenevalOptions
) -> tuple[int, ...]:
    ordered = sorted(places, key=lambda i: (np.float32(found[i].score), i), reverse=True)
    kept: list[int] = []
    for place in ordered[: options.max_objects]:
        box = found[place].box
        apart = options.max_overlap == 1.0 or all(
            box_iou(found[other].box, box) < options.max_overlap for other in kept
        )
        if apart:
            kept.append(place)
    return tuple(kept)


def color_questions(kept: Kept, prompt: GenevalPrompt) -> tuple[ColorQuestion, ...]:
    """What has to be asked of a colour classifier: no more, and no less."""
    asked = []
    for place, clause in enumerate(prompt.include):
        objects = kept.get(clause.class_name, ())[: clause.count]
        if clause.color is not None and len(objects) == clause.count:
            asked.append(ColorQuestion(place, clause.class_name, objects))
    return tuple(asked)


def judge(
    found: Detections,
    kept: Kept,
    prompt: GenevalPrompt,
    colors: Mapping[int, Sequence[str]],
    options: GenevalOptions,
) -> Verdict:
    """The verdict of one image.

    Args:
        found: what the detector found.
        kept: from `keep_objects`.
        prompt: what is asked.
        colors: answers to `color_questions` by the place of their clause.
        options: thresholds.
    """
    reasons: list[str] = []
    matched: list[tuple[int, ...] | None] = []
    for place, clause in enumerate(prompt.include):
        objects = kept.get(clause.class_name, ())[: clause.count]
        reason = _missing(clause, objects) or _discoloured(clause, colors.get(place, ()))
        reason = reason or _misplaced(clause, objects, matched, found, options)
        matched.append(None if reason else objects)
        reasons += [reason] if reason else []
    for exclusion in prompt.exclude:
        number = len(kept.get(exclusion.class_name, ()))
        if number >= exclusion.count:
            name = exclusion.class_name
            reasons.append(f"expected {name}<{exclusion.count}, found {number}")
    return Verdict(not reasons, tuple(reasons))


def judge_image(
    image: Images,
    found: Detections,
    prompt: GenevalPrompt,
    classifier: ColorClassifier,
    options: GenevalOptions,
) -> Judged:
    """Keep, ask and judge in one: image uint8 [H,W,3]."""
    kept = keep_objects(found, prompt.tag, options)
    colors = {
        question.clause: classifier.colors_of(
            image, [found.found[i] for i in question.objects], question.class_name
        )
        for question in color_questions(kept, prompt)
    }
    return Judged(judge(found, kept, prompt, colors, options), kept, colors)


def _missing(clause: Clause, objects: Sequence[int]) -> str:
    if len(objects) == clause.count:
        return ""
    return f"expected {clause.class_name}>={clause.count}, found {len(objects)}"


def _discoloured(clause: Clause, answers: Sequence[str]) -> str:
    if clause.color is None:
        return ""
    counts = Counter(answers)
    if counts[clause.color] >= clause.count:
        return ""
    others = ", ".join(f"{counts[color]} {color}" for color in COLORS if color in counts)
    return (
        f"expected {clause.color} {clause.class_name}>={clause.count}, found"
        f" {counts[clause.color]} {clause.color}; and {others}"
    )


def _misplaced(
    clause: Clause,
    objects: Sequence[int],
    matched: Sequence[tuple[int, ...] | None],
    found: Detections,
    options: GenevalOptions,
) -> str:
    if clause.position is None:
        return ""
    relation, target = clause.position
    references = matched[target]
    if references is None:
        return f"no target for {clause.class_name} to be {relation}"
    for subject in objects:
        for reference in references:
            held = relations_of(
                found.found[subject].box, found.found[reference].box, options.position_threshold
            )
            if relation not in held:
                seen = " and ".join(held)
                return f"expected {clause.class_name} {relation} target, found {seen} target"
    return ""
