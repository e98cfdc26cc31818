"""Labels: whether a classifier sees the classes that labels name, or sees them elsewhere.

Legend: N samples, K classes.
"""

from collections import Counter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from evalsuite.diagnosis.findings import ALARM, CannotTell, Clear, Finding, Outcome, capped
from evalsuite.diagnosis.material import Material

CLEAN_CONTRADICTED = 0.01
"""Share of samples that surely show another class than their label, of clean sets of digits ..."""
_BETWEEN_SETS = 0.008
"""... and how it varies between settings (docs/why.md)."""
_LEAST_GAIN = 0.05
_SOME = 0.5
_STEPS = 3
"""Samples by which a list of labels may have slipped, in both directions."""


class Reassigned(NamedTuple):
    """Another assignment of labels, and how much better it agrees with what is seen.

    Attributes:
        name: in words.
        agreement: share of samples whose class is the one that it names.
        z: how many more samples agree, in standard errors (McNemar).
    """

    name: str
    agreement: float
    z: float


class Agreement(NamedTuple):
    """Labels beside classes that are seen.

    Attributes:
        share: of samples whose likeliest class is their label.
        contradicted: share that surely shows another class than its label.
        same_mix: whether classes are seen about as often as labels name them.
        best: the assignment that agrees best.
    """

    share: float
    contradicted: float
    same_mix: bool
    best: Reassigned


SURE, RULED_OUT = 0.9, 0.05


def class_agreement(
    probabilities_NK: NDArray[np.float32],
    all_labels: NDArray[np.int64],
    rows_N: NDArray[np.int64],
) -> Agreement:
    """Compare labels with classes, and look for an assignment that fits better.

    Tried are classes shifted by a constant, lists that slipped by a few places, and the best
    one-to-one renaming of classes.

    Args:
        probabilities_NK: of a classifier whose class k is label k.
        all_labels: of the whole set, those of `rows_N` in 0..K-1.
        rows_N: which samples of the set these are.
    """
    labels_N = all_labels[rows_N]
    seen_N = probabilities_NK.argmax(axis=1)
    right_N = seen_N == labels_N
    of_label_N = probabilities_NK[np.arange(len(labels_N)), labels_N]
    contradicted_N = (probabilities_NK.max(axis=1) > SURE) & (of_label_N < RULED_OUT)
    candidates = _candidates(seen_N, all_labels, rows_N, probabilities_NK.shape[1])
    rated = [_rated(name, seen_N == other_N, right_N) for name, other_N in candidates]
    best = max(rated, key=lambda one: one.agreement)
    return Agreement(
        float(right_N.mean()),
        float(contradicted_N.mean()),
        _same_mix(seen_N, labels_N, probabilities_NK.shape[1]),
        best,
    )


def _candidates(
    seen_N: NDArray[np.int64],
    all_labels: NDArray[np.int64],
    rows_N: NDArray[np.int64],
    num_classes: int,
) -> list[tuple[str, NDArray[np.int64]]]:
    """Simple explanations first: of equal agreement the first is taken."""
    labels_N, total = all_labels[rows_N], len(all_labels)
    found = []
    for step in sorted(range(-(num_classes // 2), (num_classes + 1) // 2), key=abs):
        if step:
            # seen = label + step: labels are lower than they should be where step is positive
            name = f"labels shifted by {-step:+d}"
            found.append((name, (labels_N + step) % num_classes))
    for step in (s for k in range(1, _STEPS + 1) for s in (k, -k)):
        slipped_N = all_labels[(rows_N + step) % total]
        found.append((f"the list of labels shifted by {step:+d} places", slipped_N))
    found.append(("the list of labels reversed", all_labels[total - 1 - rows_N]))
    table = np.zeros((num_classes, num_classes))
    np.add.at(table, (labels_N, seen_N), 1)
    rows, columns = linear_sum_assignment(-table)
    renamed = np.empty(num_classes, dtype=np.int64)
    renamed[rows] = columns
    found.append((_renaming(renamed, labels_N), renamed[labels_N]))
    return found


def _renaming(renamed: NDArray[np.int64], labels_N: NDArray[np.int64]) -> str:
    moved = [k for k in np.unique(labels_N).tolist() if renamed[k] != k]
    listed = ", ".join(f"{k} stands for {renamed[k]}" for k in moved[:4])
    more = f" and {len(moved) - 4} more" if len(moved) > 4 else ""
    return f"labels permuted: {listed}{more}"


def _rated(name: str, now_N: NDArray[np.bool_], before_N: NDArray[np.bool_]) -> Reassigned:
    won, lost = int((now_N & ~before_N).sum()), int((before_N & ~now_N).sum())
    z = (won - lost) / np.sqrt(max(won + lost, 1))
    return Reassigned(name, float(now_N.mean()), float(z))


def _same_mix(seen_N: NDArray[np.int64], labels_N: NDArray[np.int64], num_classes: int) -> bool:
    """Overlap of the two histograms is nearly whole: nothing but the pairing may be wrong."""
    seen, named = (np.bincount(a, minlength=num_classes) / len(a) for a in (seen_N, labels_N))
    return bool(np.minimum(seen, named).sum() > 0.8)


def probe_labels(material: Material) -> Outcome:
    """Whether labels are those of other samples or of other classes."""
    table, all_labels = material.features, material.all_labels
    if all_labels is None:
        return CannotTell(material.why_no("labels"))
    if table is None:
        return CannotTell(material.why_no("features"))
    if table.probabilities_NK is None:
        return CannotTell("the extractor gives no classes")
    unsuited = _unsuited(material, all_labels[material.rows_N], table.probabilities_NK.shape[1])
    if unsuited:
        return CannotTell(unsuited)
    # a copy has the label of the sample that it replaced: that is told by another probe
    times = Counter(material.digests)
    alone_N = np.array([times[digest] == 1 for digest in material.digests])
    if not alone_N.any():
        return CannotTell("every sample is a copy of another")
    rows_N = material.rows_N[alone_N]
    found = class_agreement(table.probabilities_NK[alone_N], all_labels, rows_N)
    seen = f"{found.share:.1%} of samples show the class of their label"
    best = found.best
    if best.z >= ALARM and best.agreement > found.share + _LEAST_GAIN:
        return Finding(
            best.name,
            capped(best.z),
            f"{seen}; {best.agreement:.1%} would with {_mended(best.name)} ({best.z:.1f} standard"
            " errors)",
            "give labels in the numbering and the order of the model's classes",
        )
    z = _beyond_clean(found.contradicted, len(rows_N))
    if z >= ALARM and found.same_mix:
        some = found.share > _SOME
        return Finding(
            "some labels permuted" if some else "labels permuted at random",
            capped(z),
            f"{seen}; {found.contradicted:.1%} surely show another class, while every class is seen"
            f" as often as it is named ({z:.1f} standard deviations)",
            "keep each label with its image: look where images or labels are shuffled or gathered",
        )
    return Clear(f"{seen}, {found.contradicted:.1%} surely show another")


def _beyond_clean(contradicted: float, count: int) -> float:
    spread = np.sqrt(CLEAN_CONTRADICTED * (1 - CLEAN_CONTRADICTED) / count + _BETWEEN_SETS**2)
    return float((contradicted - CLEAN_CONTRADICTED) / spread)


def _mended(name: str) -> str:
    return "that undone" if not name.startswith("labels permuted") else "classes renamed so"


def _unsuited(material: Material, labels_N: NDArray[np.int64], num_classes: int) -> str | None:
    """Why the extractor's classes cannot be those of labels."""
    if labels_N.min() < 0 or labels_N.max() >= num_classes:
        return f"labels are {labels_N.min()}..{labels_N.max()}, the extractor has {num_classes}"
    if material.num_classes not in {None, num_classes}:
        return f"labels are of {material.num_classes} classes, the extractor sees {num_classes}"
    real = material.reference
    if real is None or real.labels_M is None or real.probabilities_MK is None:
        return (
            None
            if material.num_classes == num_classes
            else "no labelled reference images show the extractor's classes"
        )
    share = float((real.probabilities_MK.argmax(axis=1) == real.labels_M).mean())
    if share < _SOME:
        return f"of the reference's labelled images the extractor names {share:.0%} rightly"
    return None
