"""What a configuration is ranked by on a rung, from its run's features; kept beside its records.

Legend: N samples, D feature dimensions.
"""

import functools
import hashlib
import io
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evalsuite.artifacts.images import UNREADABLE
from evalsuite.artifacts.records import Protocol, Record
from evalsuite.artifacts.run_directory import RunDirectory
from evalsuite.config import FEWEST_SAMPLES, Plan, canonical_json
from evalsuite.metrics.frechet_limit import RANKED_SAMPLES_PER_DIM, FrechetLimit, frechet_limit
from evalsuite.metrics.frechet_metrics import EXTRAPOLATION_SAMPLES_PER_DIM
from evalsuite.metrics.intervals import degrees_of_freedom
from evalsuite.metrics.registry import METRICS
from evalsuite.metrics.values import present
from evalsuite.pipeline.comparison import influence_of
from evalsuite.pipeline.evaluation import found_record, run_features, score_run_by
from evalsuite.pipeline.measure import Measure
from evalsuite.pipeline.reference_data import PreparedReference, prepare_reference
from evalsuite.pipeline.scoring import all_threads, protocol_of, sampling_fields, strata_of
from evalsuite.seeding import labels_of
from evalsuite.sweep.judging import Judged

WITH_LIMIT = ("fid", "sfid")
"""Metrics whose bias at small N would decide a ranking, and that can be extrapolated."""


class Scored(NamedTuple):
    """One configuration on one rung.

    Attributes:
        record: of the metric that decides.
        records: of all metrics that were asked on this rung.
        judged: what it is ranked by.
    """

    record: Record
    records: tuple[Record, ...]
    judged: Judged


class Scale:
    """One metric by one protocol: what every configuration of a sweep is measured with."""

    def __init__(self, measure: Measure, metric: str) -> None:
        """Measure `metric`, which is one of the measure's, by which configurations are ranked."""
        self.measure, self.metric = measure, metric

    @functools.cached_property
    def _reference(self) -> PreparedReference | None:
        return prepare_reference(self.measure)

    @property
    def dim(self) -> int | None:
        """D of the features behind the metric, where it is one that is extrapolated."""
        spec = self.measure.spec
        if self.metric not in WITH_LIMIT:
            return None
        return spec.pool_dim if self.metric == "fid" else spec.spatial_dim

    def extrapolates(self, num_samples: int) -> bool:
        """Whether a rung ranks by the extrapolated distance."""
        return self.dim is not None and num_samples < EXTRAPOLATION_SAMPLES_PER_DIM * self.dim

    def may_exclude(self, num_samples: int) -> bool:
        """Whether a rung may drop configurations."""
        return self.dim is None or num_samples >= RANKED_SAMPLES_PER_DIM * self.dim

    @property
    def fewest(self) -> int | None:
        """Samples from which on a rung may drop by an extrapolated metric; None for any other.

        What is not extrapolated is biased by few samples, or has no interval.
        """
        if self.dim is None:
            return None
        protocol, dim = self.measure.protocol, self.measure.spec.pool_dim
        leasts = (METRICS[name].least(protocol, dim).samples for name in self.of_rung())
        return max(FEWEST_SAMPLES, math.ceil(RANKED_SAMPLES_PER_DIM * self.dim), *leasts)

    def score(self, run: RunDirectory, num_samples: int, *, whole: bool = False) -> Scored:
        """Records of a run's first samples, found or made, and what they are ranked by.

        Args:
            run: of the configuration; it has the samples.
            num_samples: of the rung.
            whole: every metric of the measure instead of those that a rung needs.

        Raises:
            DataError: as `score_run_by`.
        """
        names = self.measure.metrics if whole else self.of_rung()
        records = [self._found(run, name, num_samples) for name in names]
        if any(record is None for record in records):
            measure = self.measure._replace(metrics=names)
            made = score_run_by(run, [measure], num_samples, lambda _: self._reference)
            records = list(made)
        kept = tuple(record for record in records if record is not None)
        record = next(one for one in kept if one.metric == self.metric)
        return Scored(record, kept, self._judged(run, record, num_samples))

    def protocol(self, plan: Plan, num_samples: int, metric: str | None = None) -> Protocol:
        """Of one metric of so many samples; of the one that decides by default."""
        spec = METRICS[metric or self.metric]
        return protocol_of(spec, num_samples, self.measure, self._reference, sampling_fields(plan))

    def strata(self, run: RunDirectory, num_samples: int) -> NDArray[np.int64] | None:
        """Labels of the samples when they are balanced and leave something to vary."""
        labels = labels_of(run.plan, 0, num_samples, run.manifest.file_labels)
        strata_N = strata_of(run.plan.labels.describe(), labels)
        return strata_N if degrees_of_freedom(num_samples, strata_N) > 0 else None

    def of_rung(self) -> list[str]:
        """The metric, and the Inception Score, which costs nothing and belongs beside it."""
        return [name for name in self.measure.metrics if name in {self.metric, "inception_score"}]

    def _found(self, run: RunDirectory, name: str, num_samples: int) -> Record | None:
        return found_record(run, name, num_samples, self.measure, self._reference)

    def _judged(self, run: RunDirectory, record: Record, num_samples: int) -> Judged:
        if self.extrapolates(num_samples):
            limit = self._limit(run, record, num_samples)
            return Judged(limit.value, limit.influence_N, None, limit.value - limit.coarser)
        value = math.nan if record.value is None else record.value
        error = record.standard_error
        influence_N = None if error is None else influence_of(run, record)
        return Judged(value, influence_N, error)

    def _limit(self, run: RunDirectory, record: Record, num_samples: int) -> FrechetLimit:
        """The extrapolated distance, computed once and kept beside the record."""
        path = f"results/{record.metric}-{record.protocol_id}-limit.npz"
        found = _read_limit(run.storage.find(path), record)
        if found is not None:
            return found
        table = run_features(run, self.measure, num_samples)
        data = present(self._reference).data
        with all_threads():
            if self.metric == "fid":
                features_ND, factor = table.pool_ND, data.pool_factor
            else:
                features_ND, factor = present(table.spatial_NP), data.spatial_factor
            limit = frechet_limit(features_ND, factor, self.strata(run, num_samples))
        run.storage.replace(path, _written_limit(limit, record))
        return limit


def _written_limit(limit: FrechetLimit, record: Record) -> bytes:
    buffer = io.BytesIO()
    np.savez(
        buffer,
        value=limit.value,
        coarser=limit.coarser,
        influence_N=limit.influence_N,
        seal=_seal(limit, record),
    )
    return buffer.getvalue()


def _seal(limit: FrechetLimit, record: Record) -> str:
    """SHA-256 of a limit and of what it belongs to: the value of the same features."""
    about = [record.protocol_id, record.samples.get("plan_id"), record.value]
    digest = hashlib.sha256(canonical_json([*about, limit.value, limit.coarser]))
    digest.update(np.ascontiguousarray(limit.influence_N, dtype="<f8").tobytes())
    return digest.hexdigest()


def _read_limit(content: bytes | None, record: Record) -> FrechetLimit | None:
    """What was written; None where nothing was, or what stands there was damaged or edited."""
    if content is None:
        return None
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            influence_N, seal = file["influence_N"], str(file["seal"])
            limit = FrechetLimit(float(file["value"]), float(file["coarser"]), influence_N)
    except (*UNREADABLE, RuntimeError, TypeError, MemoryError):
        return None
    fits = influence_N.shape == (record.protocol.num_samples,) and influence_N.dtype.kind == "f"
    finite = math.isfinite(limit.value) and math.isfinite(limit.coarser)
    return limit if fits and finite and seal == _seal(limit, record) else None
