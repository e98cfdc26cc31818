"""FID, sFID and FID at infinite N as metrics: a distance with its error, its limit and its notes.

Legend: N samples, D feature dimensions.
"""

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from evalsuite.config import ProtocolSpec
from evalsuite.metrics.frechet import (
    HalvedMoments,
    ReferenceFactor,
    frechet_distance,
    frechet_distance_of_few,
    frechet_fit,
    halved_influence,
    halves_suffice,
    moments_in_halves,
)
from evalsuite.metrics.frechet_infinity import (
    NUM_POINTS,
    ORDER_SEED,
    SMALLEST,
    SMALLEST_SAMPLES_PER_DIM,
    SMALLEST_SHARE,
    frechet_at_infinity,
)
from evalsuite.metrics.intervals import (
    extrapolated,
    standard_error_from_halves,
)
from evalsuite.metrics.moments import Moments, moments_of
from evalsuite.metrics.values import Computation, Detail, Least, MetricValue, error_of, present

INTERVAL_SAMPLES_PER_DIM = 2
EXTRAPOLATION_SAMPLES_PER_DIM = 10
"""From here on the bias is small enough to go without."""
LINE_SAMPLES_PER_DIM = 2 * SMALLEST_SAMPLES_PER_DIM
"""Below, a half is too small for a bias in proportion to 1/N: with as many samples as dimensions
the extrapolation of a distance of 0 is -1.7 where F(N) is 6.4, with 8 times as many -0.01 of 0.7
(simulated Gaussians, D = 64)."""
IMPOSSIBLE = "below 0, which no distance is: the error exceeds the distance"
"""What to say of an extrapolated distance that is negative."""


_KID = "use kid, which has no bias and an error at any N, or more samples"
_NO_KID = "use more samples (kid is no substitute: it compares pooled features)"


def fid(work: Computation) -> MetricValue:
    """Frechet distance of pooled features."""
    return _frechet(work.samples.pool_ND, work.reference.pool_factor, work.samples.strata_N, _KID)


def sfid(work: Computation) -> MetricValue:
    """Frechet distance of spatial features."""
    spatial_NP = present(work.samples.spatial_NP)
    return _frechet(spatial_NP, work.reference.spatial_factor, work.samples.strata_N, _NO_KID)


def fid_infinity(work: Computation) -> MetricValue:
    """FID at infinite N by a line through subsets; see `frechet_infinity`."""
    line = frechet_at_infinity(work.samples.pool_ND, work.reference.pool_factor)
    notes = [
        f"line through {len(line.sizes_P)} subsets of {line.sizes_P[0]} to {line.sizes_P[-1]}"
        f" samples; root mean square deviation from it {line.residual:.2g}",
        "no standard error: that of sampling would leave out that the bias is not quite a line",
    ]
    if line.value < 0:
        notes.append(f"{line.value:.4f} is {IMPOSSIBLE}")
    return MetricValue(line.value, notes=tuple(notes))


def infinity_fields(protocol: ProtocolSpec) -> Mapping[str, Detail]:  # noqa: ARG001
    """What decides the line."""
    return {
        "points": NUM_POINTS,
        "smallest_subset": (
            f"N/{SMALLEST_SHARE}, at most {SMALLEST}, at least {SMALLEST_SAMPLES_PER_DIM} D"
        ),
        "order_seed": ORDER_SEED,
    }


def infinity_least(protocol: ProtocolSpec, dim: int) -> Least:  # noqa: ARG001
    """Twice the smallest subset."""
    return Least(
        LINE_SAMPLES_PER_DIM * dim,
        why=f", for {dim} feature dimensions ({LINE_SAMPLES_PER_DIM} for each)",
        remedy="take more samples, or kid, which has no bias at any N",
    )


def _frechet(
    features_ND: NDArray[Any],
    factor: ReferenceFactor,
    strata_N: NDArray[Any] | None,
    remedy: str,
) -> MetricValue:
    """A distance; `remedy` is what to do where N is too small for an error, or for its limit."""
    count, dim = features_ND.shape
    notes = _singular(count, dim, factor.moments)
    needed = INTERVAL_SAMPLES_PER_DIM * dim
    if count < needed:
        notes.append(
            f"no standard error: it needs at least {INTERVAL_SAMPLES_PER_DIM} samples per feature "
            f"dimension ({needed}), there are {count}; {remedy}"
        )
        if count <= dim:
            value = frechet_distance_of_few(features_ND, factor)
        else:
            value = frechet_distance(moments_of(features_ND), factor)
        limit = _at_infinite_samples(count, dim, None, factor, value, notes, remedy)
        return MetricValue(value, None, limit, tuple(notes))
    by_halves = halves_suffice(count, dim, strata_N)
    halved = None
    if by_halves or _has_limit(count, dim):
        halved = moments_in_halves(features_ND, strata_N)
    fit = frechet_fit(halved.whole if halved else moments_of(features_ND), factor)
    if by_halves:
        values = halved_influence(features_ND, fit, factor, strata_N, halved)
        influence_N = values.influence_N
        error: float | None = standard_error_from_halves(values, strata_N)
    else:
        influence_N = fit.influence(features_ND)
        error = error_of(influence_N, strata_N, notes)
    limit = _at_infinite_samples(count, dim, halved, factor, fit.value, notes, remedy)
    return MetricValue(fit.value, error, limit, tuple(notes), influence_N)


def _singular(count: int, dim: int, reference: Moments) -> list[str]:
    return [
        f"the covariance of the {whose} is singular: {images} images for {dim} feature dimensions"
        for whose, images in (("samples", count), ("reference", reference.count))
        if images <= dim
    ]


def _has_limit(count: int, dim: int) -> bool:
    """Whether the value at infinite N is given."""
    return LINE_SAMPLES_PER_DIM * dim <= count < EXTRAPOLATION_SAMPLES_PER_DIM * dim


def _at_infinite_samples(
    count: int,
    dim: int,
    halved: HalvedMoments | None,
    factor: ReferenceFactor,
    value: float,
    notes: list[str],
    remedy: str,
) -> float | None:
    """2 F(N) - mean F(N/2) over two disjoint halves with equal classes, where a line holds."""
    if count >= EXTRAPOLATION_SAMPLES_PER_DIM * dim:
        return None
    only = f"N is only {count / dim:.3g} samples per feature dimension"
    if count < LINE_SAMPLES_PER_DIM * dim:
        notes.append(
            f"{only}: the bias is large and not in proportion to 1/N, so nothing is said of "
            f"infinite N; {remedy}"
        )
        return None
    assert halved is not None
    distances = [frechet_distance(half, factor) for half in halved.of_halves]
    limit = extrapolated(value, sum(distances) / 2)
    flag = f", {IMPOSSIBLE}" if limit < 0 else ""
    notes.append(f"{only}; extrapolated to infinite N: {limit:.4f}{flag}")
    return limit
