"""Mean and covariance of features, streamed in float64 and mergeable.

Legend: N samples, D feature dimensions.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evalsuite.errors import DataError

BLOCK_ROWS = 8192
"""Rows that are converted to float64 at a time; bounds the memory of one update."""


@dataclass(frozen=True, eq=False)
class Moments:
    """First two moments of a feature set.

    Attributes:
        count: samples that were seen.
        mean_D: float64 [D].
        cov_DD: float64 [D, D], divisor count - 1.
    """

    count: int
    mean_D: NDArray[np.float64]
    cov_DD: NDArray[np.float64]

    @property
    def dim(self) -> int:
        """Feature dimensions."""
        return int(self.mean_D.shape[0])


class MomentsAccumulator:
    """Running mean and scatter about the mean; never a sum of squares, so far means cost nothing.

    Source: Chan, Golub and LeVeque 1979, "Updating formulae and a pairwise algorithm for computing
    sample variances". How the samples are divided among updates and merges changes the
    result only by float64 rounding.
    """

    def __init__(self) -> None:
        """Start empty; the first samples decide D."""
        self._count = 0
        self._mean_D: NDArray[np.float64] = np.zeros(0)
        self._scatter_DD: NDArray[np.float64] = np.zeros((0, 0))

    @property
    def count(self) -> int:
        """Samples so far."""
        return self._count

    def update(self, features_ND: NDArray[Any]) -> None:
        """Add samples.

        Args:
            features_ND: float32 or float64 [N, D]; N may be 0.

        Raises:
            DataError: a row has a NaN or an infinity (rows count from the first update; nothing of
                this call is added), D is not that of the earlier samples, or float16.
            ValueError: not a matrix of floats.
        """
        check_finite_rows(features_ND, "features", first_row=self._count)
        for start in range(0, len(features_ND), BLOCK_ROWS):
            block_ND = features_ND[start : start + BLOCK_ROWS].astype(np.float64)
            mean_D = block_ND.mean(axis=0)
            block_ND -= mean_D
            self._combine(len(block_ND), mean_D, block_ND.T @ block_ND)

    def merge(self, other: "MomentsAccumulator") -> None:
        """Add all samples of `other`, which stays as it is.

        Raises:
            DataError: the two have different D.
        """
        if other._count:
            self._combine(other._count, other._mean_D, other._scatter_DD)

    def result(self) -> Moments:
        """The moments of everything so far.

        Raises:
            DataError: fewer than 2 samples.
        """
        if self._count < 2:
            raise DataError(f"a covariance needs at least 2 samples, there are {self._count}")
        cov_DD = self._scatter_DD / (self._count - 1)
        return Moments(self._count, self._mean_D.copy(), cov_DD)

    def _combine(
        self, count: int, mean_D: NDArray[np.float64], scatter_DD: NDArray[np.float64]
    ) -> None:
        if not self._count:
            self._count, self._mean_D, self._scatter_DD = count, mean_D.copy(), scatter_DD.copy()
            return
        if mean_D.shape != self._mean_D.shape:
            raise DataError(
                f"features have {mean_D.shape[0]} dimensions, "
                f"the earlier ones have {self._mean_D.shape[0]}"
            )
        total = self._count + count
        delta_D = mean_D - self._mean_D
        self._mean_D = self._mean_D + delta_D * (count / total)
        self._scatter_DD += scatter_DD
        self._scatter_DD += np.outer(delta_D * (self._count * (count / total)), delta_D)
        self._count = total


def moments_of(features_ND: NDArray[Any]) -> Moments:
    """Moments of one array [N, D]; see `MomentsAccumulator.update` for the errors."""
    accumulator = MomentsAccumulator()
    accumulator.update(features_ND)
    return accumulator.result()


def check_finite_rows(values_ND: NDArray[Any], what: str, first_row: int = 0) -> None:
    """Refuse rows with NaN or infinity, counted and with the first one named; and float16.

    Float16 keeps 11 bits: what rounding to it did to a metric can be neither seen nor undone.

    Args:
        values_ND: float32 or float64 [N, D].
        what: plural noun for the error line.
        first_row: number that the first row has for the reader.

    Raises:
        DataError: a value is not finite, or the values are float16.
        ValueError: not a matrix of floats.
    """
    if values_ND.ndim != 2 or not np.issubdtype(values_ND.dtype, np.floating):
        raise ValueError(
            f"{what} must be a matrix of floats, got {values_ND.ndim}-dimensional {values_ND.dtype}"
        )
    if values_ND.dtype == np.float16:
        raise DataError(
            f"{what} are float16, whose rounding is already in them: compute and store them "
            "as float32"
        )
    bad_count, first_bad = 0, -1
    for start in range(0, len(values_ND), BLOCK_ROWS):
        bad_N = ~np.isfinite(values_ND[start : start + BLOCK_ROWS]).all(axis=1)
        if bad_N.any():
            if not bad_count:
                first_bad = first_row + start + int(bad_N.argmax())
            bad_count += int(bad_N.sum())
    if bad_count:
        raise DataError(
            f"{what} have NaN or infinite values in {bad_count} of {len(values_ND)} rows, "
            f"the first is row {first_bad}"
        )
