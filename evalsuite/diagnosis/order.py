"""Class order: what an Inception Score over consecutive splits makes of the order of a file.

Legend: N samples, K classes.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evalsuite.diagnosis.findings import ALARM, CannotTell, Clear, Finding, Outcome, capped
from evalsuite.diagnosis.material import Material
from evalsuite.metrics.inception_score import (
    ADM_SPLIT_SIZE,
    NUM_SPLITS,
    even_splits,
    score_of_splits,
)

_PER_SPLIT = 5

_PERMUTATIONS = 40
_SPREAD_BETWEEN = 0.02
"""Of a score, relative: no set is blamed for less than five times so much."""


class OrderEffect(NamedTuple):
    """The score by consecutive splits beside the same splits of shuffled samples.

    Attributes:
        in_order: mean over splits, in the order of the samples.
        shuffled: the mean over some permutations.
        z: how far below it lies, in standard deviations of permutations and of clean sets.
    """

    in_order: float
    shuffled: float
    z: float


def order_effect(
    probabilities_NK: NDArray[np.float32], num_splits: int = NUM_SPLITS
) -> OrderEffect:
    """Compare consecutive splits with shuffled ones.

    Balanced labels in turn give a score slightly above the shuffled one, which is no fault.

    Raises:
        DataError: fewer samples than splits.
    """
    splits = even_splits(len(probabilities_NK), num_splits, None)
    in_order = score_of_splits(probabilities_NK, splits).mean
    rng = np.random.default_rng(0)
    scores = [
        score_of_splits(probabilities_NK[rng.permutation(len(probabilities_NK))], splits).mean
        for _ in range(_PERMUTATIONS)
    ]
    shuffled = float(np.mean(scores))
    spread = float(np.hypot(np.std(scores, ddof=1), _SPREAD_BETWEEN * shuffled))
    return OrderEffect(in_order, shuffled, (shuffled - in_order) / spread)


def probe_order(material: Material) -> Outcome:
    """Whether samples come class by class, which ruins scores of consecutive splits."""
    table = material.features
    if table is None or table.probabilities_NK is None:
        return CannotTell(material.why_no("features") if table is None else "no class is seen")
    probabilities_NK = table.probabilities_NK
    splits = min(NUM_SPLITS, len(probabilities_NK) // _PER_SPLIT)
    if splits < 2:
        return CannotTell(f"{len(probabilities_NK)} samples make no two splits")
    effect = order_effect(probabilities_NK, splits)
    seen = (
        f"the Inception Score of {splits} consecutive splits is {effect.in_order:.2f}, of shuffled"
        f" ones {effect.shuffled:.2f}"
    )
    if effect.z < ALARM:
        return Clear(seen)
    if material.layout_is_order and material.num_samples <= ADM_SPLIT_SIZE:
        return Clear(f"{seen}: they lie in a folder for each class, and are few enough for one")
    few = material.num_samples <= ADM_SPLIT_SIZE
    whose = (
        f"with {material.num_samples:,} samples ADM's one split does not feel it, others do"
        if few
        else f"ADM's splits of {ADM_SPLIT_SIZE:,} feel it too"
    )
    return Finding(
        "class-ordered Inception Score",
        capped(effect.z),
        f"samples come class by class: {seen}; {whose}",
        "shuffle samples before they are scored, or interleave classes (label rule modulo)",
    )
