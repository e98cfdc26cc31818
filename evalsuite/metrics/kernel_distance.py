"""Kernel Inception Distance: exact over all pairs, and by torch-fidelity's random subsets.

Legend: N samples, M reference images, D feature dimensions.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evalsuite.errors import DataError
from evalsuite.metrics.mmd import (
    CubicKernel,
    Discrepancy,
    GaussianKernel,
    Kernel,
    KernelReference,
    kernel_reference,
    unbiased_mmd,
)
from evalsuite.metrics.moments import check_finite_rows

NUM_SUBSETS = 100
SUBSET_SIZE = 1000
SUBSET_SEED = 2020

KID_KERNEL = CubicKernel()
RBF_KERNEL = GaussianKernel(10.0)
"""torch-fidelity's alternative; says little where features are far apart against 10."""


class SubsetDistance(NamedTuple):
    """Mean over subsets, and their standard deviation, which is no error of the mean."""

    mean: float
    std: float

    def standard_error(self, all_pairs: float, num_subsets: int = NUM_SUBSETS) -> float:
        """Error of the mean: of the images, which all pairs have too, and of drawing subsets.

        Given both sets, the subsets are independent draws whose mean is the distance over all
        pairs, so that the two variances add.

        Args:
            all_pairs: standard error of the distance over all pairs.
            num_subsets: how many were drawn, at least 2.
        """
        return math.hypot(all_pairs, self.std / math.sqrt(num_subsets - 1))


def kid_reference(
    features_MD: NDArray[Any], kernel: Kernel = KID_KERNEL, device: str = "cpu"
) -> KernelReference:
    """The reference of `kernel_distance`, summed once; see `mmd.kernel_reference`."""
    return kernel_reference(features_MD, kernel, device)


def kernel_distance(
    features_ND: NDArray[Any], reference: KernelReference, device: str = "cpu"
) -> Discrepancy:
    """KID over all pairs: unbiased at any N, with influence values instead of random subsets.

    Source: Binkowski et al. 2018, "Demystifying MMD GANs", section 4. Arguments and errors are
    those of `mmd.unbiased_mmd`.
    """
    return unbiased_mmd(features_ND, reference, device)


def kernel_distance_of_subsets(
    features_ND: NDArray[Any],
    reference_MD: NDArray[Any],
    kernel: Kernel = KID_KERNEL,
    num_subsets: int = NUM_SUBSETS,
    subset_size: int = SUBSET_SIZE,
    device: str = "cpu",
) -> SubsetDistance:
    """KID as torch-fidelity estimates it: the mean over random subsets of both sets.

    Source: torch-fidelity 0.4 `metric_kid.py`: subsets without repetition from
    RandomState(2020), samples before reference. It computes kernels in float32; so does this for
    float32 features, with sums in float64.

    Args:
        features_ND: float32 or float64 [N, D].
        reference_MD: of equal dtype and D.
        kernel: of the distance.
        num_subsets: how many are drawn.
        subset_size: images in each.
        device: torch device that computes.

    Raises:
        DataError: as `kernel_distance`, or fewer images than a subset has.
    """
    check_finite_rows(features_ND, "features")
    check_finite_rows(reference_MD, "reference features")
    for what, values_ND in (("samples", features_ND), ("reference images", reference_MD)):
        if len(values_ND) < subset_size:
            raise DataError(
                f"KID by subsets of {subset_size} needs as many {what}, there are {len(values_ND)}"
            )
    draws = np.random.RandomState(SUBSET_SEED)
    values = []
    for _ in range(num_subsets):
        some_ND = features_ND[draws.choice(len(features_ND), subset_size, replace=False)]
        others_MD = reference_MD[draws.choice(len(reference_MD), subset_size, replace=False)]
        reference = kernel_reference(others_MD, kernel, device)
        values.append(unbiased_mmd(some_ND, reference, device).value)
    return SubsetDistance(float(np.mean(values)), float(np.std(values)))
