"""The metrics: what each needs, which protocol fields are its own, and how its value is made."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from evalsuite.errors import DataError, UsageError, nearest
from evalsuite.metrics.distances import Arithmetic
from evalsuite.metrics.frechet import frechet_distance, frechet_influence
from evalsuite.metrics.inception_score import (
    count_zeros,
    inception_score,
    inception_score_influence,
    inception_score_with_zeros,
)
from evalsuite.metrics.intervals import (
    balanced_groups,
    degrees_of_freedom,
    extrapolated,
    standard_error,
)
from evalsuite.metrics.manifolds import ManifoldSettings, manifold_metrics
from evalsuite.metrics.moments import Moments, moments_of

SPLIT_SIZE = 5000
MANIFOLDS = ManifoldSettings(k=3, arithmetic=Arithmetic.FLOAT32)
INTERVAL_SAMPLES_PER_DIM = 2
EXTRAPOLATION_SAMPLES_PER_DIM = 10
_PER_SAMPLE = {
    "pool": "pool_ND",
    "spatial": "spatial_ND",
    "probabilities": "probabilities_NK",
    "strata": "strata_N",
}
_PER_REFERENCE = {
    "reference_pool": "reference_pool",
    "reference_spatial": "reference_spatial",
    "reference_features": "reference_features_MD",
}
_T = TypeVar("_T")


@dataclass(frozen=True, eq=False)
class MetricInputs:
    """Everything that a metric may need; None where it was not extracted.

    Attributes:
        pool_ND: features of the samples for FID, precision and recall, in sample_index order.
        spatial_ND: features of the same samples for sFID.
        probabilities_NK: their class probabilities.
        strata_N: their integer labels when labels were balanced; None for independent labels.
        reference_pool: moments of the reference for FID.
        reference_spatial: moments of the reference for sFID.
        reference_features_MD: pool features of reference images.
    """

    pool_ND: NDArray[Any]
    spatial_ND: NDArray[Any] | None
    probabilities_NK: NDArray[Any] | None
    strata_N: NDArray[Any] | None
    reference_pool: Moments | None
    reference_spatial: Moments | None
    reference_features_MD: NDArray[Any] | None


@dataclass(frozen=True)
class MetricValue:
    """A value and what is known about it.

    Attributes:
        value: the metric by its definition; NaN where that gives NaN.
        standard_error: error of sampling N images; None where it cannot be given, and a note says
            why. The bias of finite N and another training seed are not in it.
        extrapolated: the value at infinite N, where N is small enough for it to matter.
        notes: sentences for the reader.
    """

    value: float
    standard_error: float | None
    extrapolated: float | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class MetricSpec:
    """One metric.

    Attributes:
        name: key in `METRICS`, plans and records.
        display: name in tables.
        better: direction of improvement.
        needs: inputs that must be present.
        protocol: fields that can change this metric and no other.
        minimum_samples: fewest samples for which it is defined.
        compute: inputs that satisfy `needs` => value.
    """

    name: str
    display: str
    better: Literal["lower", "higher"]
    needs: frozenset[str]
    protocol: Mapping[str, str | int]
    minimum_samples: int
    compute: Callable[[MetricInputs], MetricValue]


def compute_metrics(names: Sequence[str], inputs: MetricInputs) -> dict[str, MetricValue]:
    """Compute metrics in the given order; precision and recall share their distances.

    Raises:
        UsageError: a name that is not in `METRICS`.
        DataError: an input is missing, has too few samples, or has values that no metric can use.
        ValueError: inputs whose numbers of samples differ.
    """
    for name in names:
        if name not in METRICS:
            raise UsageError(f"there is no metric {name!r}, {nearest(name, METRICS)}")
        _check_inputs(METRICS[name], inputs)
    values: dict[str, MetricValue] = {}
    for name in names:
        if name in values:
            continue
        if name in _Shares._fields and set(_Shares._fields) <= set(names):
            values.update(_precision_recall(inputs)._asdict())
        else:
            values[name] = METRICS[name].compute(inputs)
    return {name: values[name] for name in names}


class _Shares(NamedTuple):
    precision: MetricValue
    recall: MetricValue


def _fid(inputs: MetricInputs) -> MetricValue:
    return _frechet(inputs.pool_ND, _present(inputs.reference_pool), inputs.strata_N)


def _sfid(inputs: MetricInputs) -> MetricValue:
    spatial_ND = _present(inputs.spatial_ND)
    return _frechet(spatial_ND, _present(inputs.reference_spatial), inputs.strata_N)


def _frechet(
    features_ND: NDArray[Any], reference: Moments, strata_N: NDArray[Any] | None
) -> MetricValue:
    sample = moments_of(features_ND)
    value = frechet_distance(sample, reference)
    notes = [
        f"the covariance of the {whose} is singular: {moments.count} images for "
        f"{moments.dim} feature dimensions"
        for whose, moments in (("samples", sample), ("reference", reference))
        if moments.count <= moments.dim
    ]
    error: float | None = None
    needed = INTERVAL_SAMPLES_PER_DIM * sample.dim
    if sample.count < needed:
        notes.append(
            f"no standard error: it needs at least {INTERVAL_SAMPLES_PER_DIM} samples per feature "
            f"dimension ({needed}), there are {sample.count}"
        )
    else:
        error = _error(frechet_influence(features_ND, sample, reference), strata_N, notes)
    limit = _at_infinite_samples(features_ND, reference, strata_N, value, notes)
    return MetricValue(value, error, limit, tuple(notes))


def _at_infinite_samples(
    features_ND: NDArray[Any],
    reference: Moments,
    strata_N: NDArray[Any] | None,
    value: float,
    notes: list[str],
) -> float | None:
    """2 F(N) - mean F(N/2) over two disjoint halves with equal classes, when N is small."""
    count, dim = features_ND.shape
    if count >= EXTRAPOLATION_SAMPLES_PER_DIM * dim:
        return None
    only = f"N is only {count / dim:.3g} samples per feature dimension"
    if count < 4:
        notes.append(f"{only}; too few for an extrapolation")
        return None
    halves_N = balanced_groups(count, 2, strata_N)
    distances = [
        frechet_distance(moments_of(features_ND[halves_N == half]), reference) for half in (0, 1)
    ]
    limit = extrapolated(value, sum(distances) / 2)
    notes.append(f"{only}; extrapolated to infinite N: {limit:.4f}")
    return limit


def _inception_score(inputs: MetricInputs) -> MetricValue:
    probabilities_NK = _present(inputs.probabilities_NK)
    value = inception_score(probabilities_NK, SPLIT_SIZE)
    notes: list[str] = []
    if math.isnan(value):
        otherwise = inception_score_with_zeros(probabilities_NK, SPLIT_SIZE)
        notes.append(
            f"{count_zeros(probabilities_NK)} probabilities are exactly 0, which by ADM's "
            f"definition makes the score NaN; with 0 * log 0 = 0 it is {otherwise:.4f}"
        )
        return MetricValue(value, None, None, tuple(notes))
    influence_N = inception_score_influence(probabilities_NK, SPLIT_SIZE)
    error = _error(influence_N, inputs.strata_N, notes)
    return MetricValue(value, error, None, tuple(notes))


def _precision_recall(inputs: MetricInputs) -> _Shares:
    values, errors = manifold_metrics(
        inputs.pool_ND, _present(inputs.reference_features_MD), MANIFOLDS, inputs.strata_N
    )
    if errors is None:
        needed, count = MANIFOLDS.jackknife_samples, len(inputs.pool_ND)
        notes = (f"no standard error: it needs {needed} samples, there are {count}",)
        return _Shares(
            MetricValue(values.precision, None, None, notes),
            MetricValue(values.recall, None, None, notes),
        )
    return _Shares(_share(values.precision, errors.precision), _share(values.recall, errors.recall))


def _share(value: float, error: float) -> MetricValue:
    """A share with its jackknife error, which says nothing where it is 0."""
    if error < 1e-12:
        note = "no standard error: the share is the same whichever group of samples is left out"
        return MetricValue(value, None, None, (note,))
    return MetricValue(value, error, None, ())


def _precision(inputs: MetricInputs) -> MetricValue:
    return _precision_recall(inputs).precision


def _recall(inputs: MetricInputs) -> MetricValue:
    return _precision_recall(inputs).recall


def _error(
    influence_N: NDArray[np.float64], strata_N: NDArray[Any] | None, notes: list[str]
) -> float | None:
    """Standard error, or None and a note when each class has a single sample."""
    if degrees_of_freedom(len(influence_N), strata_N) < 1:
        notes.append("no standard error: with one sample per class nothing varies within a class")
        return None
    return standard_error(influence_N, strata_N)


def _check_inputs(spec: MetricSpec, inputs: MetricInputs) -> None:
    for need in sorted(spec.needs):
        if getattr(inputs, (_PER_SAMPLE | _PER_REFERENCE)[need]) is None:
            raise DataError(f"{spec.display} needs {need}, which is missing")
    sizes = {
        need: len(getattr(inputs, field))
        for need, field in _PER_SAMPLE.items()
        if need in spec.needs or (need == "strata" and inputs.strata_N is not None)
    }
    if len(set(sizes.values())) != 1:
        raise ValueError(f"inputs have different numbers of samples: {sizes}")
    count = min(sizes.values())
    if count < spec.minimum_samples:
        raise DataError(
            f"{spec.display} needs at least {spec.minimum_samples} samples, there are {count}"
        )


def _present(value: _T | None) -> _T:
    if value is None:
        raise ValueError("an input that this metric needs is None; use compute_metrics")
    return value


METRICS: dict[str, MetricSpec] = {
    "fid": MetricSpec(
        name="fid",
        display="FID",
        better="lower",
        needs=frozenset({"pool", "reference_pool"}),
        protocol={},
        minimum_samples=2,
        compute=_fid,
    ),
    "sfid": MetricSpec(
        name="sfid",
        display="sFID",
        better="lower",
        needs=frozenset({"spatial", "reference_spatial"}),
        protocol={},
        minimum_samples=2,
        compute=_sfid,
    ),
    "inception_score": MetricSpec(
        name="inception_score",
        display="IS",
        better="higher",
        needs=frozenset({"probabilities"}),
        protocol={"split_size": SPLIT_SIZE, "order": "sample_index", "bias": "none"},
        minimum_samples=2,
        compute=_inception_score,
    ),
    "precision": MetricSpec(
        name="precision",
        display="Precision",
        better="higher",
        needs=frozenset({"pool", "reference_features"}),
        protocol={"k": MANIFOLDS.k, "arithmetic": MANIFOLDS.arithmetic.value},
        minimum_samples=MANIFOLDS.k + 1,
        compute=_precision,
    ),
    "recall": MetricSpec(
        name="recall",
        display="Recall",
        better="higher",
        needs=frozenset({"pool", "reference_features"}),
        protocol={"k": MANIFOLDS.k, "arithmetic": MANIFOLDS.arithmetic.value},
        minimum_samples=MANIFOLDS.k + 1,
        compute=_recall,
    ),
}
