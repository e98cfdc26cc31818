"""What probes look at: a few samples, what is recorded of them, what they are claimed to be.

Legend: N samples, M pictures, K classes, D feature dimensions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evalsuite.artifacts.features import FeatureTable
from evalsuite.artifacts.images import Images
from evalsuite.artifacts.records import Record
from evalsuite.config import Claim, ExtractorSpec, ModelPreset, Plan, ReferenceSpec
from evalsuite.diagnosis.twins import Twins
from evalsuite.metrics.frechet import ReferenceFactor, frechet_distance
from evalsuite.metrics.moments import moments_of
from evalsuite.pipeline.claims import changed_settings

MOST = 2000
"""Samples that are looked at."""
FARTHER = 3.0
"""A reference of another kind is so many times farther than one that fits."""
FAR = 0.15
"""Of the variance of a reference's features. Digits without guidance, in two steps or of 30 samples
are at 0.03 to 0.1, those that are turned by 180 degrees at 0.26, inverted ones at 0.73."""


class ScoredAgain(NamedTuple):
    """A record, and the number that its samples give by the same protocol."""

    record: Record
    value: float


@dataclass(frozen=True, eq=False)
class Expected:
    """What the samples are said to reproduce.

    Attributes:
        preset: the model.
        claim: its published figure, when it has one.
        given: whether the user named it; otherwise it is the model of the run.
    """

    preset: ModelPreset
    claim: Claim | None
    given: bool

    @property
    def whose(self) -> str:
        """`the claim's`, or `the preset's` where nobody claims anything."""
        return "the claim's" if self.claim is not None else "the preset's"


@dataclass(frozen=True, eq=False)
class RealData:
    """A reference, as far as it can be used here.

    Attributes:
        name: as it is shown.
        spec: what is known of it without its file.
        given: whether the user named it.
        unfit: why samples cannot be compared with it; None when they can.
        wrong: whether that is a mismatch, and not merely a file that is not here.
        factor: its pooled features.
        images_MHWC: some of its images.
        labels_M: theirs.
        features_MD: pooled features of these images.
        probabilities_MK: class probabilities of these images.
    """

    name: str
    spec: ReferenceSpec | None = None
    given: bool = False
    unfit: str | None = None
    wrong: bool = False
    factor: ReferenceFactor | None = None
    images_MHWC: Images | None = None
    labels_M: NDArray[np.int64] | None = None
    features_MD: NDArray[np.float32] | None = None
    probabilities_MK: NDArray[np.float32] | None = None


@dataclass(frozen=True, eq=False)
class Material:
    """What probes look at; a part that is not there is None, and `lacking` says why.

    Attributes:
        where: for messages.
        num_samples: of the whole set.
        size: (H, W).
        rows_N: indices in the whole set of the samples that are looked at, in order.
        digests: of their pixels.
        images_MHWC: pixels, in order; those of a run may be fewer than N.
        image_rows_M: indices in the whole set of these.
        codec: `lossless`, `lossy` or None when unknown.
        all_labels: class labels of the whole set.
        num_classes: that labels are of; None when unknown.
        features: of N samples, in order.
        extractor: whose features they are.
        embed: makes features of other images.
        layout_is_order: whether samples come in the order of their classes only because they lie
            in a folder for each class.
        asked: the reference of the number that is to be explained, whether or not it fits.
        reference: what samples are compared with here: `asked`, or the nearest that fits.
        others: further references of the same extractor and size that are here.
        expected: what the samples are said to reproduce.
        plan: what made them.
        records: what was measured of them.
        scored_again: those that were computed once more.
        twins: some of the samples, made again.
        lacking: why a part is None, by its name.
    """

    where: str
    num_samples: int
    size: tuple[int, int]
    rows_N: NDArray[np.int64]
    digests: Sequence[str]
    images_MHWC: Images | None
    image_rows_M: NDArray[np.int64]
    codec: str | None
    all_labels: NDArray[np.int64] | None
    num_classes: int | None
    features: FeatureTable | None
    extractor: ExtractorSpec | None
    embed: Callable[[Images], FeatureTable] | None
    layout_is_order: bool
    asked: RealData | None
    reference: RealData | None
    others: Sequence[RealData]
    expected: Expected | None
    plan: Plan | None
    records: Sequence[Record]
    scored_again: Sequence[ScoredAgain]
    twins: Twins | None
    lacking: dict[str, str]

    @cached_property
    def distance(self) -> float | None:
        """Frechet distance of the samples to the reference; None without features of both."""
        if self.features is None or self.reference is None or self.reference.factor is None:
            return None
        return frechet_distance(moments_of(self.features.pool_ND), self.reference.factor)

    @cached_property
    def is_far(self) -> bool | None:
        """Whether the samples lie farther from the reference than guidance or steps take them.

        By the distance less its bias of few samples, 2 F(N) - mean F(N/2) over two halves by lot.
        None without a distance, and below half a sample per feature, where much of it is left.
        """
        if self.distance is None or self.features is None:
            return None
        if self.reference is None or self.reference.factor is None:
            return None
        pool_ND, factor = self.features.pool_ND, self.reference.factor
        if 2 * len(pool_ND) < pool_ND.shape[1]:
            return None
        lot = np.random.default_rng(0).permutation(len(pool_ND))
        halves = [frechet_distance(moments_of(pool_ND[np.sort(lot[k::2])]), factor) for k in (0, 1)]
        spread = float(np.trace(factor.moments.cov_DD))
        return bool(2 * self.distance - np.mean(halves) > FAR * spread)

    @property
    def remarks(self) -> list[str]:
        """Records whose edit would not be found, and settings that differ and no probe weighs."""
        said = [
            f"{record.path} ({record.display}) is without its hash: an edit of it would not be"
            " seen; score it again"
            for record in self.records
            if not record.is_sealed
        ]
        plan, expected = self.plan, self.expected
        if plan is None or expected is None:
            return said
        changed = changed_settings(plan, expected.preset)
        return said + [f"not as {expected.preset.name} has it: {text}" for text in changed]

    def why_no(self, part: str) -> str:
        """Why a part is not there."""
        return self.lacking.get(part, f"there are no {part}")
