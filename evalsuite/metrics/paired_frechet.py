"""rFID: the Frechet distance of reconstructions from the very images that they reconstruct.

Legend: N pairs, D feature dimensions.
"""

from typing import Any

from numpy.typing import NDArray

from evalsuite.metrics.frechet import frechet_distance, frechet_fit, reference_factor
from evalsuite.metrics.frechet_metrics import INTERVAL_SAMPLES_PER_DIM
from evalsuite.metrics.moments import moments_of
from evalsuite.metrics.values import MetricValue, error_of


def rfid(
    samples_ND: NDArray[Any], originals_ND: NDArray[Any], strata_N: NDArray[Any] | None = None
) -> MetricValue:
    """FID between reconstructions and originals, with its error over pairs.

    A pair that is drawn moves both sides, so its influence is the sum of what its reconstruction
    does to the distance and of what its original does, which nearly cancel. Taking the originals as
    fixed claims errors up to 10 times too wide (`tests/metrics/test_paired_frechet.py`). For
    the same reason nothing is extrapolated: most of the bias of a finite N cancels as well.

    Source: the delta method, as `frechet.FrechetFit.influence`, in both arguments of a distance
    that is symmetric.

    Args:
        samples_ND: features of the reconstructions, float32 or float64.
        originals_ND: of the originals, row by row.
        strata_N: integer labels when they are balanced.

    Raises:
        DataError: features that are NaN or infinite, or a single pair.
        ValueError: other shapes.
    """
    if samples_ND.shape != originals_ND.shape:
        raise ValueError(f"{samples_ND.shape} features do not pair with {originals_ND.shape}")
    samples, originals = moments_of(samples_ND), moments_of(originals_ND)
    factor = reference_factor(originals)
    notes = []
    if samples.count <= samples.dim:
        notes.append(
            f"the covariances are singular: {samples.count} pairs for {samples.dim} feature"
            " dimensions"
        )
    needed = INTERVAL_SAMPLES_PER_DIM * samples.dim
    if samples.count < needed:
        notes.append(
            f"no standard error: it needs at least {INTERVAL_SAMPLES_PER_DIM} pairs per feature"
            f" dimension ({needed}), there are {samples.count}"
        )
        return MetricValue(frechet_distance(samples, factor), notes=tuple(notes))
    fit = frechet_fit(samples, factor)
    of_originals = frechet_fit(originals, reference_factor(samples))
    influence_N = fit.influence(samples_ND) + of_originals.influence(originals_ND)
    error = error_of(influence_N, strata_N, notes)
    return MetricValue(fit.value, error, None, tuple(notes), influence_N)
