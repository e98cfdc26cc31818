"""N: whether samples are so few, or so many fewer than the claim's, that bias makes the number."""

import math

from evalsuite.diagnosis.findings import ALARM, CannotTell, Clear, Finding, Outcome
from evalsuite.diagnosis.material import Material
from evalsuite.metrics.frechet import frechet_distance
from evalsuite.metrics.frechet_limit import RANKED_SAMPLES_PER_DIM
from evalsuite.metrics.frechet_metrics import INTERVAL_SAMPLES_PER_DIM
from evalsuite.metrics.intervals import balanced_groups
from evalsuite.metrics.moments import moments_of

_FEWEST = 8
_PER_DOUBLING = 0.5
"""Strength of a factor of two. N is known at a glance, so it is ranked below what must be found."""


def probe_num_samples(material: Material) -> Outcome:
    """Whether N is below two samples for each dimension, or not the N of the published figure."""
    count, expected = material.num_samples, material.expected
    claim = expected.claim if expected and expected.given else None
    if claim is not None and claim.num_samples != count:
        fewer = "fewer" if count < claim.num_samples else "more"
        return Finding(
            "too few samples (N)" if count < claim.num_samples else "another N",
            ALARM + _PER_DOUBLING * abs(math.log2(claim.num_samples / count)),
            f"{count:,} samples are {fewer} than the claim's {claim.num_samples:,}"
            f"{_bias(material)}",
            f"score {claim.num_samples:,} samples: the bias of a smaller N does not cancel",
        )
    extractor = material.extractor
    if extractor is None:
        return CannotTell(material.why_no("features"))
    fewest = INTERVAL_SAMPLES_PER_DIM * extractor.pool_dim
    if count >= fewest:
        return Clear(
            f"{count:,} samples for {extractor.pool_dim} feature dimensions{_bias(material)}"
        )
    return Finding(
        "too few samples (N)",
        ALARM + _PER_DOUBLING * math.log2(fewest / count),
        f"{count:,} samples for {extractor.pool_dim} feature dimensions: below {fewest:,} a Frechet"
        f" distance is mostly bias{_bias(material)}",
        f"score at least {fewest:,} samples, at best as many as the claim, or compare by kid",
    )


def _bias(material: Material) -> str:
    """How much the distance falls from half of the samples to all; empty where that says nothing.

    The bias of a distance falls as 1/N, so that of all is what halving adds. Halves hold the
    classes alike: what one lacks would add more than the bias does.
    """
    table, reference = material.features, material.reference
    if table is None or reference is None or reference.factor is None:
        return ""
    rows_ND = table.pool_ND
    count, dim = rows_ND.shape
    if count < max(_FEWEST, RANKED_SAMPLES_PER_DIM * dim):
        return ""
    labels = material.all_labels
    halves_N = balanced_groups(count, 2, None if labels is None else labels[material.rows_N])
    whole, *halves = (
        frechet_distance(moments_of(rows_ND[chosen_N]), reference.factor)
        for chosen_N in (slice(None), halves_N == 0, halves_N == 1)
    )
    half = sum(halves) / 2
    share = f"about {half - whole:.3f} of it is" if half - whole < whole else "all of it may be"
    return f": the distance of {count:,} is {whole:.3f}, of half as many {half:.3f}" + (
        f", so {share} bias" if half > whole else ""
    )
