"""Inception Score from class probabilities, and what each sample contributes to it.

Legend: N samples, K classes, C splits.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evalsuite.errors import DataError
from evalsuite.metrics.intervals import standard_error
from evalsuite.metrics.moments import check_finite_rows

ADM_SPLIT_SIZE = 5000
NUM_SPLITS = 10
SHUFFLE_SEED = 2020
ORDER_ERRORS = 5.0
"""Standard errors by which the score in file order may differ from the shuffled one."""

_SUM_TOLERANCE = 1e-2

Splits = Sequence[NDArray[np.int64]]
"""Indices of the samples of each split, in order."""


class SplitScore(NamedTuple):
    """Mean over splits, and their standard deviation, which is no error of the mean."""

    mean: float
    std: float


class OrderCheck(NamedTuple):
    """Whether the order of samples makes the score of consecutive splits.

    Attributes:
        in_order: the score as the samples come.
        shuffled: the score in a fixed pseudo-random order, which no order of the file can move.
        matters: they differ by more than `ORDER_ERRORS` standard errors, as where classes are
            sorted and a split holds few of them.
    """

    in_order: float
    shuffled: float
    matters: bool


def consecutive_splits(num_samples: int, split_size: int = ADM_SPLIT_SIZE) -> Splits:
    """ADM's: runs of `split_size` in file order, the last one possibly short.

    Source: guided-diffusion `evaluations/evaluator.py`.

    Raises:
        ValueError: split_size is not positive.
    """
    if split_size < 1:
        raise ValueError("split_size must be at least 1")
    order_N = np.arange(num_samples)
    return [order_N[start : start + split_size] for start in range(0, num_samples, split_size)]


def even_splits(
    num_samples: int, num_splits: int = NUM_SPLITS, seed: int | None = SHUFFLE_SEED
) -> Splits:
    """torch-fidelity's: all samples, shuffled, cut at i * N // num_splits.

    Source: torch-fidelity 0.4 `metric_isc.py`, and the fork of it that JiT uses.

    Args:
        num_samples: N.
        num_splits: how many.
        seed: of numpy's RandomState; None leaves the order of the file.

    Raises:
        DataError: fewer samples than splits.
    """
    order_N = _order(num_samples, num_splits, seed)
    bounds = [i * num_samples // num_splits for i in range(num_splits + 1)]
    return [order_N[start:stop] for start, stop in itertools.pairwise(bounds)]


def equal_splits(
    num_samples: int, num_splits: int = NUM_SPLITS, seed: int | None = SHUFFLE_SEED
) -> Splits:
    """dgm-eval's: shuffled, N // num_splits samples in each, the remainder left out.

    Source: dgm-eval, its Inception Score. Arguments and errors are those of `even_splits`.
    """
    order_N = _order(num_samples, num_splits, seed)
    size = num_samples // num_splits
    return [order_N[i * size : (i + 1) * size] for i in range(num_splits)]


def inception_score(probabilities_NK: NDArray[Any], split_size: int = ADM_SPLIT_SIZE) -> float:
    """Mean over splits of exp(mean over images of KL(p(y|x) || p(y))), as ADM defines it.

    Source: Salimans et al. 2016, section 4; guided-diffusion `evaluations/evaluator.py`. Splits are
    consecutive in file order, and a short last one counts as much as a full one. ADM computes in
    float32, this in float64; the two differ by less than 3e-7 of the value.

    Args:
        probabilities_NK: float32 or float64 [N, K], rows sum to 1.
        split_size: images in a split.

    Returns:
        The score, 1 to K; NaN when a probability is exactly 0, as in ADM, where 0 * log 0 is NaN.

    Raises:
        DataError: no rows, rows that are not probabilities, or float16.
        ValueError: split_size is not positive.
    """
    score = inception_score_with_zeros(probabilities_NK, split_size)
    return math.nan if count_zeros(probabilities_NK) else score


def inception_score_with_zeros(
    probabilities_NK: NDArray[Any], split_size: int = ADM_SPLIT_SIZE
) -> float:
    """The score with 0 * log 0 = 0, equal to `inception_score` where that is a number.

    Arguments and errors are those of `inception_score`.
    """
    splits = consecutive_splits(len(probabilities_NK), split_size)
    return score_of_splits(probabilities_NK, splits).mean


def score_of_splits(probabilities_NK: NDArray[Any], splits: Splits) -> SplitScore:
    """Mean and standard deviation of the score over any splits, with 0 * log 0 = 0.

    torch-fidelity and dgm-eval define zeros so too. The standard deviation has divisor C, as
    theirs.

    Args:
        probabilities_NK: float32 or float64 [N, K], rows sum to 1.
        splits: from `consecutive_splits`, `even_splits` or `equal_splits`.

    Raises:
        DataError: as `inception_score`.
    """
    _check(probabilities_NK)
    scores = [math.exp(kl_N.mean()) for kl_N in _divergences(probabilities_NK, splits)]
    return SplitScore(sum(scores) / len(scores), float(np.std(scores)))


def influence_of_splits(probabilities_NK: NDArray[Any], splits: Splits) -> NDArray[np.float64]:
    """First-order change of the mean score per unit of extra weight on each sample.

    In a split of n images with score s it is N / (C n) * s * (KL_i - mean KL): the marginal p(y)
    moves too, but to first order that changes nothing. sqrt(var / N) is the error of the mean over
    splits. A sample that is in no split has influence 0.

    Source: derivative of Salimans et al. 2016, section 4. Arguments and errors are those of
    `score_of_splits`.

    Returns:
        float64 [N], mean 0 within each split.
    """
    _check(probabilities_NK)
    num_rows = len(probabilities_NK)
    influence_N = np.zeros(num_rows)
    for rows, kl_N in zip(splits, _divergences(probabilities_NK, splits), strict=True):
        mean = kl_N.mean()
        weight = num_rows / (len(splits) * len(rows))
        influence_N[rows] = weight * math.exp(mean) * (kl_N - mean)
    return influence_N


def check_order(probabilities_NK: NDArray[Any], split_size: int = ADM_SPLIT_SIZE) -> OrderCheck:
    """Compare `inception_score_with_zeros` in file order with a fixed pseudo-random order.

    The shuffled score is the one to read for a file whose classes are sorted. Needs no labels.
    Arguments and errors are those of `inception_score`.
    """
    in_order = inception_score_with_zeros(probabilities_NK, split_size)
    num_rows = len(probabilities_NK)
    if num_rows <= split_size:
        return OrderCheck(in_order, in_order, False)
    order_N = np.random.default_rng(0).permutation(num_rows)
    splits = [order_N[rows] for rows in consecutive_splits(num_rows, split_size)]
    shuffled = score_of_splits(probabilities_NK, splits).mean
    error = standard_error(influence_of_splits(probabilities_NK, splits))
    return OrderCheck(in_order, shuffled, abs(in_order - shuffled) > ORDER_ERRORS * error)


def count_zeros(probabilities_NK: NDArray[Any]) -> int:
    """How many probabilities are exactly 0."""
    return int(probabilities_NK.size - np.count_nonzero(probabilities_NK))


def _order(num_samples: int, num_splits: int, seed: int | None) -> NDArray[np.int64]:
    if num_samples < num_splits:
        raise DataError(f"{num_splits} splits need as many samples, there are {num_samples}")
    if seed is None:
        return np.arange(num_samples)
    return np.random.RandomState(seed).permutation(num_samples)


def _divergences(probabilities_NK: NDArray[Any], splits: Splits) -> Iterator[NDArray[np.float64]]:
    """KL(p(y|x) || p(y)) in nats of each image, split by split, with 0 * log 0 = 0."""
    for rows in splits:
        p_NK = probabilities_NK[rows].astype(np.float64)
        log_p_NK = np.log(p_NK, out=np.zeros_like(p_NK), where=p_NK > 0)
        marginal_K = p_NK.mean(axis=0)
        log_marginal_K = np.log(marginal_K, out=np.zeros_like(marginal_K), where=marginal_K > 0)
        log_p_NK -= log_marginal_K
        yield np.einsum("nk,nk->n", p_NK, log_p_NK)


def _check(probabilities_NK: NDArray[Any]) -> None:
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
