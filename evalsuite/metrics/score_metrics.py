"""The Inception Score as a metric: by the protocol's splits, with what the order does to it.

Legend: N samples, K classes.
"""

import math
from collections.abc import Mapping

from evalsuite.config import ProtocolSpec
from evalsuite.metrics.inception_score import (
    Splits,
    check_order,
    consecutive_splits,
    count_zeros,
    equal_splits,
    even_splits,
    influence_of_splits,
    score_of_splits,
)
from evalsuite.metrics.values import Computation, Detail, Least, MetricValue, error_of, present


def inception_score(work: Computation) -> MetricValue:
    """Mean over splits of the exponential of the mean divergence."""
    probabilities_NK = present(work.samples.probabilities_NK)
    rule = work.protocol.splits
    splits = splits_of(work.protocol, len(probabilities_NK))
    score = score_of_splits(probabilities_NK, splits).mean
    notes: list[str] = []
    zeros = count_zeros(probabilities_NK)
    if zeros and rule.zeros == "nan":
        notes.append(
            f"{zeros} probabilities are exactly 0, which by ADM's definition makes the score NaN; "
            f"with 0 * log 0 = 0 it is {score:.4f}"
        )
        return MetricValue(math.nan, notes=tuple(notes))
    if rule.kind == "consecutive":
        order = check_order(probabilities_NK, rule.size or len(probabilities_NK))
        if order.matters:
            notes.append(
                f"the order of samples makes this score: shuffled it is {order.shuffled:.4f}"
                " (classes that are sorted leave few of them in a split)"
            )
    influence_N = influence_of_splits(probabilities_NK, splits)
    error = error_of(influence_N, work.samples.strata_N, notes)
    return MetricValue(score, error, None, tuple(notes), influence_N)


def splits_of(protocol: ProtocolSpec, num_samples: int) -> Splits:
    """Indices of each split by the protocol's rule.

    Raises:
        DataError: fewer samples than splits.
    """
    rule = protocol.splits
    if rule.kind == "consecutive":
        return consecutive_splits(num_samples, rule.size or max(num_samples, 1))
    split = even_splits if rule.kind == "even" else equal_splits
    return split(num_samples, rule.number or 1, rule.seed)


def split_fields(protocol: ProtocolSpec) -> Mapping[str, Detail]:
    """The protocol's fields that decide the score."""
    rule = protocol.splits
    order = "sample_index" if rule.seed is None else f"shuffled by RandomState({rule.seed})"
    size: dict[str, Detail] = (
        {"split_size": rule.size}
        if rule.kind == "consecutive"
        else {f"{rule.kind}_splits": rule.number}
    )
    zeros: dict[str, Detail] = {} if rule.zeros == "nan" else {"zeros": rule.zeros}
    return {**size, "order": order, "bias": "none", **zeros}


def split_least(protocol: ProtocolSpec, dim: int) -> Least:  # noqa: ARG001
    """Two, or one for each of a fixed number of splits."""
    number = protocol.splits.number
    return Least() if number is None else Least(max(number, 2), why=f", for its {number} splits")
