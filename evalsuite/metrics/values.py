"""What a metric takes and gives, and what several metrics share of one pass.

Legend: N samples, M reference images, D pooled width, P spatial width, K classes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from evalsuite.config import ProtocolSpec
from evalsuite.errors import DataError
from evalsuite.metrics.distances import Arithmetic
from evalsuite.metrics.frechet import ReferenceFactor, reference_factor
from evalsuite.metrics.intervals import degrees_of_freedom, standard_error
from evalsuite.metrics.manifolds import (
    ManifoldMetrics,
    ManifoldSettings,
    manifold_metrics,
    reference_radii,
)
from evalsuite.metrics.moments import Moments

Features = NDArray[np.float32]
Detail = str | int | float | bool | None
_T = TypeVar("_T")


class Memo(Protocol):
    """Remembers arrays that belong to a reference, in memory or beyond the process."""

    def recall(self, name: str, make: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        """The array of this name: remembered, or made now."""
        ...


class MemoryMemo:
    """Remembers in this process."""

    def __init__(self) -> None:
        self._arrays: dict[str, NDArray[Any]] = {}

    def recall(self, name: str, make: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        """The array of this name: remembered, or made now."""
        if name not in self._arrays:
            self._arrays[name] = make()
        return self._arrays[name]


class ReferenceData:
    """What a reference has, and what follows from it alone; kept for any number of sample sets."""

    def __init__(
        self,
        pool: Moments | None,
        spatial: Moments | None,
        features_MD: Features | None,
        memo: Memo | None = None,
    ) -> None:
        """Keep moments of pooled and of spatial features, and pooled features of images."""
        self.pool, self.spatial, self.features_MD = pool, spatial, features_MD
        self._memo: Memo = memo or MemoryMemo()

    @cached_property
    def pool_factor(self) -> ReferenceFactor:
        """The pooled moments, factorised once."""
        return reference_factor(present(self.pool))

    @cached_property
    def spatial_factor(self) -> ReferenceFactor:
        """The spatial moments, factorised once."""
        return reference_factor(present(self.spatial))

    def radii(self, settings: ManifoldSettings) -> NDArray[np.float32]:
        """Squared distance of each image to its k-th neighbour."""
        name = f"radii-{settings.k}-{settings.arithmetic.value}"
        features_MD = present(self.features_MD)
        return self._memo.recall(name, lambda: reference_radii(features_MD, settings))


@dataclass(frozen=True, eq=False)
class SampleData:
    """Features of N samples in sample_index order; a part that was not extracted is None.

    Attributes:
        pool_ND: for all distances but sFID.
        spatial_NP: for sFID.
        probabilities_NK: for the Inception Score.
        strata_N: integer labels when labels were balanced; None for independent labels.
    """

    pool_ND: Features
    spatial_NP: Features | None = None
    probabilities_NK: Features | None = None
    strata_N: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        """N."""
        return len(self.pool_ND)


class Computation:
    """One set of samples against one reference by one protocol; what metrics share is kept."""

    def __init__(
        self,
        samples: SampleData,
        reference: ReferenceData | None,
        protocol: ProtocolSpec,
        device: torch.device | str = "cpu",
    ) -> None:
        """Nothing is computed yet."""
        self.samples, self.protocol = samples, protocol
        self.device = torch.device(device)
        self._reference = reference

    @property
    def reference(self) -> ReferenceData:
        """The reference, which the registry has made sure of."""
        return present(self._reference)

    @cached_property
    def manifold(self) -> ManifoldMetrics:
        """Precision, recall, density and coverage from one pass over the distances."""
        settings = self.manifold_settings
        features_MD = present(self.reference.features_MD)
        return manifold_metrics(
            self.samples.pool_ND,
            features_MD,
            settings,
            self.samples.strata_N,
            self.reference.radii(settings),
        )

    @property
    def manifold_settings(self) -> ManifoldSettings:
        """The protocol's neighbours, on this device."""
        rule = self.protocol.neighbours
        return ManifoldSettings(
            rule.k, Arithmetic(rule.arithmetic), rule.strict, device=self.device
        )


@dataclass(frozen=True, eq=False)
class MetricValue:
    """A value and what is known about it.

    Attributes:
        value: the metric by its definition; NaN where that gives NaN.
        standard_error: error of sampling N images; None where it cannot be given, and a note says
            why. The bias of finite N and another training seed are not in it.
        extrapolated: the value at infinite N, where N is small enough for it to matter.
        notes: sentences for the reader.
        influence_N: float64 [N], first-order change per unit of extra weight on each sample; None
            where the metric has none, or its error is not to be taken from it.
    """

    value: float
    standard_error: float | None = None
    extrapolated: float | None = None
    notes: tuple[str, ...] = ()
    influence_N: NDArray[np.float64] | None = None


class Least(NamedTuple):
    """The fewest samples and reference images from which a metric is computed.

    Attributes:
        samples: N.
        images: M, where images of the reference are used.
        why: clause on what needs so many, with its comma.
        remedy: what to do about too few samples.
    """

    samples: int = 2
    images: int = 2
    why: str = ""
    remedy: str = "take more samples, or leave it out"

    def check(self, name: str, num_samples: int, num_images: int | None = None) -> None:
        """Raise DataError when there are fewer; `num_images` is None where none are used."""
        if num_samples < self.samples:
            raise DataError(
                f"{name} needs at least {self.samples} samples, not {num_samples}{self.why}:"
                f" {self.remedy}"
            )
        if num_images is not None and num_images < self.images:
            raise DataError(
                f"{name} needs at least {self.images} reference images, not {num_images}{self.why}:"
                " choose another reference, or leave it out"
            )


@dataclass(frozen=True)
class MetricSpec:
    """One metric.

    Attributes:
        name: key in `METRICS`, plans and records.
        display: name in tables.
        better: direction of improvement.
        needs: inputs that must be present.
        compute: a computation whose inputs satisfy `needs` => value.
        fields: what can change this metric and no other, of the protocol and of its definition.
        least: protocol and D => what it is computed from at least.
    """

    name: str
    display: str
    better: Literal["lower", "higher"]
    needs: frozenset[str]
    compute: Callable[[Computation], MetricValue]
    fields: Callable[[ProtocolSpec], Mapping[str, Detail]] = lambda _: {}
    least: Callable[[ProtocolSpec, int], Least] = lambda _protocol, _dim: Least()


def error_of(
    influence_N: NDArray[np.float64], strata_N: NDArray[Any] | None, notes: list[str]
) -> float | None:
    """Standard error, or None and a note when each class has a single sample."""
    if degrees_of_freedom(len(influence_N), strata_N) < 1:
        notes.append("no standard error: with one sample per class nothing varies within a class")
        return None
    return standard_error(influence_N, strata_N)


def present(value: _T | None) -> _T:
    """The value, which the registry has made sure of."""
    if value is None:
        raise ValueError("an input that this metric needs is None; use compute_metrics")
    return value
