"""Maximum mean discrepancy of two feature sets, tile by tile, with influence values; CMMD.

Legend: N samples, M reference images, D feature dimensions.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evalsuite.errors import DataError
from evalsuite.metrics.exact_arithmetic import exact_float32
from evalsuite.metrics.moments import check_finite_rows

CMMD_SIGMA = 10.0
CMMD_SCALE = 1000.0

_TILE_ROWS = 4096


class Kernel(Protocol):
    """A positive definite function of two feature vectors, known by scalar product and norms."""

    def less_one(self, dots_NM: Tensor, x_N: Tensor, y_M: Tensor, dim: int) -> Tensor:
        """k(x, y) - 1 of every pair [N, M].

        The 1, which every kernel here has as its constant, cancels in a discrepancy, and what
        remains keeps its digits in float32. `dots_NM` may be overwritten.

        Args:
            dots_NM: scalar products.
            x_N: squared norms of the rows.
            y_M: squared norms of the columns.
            dim: D.
        """


@dataclass(frozen=True)
class CubicKernel:
    """(x.y / D + 1)^3, the kernel of KID; Binkowski et al. 2018, section 4."""

    def less_one(self, dots_NM: Tensor, x_N: Tensor, y_M: Tensor, dim: int) -> Tensor:  # noqa: ARG002
        """(1 + s)^3 - 1 = s (s (s + 3) + 3)."""
        scaled_NM = dots_NM.div_(dim)
        return (scaled_NM + 3).mul_(scaled_NM).add_(3).mul_(scaled_NM)


@dataclass(frozen=True)
class GaussianKernel:
    """exp(-|x - y|^2 / (2 sigma^2))."""

    sigma: float

    def less_one(self, dots_NM: Tensor, x_N: Tensor, y_M: Tensor, dim: int) -> Tensor:  # noqa: ARG002
        """The exponential less 1, exact where the distance is small against sigma."""
        squared_NM = dots_NM.mul_(-2).add_(x_N[:, None]).add_(y_M).clamp_min_(0)
        return squared_NM.div_(-2 * self.sigma**2).expm1_()


@dataclass(frozen=True, eq=False)
class KernelReference:
    """A reference with what it alone adds to a discrepancy, computed once.

    Attributes:
        features_MD: as given.
        kernel: of the discrepancy.
        mean_unlike: mean of k - 1 over pairs of different images.
        mean_all: the same over all pairs, an image with itself included.
    """

    features_MD: NDArray[Any]
    kernel: Kernel
    mean_unlike: float
    mean_all: float


@dataclass(frozen=True, eq=False)
class Discrepancy:
    """A squared discrepancy and its derivative in the samples.

    Attributes:
        value: MMD^2.
        influence_N: float64 [N], mean 0; `intervals.standard_error` makes it an error, which for
            a set equal in distribution to the reference is up to 1.4 times too wide.
    """

    value: float
    influence_N: NDArray[np.float64]


def kernel_reference(
    features_MD: NDArray[Any], kernel: Kernel, device: str = "cpu"
) -> KernelReference:
    """Sum the kernel over all pairs of the reference, once for any number of sample sets.

    Raises:
        DataError: features with NaN or infinities, in float16, or fewer than 2 of them.
    """
    unlike_M, self_M = _sums_within(features_MD, "reference features", kernel, device)
    count = len(features_MD)
    return KernelReference(
        features_MD,
        kernel,
        float(unlike_M.sum()) / (count * (count - 1)),
        float(unlike_M.sum() + self_M.sum()) / count**2,
    )


def unbiased_mmd(
    features_ND: NDArray[Any], reference: KernelReference, device: str = "cpu"
) -> Discrepancy:
    """MMD^2 over all pairs of different images: the U-statistic, whose mean is the true one.

    Products are taken in the dtype of the features and summed in float64. No matrix larger
    than a tile is held.

    Source: Gretton et al. 2012, "A kernel two-sample test", eq. 3.

    Args:
        features_ND: float32 or float64 [N, D].
        reference: of equal dtype and D.
        device: torch device that computes.

    Raises:
        DataError: features with NaN or infinities, in float16, of another D or dtype than the
            reference's, or fewer than 2 of them.
    """
    across_N = _sums_across(features_ND, reference, device)
    unlike_N, _ = _sums_within(features_ND, "features", reference.kernel, device)
    within_N = unlike_N / (len(features_ND) - 1)
    value = float(within_N.mean()) - 2 * float(across_N.mean()) + reference.mean_unlike
    return Discrepancy(value, _centred(2 * (within_N - across_N)))


def biased_mmd(
    features_ND: NDArray[Any], reference: KernelReference, device: str = "cpu"
) -> Discrepancy:
    """MMD^2 over all pairs, an image with itself included: the V-statistic, never negative.

    Source: Gretton et al. 2012, eq. 5. Arguments and errors are those of `unbiased_mmd`.
    """
    across_N = _sums_across(features_ND, reference, device)
    unlike_N, self_N = _sums_within(features_ND, "features", reference.kernel, device)
    within_N = (unlike_N + self_N) / len(features_ND)
    value = float(within_N.mean()) - 2 * float(across_N.mean()) + reference.mean_all
    return Discrepancy(value, _centred(2 * (within_N - across_N)))


def cmmd_reference(embeddings_MD: NDArray[Any], device: str = "cpu") -> KernelReference:
    """The reference of `cmmd`: normalised, with its own sum; errors as `kernel_reference`."""
    normalised_MD = _normalised(embeddings_MD, "reference embeddings")
    return kernel_reference(normalised_MD, GaussianKernel(CMMD_SIGMA), device)


def cmmd(
    embeddings_ND: NDArray[Any], reference: KernelReference, device: str = "cpu"
) -> Discrepancy:
    """CMMD: 1000 times the V-statistic of normalised CLIP embeddings, Gaussian kernel, sigma 10.

    Source: Jayasumana et al. 2024 (arXiv 2401.09603), section 5.

    Args:
        embeddings_ND: float32 or float64 [N, D], of any length but 0.
        reference: from `cmmd_reference`.
        device: torch device that computes.

    Raises:
        DataError: as `unbiased_mmd`, or an embedding of length 0.
    """
    plain = biased_mmd(_normalised(embeddings_ND, "embeddings"), reference, device)
    return Discrepancy(CMMD_SCALE * plain.value, CMMD_SCALE * plain.influence_N)


def _normalised(embeddings_ND: NDArray[Any], what: str) -> NDArray[Any]:
    check_finite_rows(embeddings_ND, what)
    lengths_N = np.linalg.norm(embeddings_ND, axis=1)
    if not lengths_N.all():
        raise DataError(f"{what} have length 0 in row {int((lengths_N == 0).argmax())}")
    normalised_ND: NDArray[Any] = embeddings_ND / lengths_N[:, None]
    return normalised_ND


def _sums_across(
    features_ND: NDArray[Any], reference: KernelReference, device: str
) -> NDArray[np.float64]:
    """Mean of k - 1 with the reference, of each sample."""
    check_finite_rows(features_ND, "features")
    y_MD = reference.features_MD
    if features_ND.shape[1] != y_MD.shape[1] or features_ND.dtype != y_MD.dtype:
        raise DataError(
            f"features are {features_ND.dtype} with {features_ND.shape[1]} dimensions, those of "
            f"the reference {y_MD.dtype} with {y_MD.shape[1]}"
        )
    sums_N = np.empty(len(features_ND))
    with exact_float32(device):
        for rows in _tiles(len(features_ND)):
            x_ND = _tensor(features_ND[rows], device)
            total_N = torch.zeros(len(x_ND), dtype=torch.float64, device=device)
            for columns in _tiles(len(y_MD)):
                tile_NM = _tile(x_ND, _tensor(y_MD[columns], device), reference.kernel)
                total_N += tile_NM.sum(dim=1, dtype=torch.float64)
            sums_N[rows] = total_N.cpu().numpy()
    return sums_N / len(y_MD)


def _sums_within(
    features_ND: NDArray[Any], what: str, kernel: Kernel, device: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sums of k - 1 of each image with all others, and of each with itself."""
    check_finite_rows(features_ND, what)
    if len(features_ND) < 2:
        raise DataError(f"a discrepancy needs at least 2 {what}, there are {len(features_ND)}")
    unlike_N, self_N = np.zeros(len(features_ND)), np.empty(len(features_ND))
    tiles = list(_tiles(len(features_ND)))
    upper = [(rows, columns) for rows in tiles for columns in tiles if columns.start >= rows.start]
    with exact_float32(device):
        for rows, columns in upper:
            x_ND, y_ND = (_tensor(features_ND[part], device) for part in (rows, columns))
            tile_NM = _tile(x_ND, y_ND, kernel)
            if columns == rows:
                self_N[rows] = tile_NM.diagonal().double().cpu().numpy()
                tile_NM.fill_diagonal_(0)
            else:
                unlike_N[columns] += tile_NM.sum(dim=0, dtype=torch.float64).cpu().numpy()
            unlike_N[rows] += tile_NM.sum(dim=1, dtype=torch.float64).cpu().numpy()
    return unlike_N, self_N


def _tile(x_ND: Tensor, y_MD: Tensor, kernel: Kernel) -> Tensor:
    return kernel.less_one(
        x_ND @ y_MD.T, x_ND.square().sum(dim=1), y_MD.square().sum(dim=1), x_ND.shape[1]
    )


def _tensor(features_ND: NDArray[Any], device: str) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(features_ND)).to(device)


def _tiles(count: int) -> Iterator[slice]:
    starts = range(0, count, _TILE_ROWS)
    return (slice(start, min(start + _TILE_ROWS, count)) for start in starts)


def _centred(values_N: NDArray[np.float64]) -> NDArray[np.float64]:
    centred_N: NDArray[np.float64] = values_N - values_N.mean()
    return centred_N
