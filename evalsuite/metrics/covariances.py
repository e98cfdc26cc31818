"""Linear algebra of covariances: roots of any rank, products with them, quadratic forms.

Legend: N rows, D feature dimensions, R rank. The one file that calls LAPACK and BLAS by name.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import blas, lapack

from evalsuite.errors import DataError

EPS = float(np.finfo(np.float64).eps)
NEGATIVE_TOLERANCE = 1e-5
"""Share of the norm by which an eigenvalue may be negative: float32 files stay below 1e-6."""


def root_of_covariance(cov_DD: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """L [D, R] with L L' = cov up to rounding, R the number of directions that are not rounding.

    Cholesky where more samples than dimensions make full rank likely, and no pivot is rounding;
    else pivoted Cholesky, which stops at the rank and costs D R^2; and where the matrix is not that
    of a distribution within rounding (float32 files), eigenvectors, with the eigenvalues that are
    at most D * 2.2e-16 of the largest left out.

    Source: Higham 2002, "Accuracy and Stability of Numerical Algorithms", chapter 10.

    Args:
        cov_DD: float64 [D, D], symmetric, finite.
        count: samples behind it; decides only what is tried first.

    Returns:
        float64 [D, R] in Fortran order.

    Raises:
        DataError: a negative eigenvalue, beyond `NEGATIVE_TOLERANCE` of the norm.
    """
    root_DR = _by_cholesky(cov_DD) if count > len(cov_DD) else None
    if root_DR is None:
        root_DR = _by_pivoted_cholesky(cov_DD)
    if root_DR is None:
        root_DR = _by_eigenvectors(cov_DD)
    return root_DR


def congruence(root_DR: NDArray[np.float64], cov_DD: NDArray[np.float64]) -> NDArray[np.float64]:
    """The product root' cov root [R, R], of which only the lower triangle is to be read.

    For a triangular root LAPACK's sygst takes a third of the products.
    """
    if root_DR.shape[0] == root_DR.shape[1] and not np.triu(root_DR, 1).any():
        product_RR, info = lapack.dsygst(cov_DD.T, root_DR, itype=2, lower=1)
        assert info == 0
    else:
        product_RR = root_DR.T @ cov_DD @ root_DR
    matrix_RR: NDArray[np.float64] = product_RR
    return matrix_RR


def cross_product(a_DR: NDArray[np.float64], b_DQ: NDArray[np.float64]) -> NDArray[np.float64]:
    """The product b' a [Q, R] of two roots; half of the products where b is triangular."""
    if b_DQ.shape[0] == b_DQ.shape[1] and not np.triu(b_DQ, 1).any():
        product_QR = blas.dtrmm(1.0, b_DQ, a_DR, lower=1, trans_a=1)
    else:
        product_QR = b_DQ.T @ a_DR
    matrix_QR: NDArray[np.float64] = product_QR
    return matrix_QR


def gram(cross_QR: NDArray[np.float64]) -> NDArray[np.float64]:
    """The product cross' cross [R, R], of which only the lower triangle is to be read."""
    gram_RR: NDArray[np.float64] = blas.dsyrk(1.0, cross_QR, trans=1, lower=1)
    return gram_RR


def lower_half(symmetric_DD: NDArray[np.float64]) -> NDArray[np.float64]:
    """Lower triangular with the same quadratic form, for `quadratic_forms`; Fortran order."""
    half_DD = np.asfortranarray(2.0 * np.tril(symmetric_DD, -1))
    np.fill_diagonal(half_DD, np.diag(symmetric_DD))
    return half_DD


def quadratic_forms(
    rows_ND: NDArray[np.float64], lower_DD: NDArray[np.float64]
) -> NDArray[np.float64]:
    """X' L x of every row x, for a lower triangular L, which takes half of the products.

    Args:
        rows_ND: float64 [N, D] in C order.
        lower_DD: float64 [D, D] in Fortran order; see `lower_half`.
    """
    product_DN = blas.dtrmm(1.0, lower_DD, rows_ND.T, lower=1)
    forms_N: NDArray[np.float64] = np.einsum("nd,nd->n", product_DN.T, rows_ND)
    return forms_N


def zero_below(eigenvalues: NDArray[np.floating[Any]], dim: int) -> float:
    """Up to which an eigenvalue is the rounding of 0."""
    return dim * EPS * float(eigenvalues.max(initial=0.0))


def refuse_negative(eigenvalues: NDArray[np.floating[Any]], norm: float) -> None:
    """Refuse what no distribution can have.

    Raises:
        DataError: an eigenvalue below -`NEGATIVE_TOLERANCE` * norm.
    """
    smallest = float(eigenvalues.min(initial=0.0))
    if smallest < -NEGATIVE_TOLERANCE * norm:
        raise DataError(f"a covariance has a negative eigenvalue ({smallest:.3g}, norm {norm:.3g})")


def _by_cholesky(cov_DD: NDArray[np.float64]) -> NDArray[np.float64] | None:
    root_DD, info = lapack.dpotrf(cov_DD.T, lower=1, clean=1)
    pivots_D = np.diag(root_DD) ** 2
    if info or pivots_D.min(initial=np.inf) <= zero_below(np.diag(cov_DD), len(cov_DD)):
        return None
    root: NDArray[np.float64] = root_DD
    return root


def _by_pivoted_cholesky(cov_DD: NDArray[np.float64]) -> NDArray[np.float64] | None:
    dim = len(cov_DD)
    rounding = zero_below(np.diag(cov_DD), dim)
    packed_DD, pivots_D, rank, info = lapack.dpstrf(cov_DD.T, lower=1, tol=rounding)
    assert info >= 0
    # A rank-0 matrix comes back as rank 1 with a zero pivot from some builds.
    rank = rank if rounding > 0 else 0
    root_DR = np.zeros((dim, rank), order="F")
    root_DR[pivots_D - 1] = np.tril(packed_DD[:, :rank])
    # What is left has diagonal at most `rounding`, and then all of it is, unless it is indefinite.
    left_DD = blas.dsyrk(-1.0, root_DR, beta=1.0, c=cov_DD.T, lower=1) if rank else cov_DD
    return root_DR if np.abs(np.tril(left_DD)).max(initial=0.0) <= 4 * rounding else None


def _by_eigenvectors(cov_DD: NDArray[np.float64]) -> NDArray[np.float64]:
    values_D, vectors_DD = np.linalg.eigh(cov_DD)
    refuse_negative(values_D, float(np.abs(values_D).max(initial=0.0)))
    kept_D = values_D > zero_below(values_D, len(cov_DD))
    return np.asfortranarray(vectors_DD[:, kept_D] * np.sqrt(values_D[kept_D]))
