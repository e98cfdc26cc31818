"""The reference of a run's records as far as this machine has it: moments, features, images.

Nothing is downloaded and nothing embedded for a report. Legend: M reference images.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from evalsuite.artifacts.records import Record
from evalsuite.artifacts.references import Reference, open_reference
from evalsuite.artifacts.run_directory import RunDirectory, feature_stage
from evalsuite.config import ExtractorSpec, ReferenceSpec, load_spec, names_of
from evalsuite.errors import DataError
from evalsuite.metrics.moments import Moments, moments_of
from evalsuite.pipeline.measure import Measure, protocol_named
from evalsuite.pipeline.reference_data import known_features


class ReferenceView(NamedTuple):
    """What a report can show of a reference.

    Attributes:
        record: a Fréchet distance of pooled features against it.
        reference: as it was opened.
        extractor_id: whose features the run has, and the moments are of.
        moments: of pooled features.
        features_MD: pooled features of its images; None where they are not at hand.
    """

    record: Record
    reference: Reference
    extractor_id: str
    moments: Moments
    features_MD: NDArray[np.float32] | None


def view_reference(run: RunDirectory, records: Sequence[Record]) -> ReferenceView | None:
    """The reference of the FID over the most samples, where it is the one of the record.

    A record names its reference; only a registered one can be found again by its name. One that is
    missing, or has other bytes than the record's, is no reference of it.
    """
    for record in sorted(records, key=lambda one: -one.protocol.num_samples):
        spec = _extractor_of(record) if record.metric == "fid" else None
        if spec is None or not run.spans(feature_stage(spec.extractor_id)):
            continue
        reference = _opened(record)
        moments = None if reference is None else _moments(record, reference, spec)
        if reference is not None and moments is not None:
            features_MD = _features(reference, spec)
            return ReferenceView(record, reference, spec.extractor_id, moments, features_MD)
    return None


def _extractor_of(record: Record) -> ExtractorSpec | None:
    """The registered extractor that made a record's features; None of another."""
    for name in names_of(ExtractorSpec):
        spec = load_spec(ExtractorSpec, name)
        if spec.weights.sha256 is not None and spec.extractor_id == record.protocol.extractor:
            return spec
    return None


def _opened(record: Record) -> Reference | None:
    if record.reference not in names_of(ReferenceSpec):
        return None
    try:
        return open_reference(str(record.reference))
    except DataError:  # not on this machine, or changed since
        return None


def _moments(record: Record, reference: Reference, spec: ExtractorSpec) -> Moments | None:
    """The moments that the record was computed from; None where these are others."""
    stored = reference.pool
    if stored is not None:
        same = stored.sha256 == record.protocol.reference_sha256
        count = stored.count or len(stored.mean_D) + 1
        return Moments(count, stored.mean_D, stored.cov_DD) if same else None
    features_MD = _features(reference, spec)
    return None if features_MD is None else moments_of(features_MD)


def _features(reference: Reference, spec: ExtractorSpec) -> NDArray[np.float32] | None:
    protocol = protocol_named(None, spec)
    measure = Measure(spec, reference, (), torch.device("cpu"), protocol)
    try:
        table = known_features(measure)
    except DataError:
        return None
    return None if table is None else table.pool_ND
