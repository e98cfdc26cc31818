"""Precision, recall, density and coverage on k-nearest-neighbour manifolds, with jackknife errors.

Legend: N generated samples, M reference images, D feature dimensions, G groups, T = 1 + G (all
samples, then all but each group), P pairs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evalsuite.errors import DataError
from evalsuite.metrics.balls import Grouping, nearest_by_group, one_group, radii_of, thresholds_of
from evalsuite.metrics.distances import (
    Arithmetic,
    Distances,
    Points,
    points_of,
    tiles,
)
from evalsuite.metrics.exact_arithmetic import exact_float32
from evalsuite.metrics.intervals import balanced_groups

CPU = torch.device("cpu")
_PAIRS = 1 << 16


@dataclass(frozen=True)
class ManifoldSettings:
    """What decides the numbers of `manifold_metrics`, and where they are computed.

    Attributes:
        k: neighbours; a point's ball reaches to its k-th other neighbour.
        arithmetic: of the squared distances.
        strict: a point at exactly the radius is outside (dgm-eval, Naeem et al.) and not inside
            (Kynkaanniemi et al., ADM).
        device: a CPU or one GPU.
        num_groups: groups that the jackknife deletes in turn.
        tile: rows and columns of the distance matrix in memory at once; bounds memory, and decides
            nothing but ties within float32 rounding. A power of two is slow on a CPU.
    """

    k: int = 3
    arithmetic: Arithmetic = Arithmetic.FLOAT32
    strict: bool = False
    device: torch.device = CPU
    num_groups: int = 20
    tile: int = 1000

    def __post_init__(self) -> None:
        """Refuse numbers that no metric can use."""
        if self.k < 1 or self.tile < 1:
            raise ValueError("k and tile must be at least 1")
        if self.num_groups < 2:
            raise ValueError("a jackknife needs at least 2 groups")

    @property
    def jackknife_samples(self) -> int:
        """Fewest samples with standard errors: 2 a group, and k + 1 without any of the groups."""
        groups = self.num_groups
        return max(2 * groups, self.k + 1 + -(-(self.k + 1) // (groups - 1)))


class ManifoldShares(NamedTuple):
    """The four metrics, or a standard error of each; density may exceed 1, the others do not."""

    precision: float
    recall: float
    density: float
    coverage: float


class ManifoldMetrics(NamedTuple):
    """The metrics and their standard errors, None when there are too few samples for them."""

    values: ManifoldShares
    standard_errors: ManifoldShares | None


class _Overlap(NamedTuple):
    """What the distances between reference and samples say.

    Attributes:
        balls_N: how many reference balls hold each sample.
        hit_MG: whether the image's ball holds a sample of the group.
        covered_MT: whether a sample's ball holds the image, by threshold.
    """

    balls_N: NDArray[np.int64]
    hit_MG: NDArray[np.bool_]
    covered_MT: NDArray[np.bool_]


def manifold_metrics(
    samples_ND: NDArray[Any],
    reference_MD: NDArray[Any],
    settings: ManifoldSettings,
    strata_N: NDArray[Any] | None = None,
    reference_radii: NDArray[np.float32] | None = None,
) -> ManifoldMetrics:
    """All four metrics of one set of samples from one pass over each distance.

    Precision is the share of samples inside the ball of a reference image, recall the share of
    reference images inside the ball of a sample, density the mean number of reference balls that
    hold a sample, divided by k, and coverage the share of reference images whose ball holds a
    sample.

    The delete-a-group jackknife covers the drawing of the N generated samples, and its groups hold
    the classes equally often, so with strata it leaves the spread between classes out. It does not
    cover the choice of reference images, which are fixed, nor the bias of the shares at finite N
    and M, nor another training seed. The errors of precision and density are the observed spread;
    those of recall (1.3 to 2 times too wide in simulations of 2 to 32 dimensions, N 600 and 2000)
    and coverage (1.5 times in one of 4 dimensions, N 300) are upper bounds, because whether any
    sample is near is not smooth in the sample and a jackknife then errs upwards (Efron and Stein
    1981). Being a spread of G values, an error is itself uncertain by about
    1 / sqrt(2 G - 2), 16 % for 20 groups. A class with fewer samples than groups is in some groups
    only, which lets a part of the spread between classes in. Nothing is computed twice for it:
    every sample keeps its nearest neighbours in each group, from which follow its radii without
    that group.

    Source: Kynkaanniemi et al. 2019, section 2; Naeem et al. 2020, section 3; guided-diffusion
    `evaluations/evaluator.py`, whose precision and recall these are for `ADM_FLOAT16`, k = 3;
    dgm-eval `metrics/prdc.py` for `strict`, which compares roots where squares are compared here;
    Kott 2001, "The delete-a-group jackknife".

    Args:
        samples_ND: generated samples, float32 or float64 [N, D].
        reference_MD: reference images, likewise [M, D].
        settings: see there.
        strata_N: integer class of each sample when labels were balanced; None for independent ones.
        reference_radii: what `reference_radii` returned for this reference and these settings, when
            the caller has kept it; else it is computed.

    Returns:
        Values and errors. The same input gives the same result on one machine.

    Raises:
        DataError: fewer than k + 1 points in a set, different D, NaN, infinities, float16 or
            features beyond float32.
        ValueError: strata or radii that do not fit.
    """
    _check_sets(samples_ND, reference_MD, settings)
    count = len(samples_ND)
    grouping = _grouping(count, settings, strata_N)
    with exact_float32(settings.device):
        samples = _points(samples_ND, "sample features", settings, grouping.order_N)
        reference = _points(reference_MD, "reference features", settings)
        if reference_radii is None:
            radii_M = _radii(reference, settings)
        else:
            radii_M = _given_radii(reference_radii, len(reference), settings.device)
        nearest_NGQ = nearest_by_group(samples, grouping, settings.k + 1, settings.tile)
        groups_N = torch.from_numpy(grouping.groups_N).to(settings.device)
        thresholds_NT = thresholds_of(nearest_NGQ, groups_N)
        overlap = _overlap(samples, reference, radii_M, thresholds_NT, grouping, settings)
    values = ManifoldShares(
        precision=float((overlap.balls_N > 0).mean()),
        recall=float(overlap.covered_MT[:, 0].mean()),
        density=float(overlap.balls_N.mean() / settings.k),
        coverage=float(overlap.hit_MG.any(axis=1).mean()),
    )
    if count < settings.jackknife_samples:
        return ManifoldMetrics(values, None)
    return ManifoldMetrics(values, _jackknife(overlap, grouping.groups_N, settings.k))


def reference_radii(reference_MD: NDArray[Any], settings: ManifoldSettings) -> NDArray[np.float32]:
    """Squared distance from each reference image to its k-th other image.

    It depends on the reference, k and the arithmetic alone, so it can be kept for other samples.

    Args:
        reference_MD: reference images, float32 or float64 [M, D].
        settings: k, arithmetic, device and tile.

    Returns:
        Float32 [M].

    Raises:
        DataError: as `manifold_metrics`.
    """
    _check_count(reference_MD, "reference images", settings.k)
    with exact_float32(settings.device):
        reference = _points(reference_MD, "reference features", settings)
        radii: NDArray[np.float32] = _radii(reference, settings).cpu().numpy()
    return radii


def _grouping(count: int, settings: ManifoldSettings, strata_N: NDArray[Any] | None) -> Grouping:
    if count < settings.jackknife_samples:
        return one_group(count)
    groups_N = balanced_groups(count, settings.num_groups, strata_N)
    return Grouping(groups_N, settings.num_groups)


def _points(
    features: NDArray[Any],
    what: str,
    settings: ManifoldSettings,
    order_N: NDArray[np.int64] | None = None,
) -> Points:
    return points_of(features, what, settings.arithmetic, settings.device, order_N)


def _radii(points: Points, settings: ManifoldSettings) -> Tensor:
    grouping = one_group(len(points))
    return radii_of(nearest_by_group(points, grouping, settings.k + 1, settings.tile))


def _given_radii(radii_M: NDArray[np.float32], count: int, device: torch.device) -> Tensor:
    if radii_M.shape != (count,) or radii_M.dtype != np.float32:
        raise ValueError(
            f"reference radii must be float32 [{count}], got {radii_M.dtype} {radii_M.shape}"
        )
    return torch.tensor(radii_M, device=device)


def _overlap(
    samples: Points,
    reference: Points,
    radii_M: Tensor,
    thresholds_NT: Tensor,
    grouping: Grouping,
    settings: ManifoldSettings,
) -> _Overlap:
    """One pass over the distances from the reference (rows, as in ADM) to the samples."""
    inside: Callable[[Tensor, Tensor], Tensor] = torch.lt if settings.strict else torch.le
    distances = Distances(reference, samples)
    widest_N = thresholds_NT.amax(dim=1)
    balls_N = radii_M.new_zeros(len(samples), dtype=torch.int64)
    hit_MG = radii_M.new_zeros((len(reference), grouping.num_groups), dtype=torch.bool)
    covered_MT = radii_M.new_zeros((len(reference), thresholds_NT.shape[1]), dtype=torch.bool)
    for rows in tiles(len(reference), settings.tile):
        for columns in tiles(len(samples), settings.tile):
            block = distances.tile(rows, columns)
            held = inside(block, radii_M[rows, None])
            balls_N[columns] += held.sum(dim=0)
            for group, piece in grouping.within(columns):
                hit_MG[rows, group] |= held[:, piece].any(dim=1)
            # An image that is covered whichever group is left out needs no more pairs.
            near = inside(block, widest_N[columns]) & ~covered_MT[rows].all(dim=1, keepdim=True)
            image_P, sample_P = near.nonzero(as_tuple=True)
            _cover(covered_MT[rows], image_P, block, thresholds_NT[columns], sample_P, inside)
    return _Overlap(balls_N.cpu().numpy(), hit_MG.cpu().numpy(), covered_MT.cpu().numpy())


def _cover(
    covered_MT: Tensor,
    image_P: Tensor,
    block: Tensor,
    thresholds_NT: Tensor,
    sample_P: Tensor,
    inside: Callable[[Tensor, Tensor], Tensor],
) -> None:
    """Set covered[image, t] for every pair whose distance is within threshold t, in place."""
    for start in range(0, len(image_P), _PAIRS):
        images, others = image_P[start : start + _PAIRS], sample_P[start : start + _PAIRS]
        hits_PT = inside(block[images, others][:, None], thresholds_NT[others])
        pair, threshold = hits_PT.nonzero(as_tuple=True)
        covered_MT[images[pair], threshold] = True


def _jackknife(overlap: _Overlap, groups_N: NDArray[np.int64], k: int) -> ManifoldShares:
    """Standard errors from the metrics without each group."""
    balls_N, hit_MG, covered_MT = overlap
    left_G = len(groups_N) - np.bincount(groups_N)

    def means_without(values_N: NDArray[Any]) -> NDArray[np.float64]:
        without_G: NDArray[np.float64] = values_N.sum() - np.bincount(groups_N, weights=values_N)
        return without_G / left_G

    hits_M1 = hit_MG.sum(axis=1, keepdims=True)
    return ManifoldShares(
        precision=_jackknife_error(means_without(balls_N > 0)),
        recall=_jackknife_error(covered_MT[:, 1:].mean(axis=0)),
        density=_jackknife_error(means_without(balls_N) / k),
        coverage=_jackknife_error((hits_M1 > hit_MG).mean(axis=0)),
    )


def _jackknife_error(values_G: NDArray[np.float64]) -> float:
    deviations_G = values_G - values_G.mean()
    return float(np.sqrt((1 - 1 / len(values_G)) * (deviations_G @ deviations_G)))


def _check_sets(
    samples_ND: NDArray[Any], reference_MD: NDArray[Any], settings: ManifoldSettings
) -> None:
    _check_count(samples_ND, "samples", settings.k)
    _check_count(reference_MD, "reference images", settings.k)
    if samples_ND.shape[1:] != reference_MD.shape[1:]:
        raise DataError(
            f"samples have {samples_ND.shape[1]} feature dimensions, "
            f"the reference has {reference_MD.shape[1]}"
        )


def _check_count(features: NDArray[Any], what: str, k: int) -> None:
    if features.ndim != 2:
        raise ValueError(f"features of {what} must be a matrix, got {features.ndim} dimensions")
    if len(features) < k + 1:
        raise DataError(f"{k} neighbours need at least {k + 1} {what}, there are {len(features)}")
