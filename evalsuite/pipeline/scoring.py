"""From features and a reference to records.

Legend: N samples.
"""

import contextlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from evalsuite.artifacts.features import FeatureTable
from evalsuite.artifacts.records import Detail, Protocol, Record, finite_or_none, short_count
from evalsuite.config import Plan
from evalsuite.metrics.manifold_entries import duplicates_note
from evalsuite.metrics.registry import METRICS, compute_metrics
from evalsuite.metrics.values import MetricSpec, MetricValue, SampleData
from evalsuite.pipeline.interval_coverage import interval_note
from evalsuite.pipeline.measure import Measure
from evalsuite.pipeline.provenance import package_versions, source_revision
from evalsuite.pipeline.reference_data import PreparedReference
from evalsuite.pipeline.selftest import confirmed, installation

SELFTEST = "adm-256"
_OF_IMAGES = "reference_features"


@contextlib.contextmanager
def all_threads() -> Iterator[None]:
    """Let torch use every core: metrics promise 1e-9, not bits, and extraction is over."""
    before = torch.get_num_threads()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class SamplingFields:
    """What is known of how samples were made; None is unknown."""

    label_rule: str | None
    uint8_rule: str | None
    codec: str | None
    resize: str | None = None


class Scored(NamedTuple):
    """A record, and the influence of each sample on its value where it has one."""

    record: Record
    influence_N: NDArray[np.float64] | None


def strata_of(rule: str | None, labels: Sequence[int] | None) -> NDArray[np.int64] | None:
    """Labels as strata when they are balanced by rule and every class has at least two samples."""
    if labels is None or rule is None or rule.partition(":")[0] not in {"modulo", "blocked"}:
        return None
    values = np.asarray(labels, dtype=np.int64)
    _, counts = np.unique(values, return_counts=True)
    return values if int(counts.min()) >= 2 else None


def score(
    table: FeatureTable,
    strata_N: NDArray[np.int64] | None,
    measure: Measure,
    reference: PreparedReference | None,
    sampling: SamplingFields,
    samples: Mapping[str, Any],
    cost: Mapping[str, Any],
) -> list[Scored]:
    """One record for each metric.

    Args:
        table: features of N samples.
        strata_N: their labels when balanced.
        measure: metrics, protocol and extractor.
        reference: made ready for them.
        sampling: how the samples were made.
        samples: what they are, for the record.
        cost: seconds until here.

    Raises:
        DataError: NaN features, too few samples, or a part that the reference lacks.
    """
    began = time.monotonic()
    data = SampleData(table.pool_ND, table.spatial_NP, table.probabilities_NK, strata_N)
    with all_threads():
        values = compute_metrics(
            measure.metrics,
            data,
            reference.data if reference else None,
            measure.protocol,
            str(measure.device),
        )
    values = _with_coverage(_with_duplicates(values, table), len(data), strata_N is not None)
    seconds = round(time.monotonic() - began, 3)
    about = {
        "samples": dict(samples),
        "provenance": {
            "packages": package_versions(),
            "git": source_revision(),
            **_confirmation(measure),
        },
        "cost": {**cost, "score_seconds": seconds},
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return [
        Scored(
            _record(name, value, len(data), measure, reference, sampling, about), value.influence_N
        )
        for name, value in values.items()
    ]


def _confirmation(measure: Measure) -> dict[str, str | None]:
    """When parity on the published files was last confirmed here, for numbers called FID."""
    if measure.spec.short or measure.backend != "torch":
        return {}
    when = confirmed(SELFTEST, installation(measure.spec.extractor_id, measure.device))
    return {"parity_confirmed": when.isoformat() if when else None}


def _with_duplicates(
    values: Mapping[str, MetricValue], table: FeatureTable
) -> dict[str, MetricValue]:
    """Say beside every number of pooled features how many samples repeat an earlier one."""
    note = duplicates_note(table.pool_ND)
    return {
        name: replace(value, notes=(*value.notes, note))
        if note and "pool" in METRICS[name].needs
        else value
        for name, value in values.items()
    }


def _with_coverage(
    values: Mapping[str, MetricValue], num_samples: int, balanced: bool
) -> dict[str, MetricValue]:
    """Say beside an error where intervals of its kind have been seen to miss."""
    said = {}
    for name, value in values.items():
        note = interval_note(name, num_samples, balanced=balanced, paired=False)
        has_interval = value.standard_error is not None
        said[name] = replace(value, notes=(*value.notes, note)) if note and has_interval else value
    return said


def _record(
    name: str,
    value: MetricValue,
    count: int,
    measure: Measure,
    reference: PreparedReference | None,
    sampling: SamplingFields,
    about: dict[str, Any],
) -> Record:
    metric = METRICS[name]
    protocol = protocol_of(metric, count, measure, reference, sampling)
    coarse = reference.notes if reference and _OF_IMAGES in metric.needs else ()
    used = measure.reference if protocol.reference_sha256 else None
    return Record(
        metric=name,
        display=f"{measure.spec.short}{metric.display}-{short_count(count)}",
        better=metric.better,
        value=finite_or_none(value.value),
        standard_error=finite_or_none(value.standard_error),
        extrapolated=finite_or_none(value.extrapolated),
        notes=(*value.notes, *coarse),
        protocol=protocol,
        protocol_id=protocol.protocol_id,
        protocol_name=measure.protocol.name,
        reference=used.name if used else None,
        reference_warnings=used.warnings if used else (),
        **about,
    ).sealed()


def protocol_of(
    metric: MetricSpec,
    num_samples: int,
    measure: Measure,
    reference: PreparedReference | None,
    sampling: SamplingFields,
) -> Protocol:
    """Only the fields that can change this metric's number."""
    needs = sorted(need for need in metric.needs if need.startswith("reference_"))
    digests = [reference.digests[need] for need in needs] if reference else []
    details: dict[str, Detail] = dict(metric.fields(measure.protocol))
    return Protocol(
        metric=metric.name,
        num_samples=num_samples,
        extractor=measure.spec.extractor_id,
        extractor_sha256=measure.spec.weights_sha256,
        resize=measure.spec.resize,
        precision=measure.spec.precision,
        backend=measure.backend,
        reference_sha256=digests[0] if digests else None,
        details=details,
        label_rule=sampling.label_rule,
        uint8_rule=sampling.uint8_rule,
        codec=sampling.codec,
        sample_resize=sampling.resize,
    )


def sampling_fields(plan: Plan) -> SamplingFields:
    """What a run's plan says about its samples; fused features never pass a lossy codec."""
    chosen = "" if plan.classes is None else f" of {','.join(map(str, plan.classes))}"
    return SamplingFields(plan.labels.describe() + chosen, plan.uint8_rule, "lossless")
