"""Inception Score from class probabilities, and what each sample contributes to it.

Legend: N samples, K classes, C consecutive splits.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evalsuite.errors import DataError
from evalsuite.metrics.moments import check_finite_rows

_SUM_TOLERANCE = 1e-2


def inception_score(probabilities_NK: NDArray[Any], split_size: int = 5000) -> float:
    """Mean over splits of exp(mean over images of KL(p(y|x) || p(y))), as ADM defines it.

    Source: Salimans et al. 2016, section 4; guided-diffusion `evaluations/evaluator.py`. Splits are
    consecutive in file order, and a short last one counts as much as a full one. ADM computes in
    float32, this in float64; the two differ by less than 3e-7 of the value.

    Args:
        probabilities_NK: any float dtype [N, K], rows sum to 1.
        split_size: images in a split.

    Returns:
        The score, 1 to K; NaN when a probability is exactly 0, as in ADM, where 0 * log 0 is NaN.

    Raises:
        DataError: no rows, or rows that are not probabilities.
        ValueError: split_size is not positive.
    """
    _check(probabilities_NK, split_size)
    if count_zeros(probabilities_NK):
        return math.nan
    return _score(probabilities_NK, split_size)


def inception_score_with_zeros(probabilities_NK: NDArray[Any], split_size: int = 5000) -> float:
    """The score with 0 * log 0 = 0, equal to `inception_score` where that is a number.

    Arguments and errors are those of `inception_score`.
    """
    _check(probabilities_NK, split_size)
    return _score(probabilities_NK, split_size)


def inception_score_influence(
    probabilities_NK: NDArray[Any], split_size: int = 5000
) -> NDArray[np.float64]:
    """First-order change of the score per unit of extra weight on each sample.

    In a split of n images with score s it is N / (C n) * s * (KL_i - mean KL): the marginal p(y)
    moves too, but to first order that changes nothing. sqrt(var / N) is the error of the mean over
    splits.

    Source: derivative of Salimans et al. 2016, section 4.

    Returns:
        float64 [N], mean 0 within each split; all NaN when a probability is exactly 0.

    Raises:
        DataError: as `inception_score`.
        ValueError: split_size is not positive.
    """
    _check(probabilities_NK, split_size)
    num_rows = len(probabilities_NK)
    if count_zeros(probabilities_NK):
        return np.full(num_rows, math.nan)
    divergences = list(_divergences(probabilities_NK, split_size))
    parts = []
    for kl_N in divergences:
        mean = kl_N.mean()
        weight = num_rows / (len(divergences) * len(kl_N))
        parts.append(weight * math.exp(mean) * (kl_N - mean))
    return np.concatenate(parts)


def count_zeros(probabilities_NK: NDArray[Any]) -> int:
    """How many probabilities are exactly 0."""
    return int(probabilities_NK.size - np.count_nonzero(probabilities_NK))


def _score(probabilities_NK: NDArray[Any], split_size: int) -> float:
    scores = [math.exp(kl_N.mean()) for kl_N in _divergences(probabilities_NK, split_size)]
    return sum(scores) / len(scores)


def _divergences(probabilities_NK: NDArray[Any], split_size: int) -> Iterator[NDArray[np.float64]]:
    """KL(p(y|x) || p(y)) in nats of each image, split by split, with 0 * log 0 = 0."""
    for start in range(0, len(probabilities_NK), split_size):
        p_NK = probabilities_NK[start : start + split_size].astype(np.float64)
        log_p_NK = np.log(p_NK, out=np.zeros_like(p_NK), where=p_NK > 0)
        marginal_K = p_NK.mean(axis=0)
        log_marginal_K = np.log(marginal_K, out=np.zeros_like(marginal_K), where=marginal_K > 0)
        yield np.einsum("nk,nk->n", p_NK, log_p_NK - log_marginal_K)


def _check(probabilities_NK: NDArray[Any], split_size: int) -> None:
    if split_size < 1:
        raise ValueError("split_size must be at least 1")
    check_finite_rows(probabilities_NK, "probabilities")
    if not probabilities_NK.size:
        raise DataError("an Inception Score needs at least 1 sample, there are 0")
    sums_N = probabilities_NK.sum(axis=1, dtype=np.float64)
    bad_N = (probabilities_NK < 0).any(axis=1) | (np.abs(sums_N - 1) > _SUM_TOLERANCE)
    if bad_N.any():
        raise DataError(
            f"{int(bad_N.sum())} of {len(bad_N)} rows are not probabilities (negative, or "
            f"their sum is not 1), the first is row {int(bad_N.argmax())}"
        )
