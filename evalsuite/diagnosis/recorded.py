"""Records: whether the samples give the number that the run's own record has.

FID alone is computed again, where that is cheap and gives the very same number: from features that
the run keeps, of samples that are looked at, by the record's own protocol.
"""

import math
from collections.abc import Sequence

import torch

from evalsuite.artifacts.features import FeatureTable
from evalsuite.artifacts.records import Record
from evalsuite.artifacts.references import open_reference
from evalsuite.artifacts.run_directory import RunDirectory, feature_stage, gaps_of
from evalsuite.config import ExtractorSpec
from evalsuite.diagnosis.findings import RECORDED, CannotTell, Clear, Finding, Outcome
from evalsuite.diagnosis.material import MOST, Material, ScoredAgain
from evalsuite.errors import EvalsuiteError
from evalsuite.metrics.frechet import frechet_distance
from evalsuite.metrics.moments import Moments, moments_of
from evalsuite.metrics.registry import METRICS
from evalsuite.pipeline.measure import Measure, protocol_named
from evalsuite.pipeline.reference_data import known_features, prepare_reference
from evalsuite.pipeline.scoring import protocol_of, sampling_fields

_METRIC = "fid"
_SAME = 1e-6
"""Relative. The same features give the same distance within 1e-9 on any machine."""
_NEAR = 1e-3
"""Relative. So far apart are distances of one set whose features, or those of its reference, were
made by machines of two kinds; an edited number is farther off."""


def keeps_features(run: RunDirectory, spec: ExtractorSpec, count: int) -> bool:
    """Whether a run has features of all of its first samples."""
    spans = run.spans(feature_stage(spec.extractor_id), 0, count)
    return not gaps_of([(span.start, span.stop) for span in spans], 0, count)


def scored_again(
    run: RunDirectory,
    records: Sequence[Record],
    table: FeatureTable,
    spec: ExtractorSpec,
    device: torch.device,
) -> list[ScoredAgain]:
    """FID of a run's records, computed once more where the very same can be.

    Without features that the run keeps none is: those of pixels are not those that were scored to
    the last bit.

    Args:
        run: has the records.
        records: all of them.
        table: features of its first samples.
        spec: whose features these are.
        device: where a reference is embedded.

    Raises:
        DataError: features that are not finite.
    """
    found: list[ScoredAgain] = []
    if not keeps_features(run, spec, len(table.pool_ND)):
        return found
    for record in records:
        count = record.protocol.num_samples
        if record.metric != _METRIC or not 2 <= count <= len(table.pool_ND):
            continue
        if record.samples.get("plan_id") != run.manifest.plan_id:
            continue
        reference = _same_reference(run, record, spec, device)
        if reference is not None:
            value = frechet_distance(moments_of(table.pool_ND[:count]), reference)
            found.append(ScoredAgain(record, value))
    return found


def _same_reference(
    run: RunDirectory, record: Record, spec: ExtractorSpec, device: torch.device
) -> Moments | None:
    """Moments of the record's reference; None unless all of its protocol is the same here."""
    try:
        reference = open_reference(str(record.reference))
        protocol = protocol_named(record.protocol_name, spec)
        measure = Measure(spec, reference, [_METRIC], device, protocol)
        images = reference.images
        is_large = images is not None and images.num_images > MOST
        if reference.pool is None and is_large and known_features(measure) is None:
            return None  # embedding it is not cheap
        prepared = prepare_reference(measure)
    except EvalsuiteError:  # it is not here, or does not fit: another probe tells of that
        return None
    count, fields = record.protocol.num_samples, sampling_fields(run.plan)
    same = protocol_of(METRICS[_METRIC], count, measure, prepared, fields) == record.protocol
    return prepared.data.pool if prepared is not None and same else None


def probe_record(material: Material) -> Outcome:
    """Whether a record has another number than the samples that it is of."""
    if material.plan is None:
        return CannotTell("no number is recorded of these samples: give a run")
    if not any(record.metric == _METRIC for record in material.records):
        return CannotTell(f"the run has no record of {_METRIC}")
    again = material.scored_again
    if not again:
        return CannotTell(
            f"no record of {_METRIC} can be computed again cheaply: that takes features that the"
            f" run keeps, at most {MOST:,} samples, and the record's own reference and protocol"
        )
    wrong = [one for one in again if not _agrees(one, _NEAR)]
    if not wrong:
        listed = ", ".join(f"{one.record.display} = {one.value:.4f}" for one in again)
        same = all(_agrees(one, _SAME) for one in again)
        near = "as is recorded" if same else f"as is recorded within {_NEAR:.1%}"
        return Clear(f"computed once more, {listed}, {near}")
    first, more = wrong[0], f" ({len(wrong)} such records)" if len(wrong) > 1 else ""
    record = first.record
    unsealed = "" if record.is_sealed else "; it is without its hash, so it may have been edited"
    return Finding(
        "a record that its own samples contradict",
        RECORDED,
        f"{record.path} has {record.display} = {_shown(record.value)}, the samples give"
        f" {first.value:.4f} by the same protocol{unsealed}{more}",
        f"score it again: `evalsuite evaluate {material.where}`",
        None if record.value is None else record.value - first.value,
    )


def _agrees(one: ScoredAgain, tolerance: float) -> bool:
    recorded = one.record.value
    return recorded is not None and math.isclose(
        recorded, one.value, rel_tol=tolerance, abs_tol=tolerance
    )


def _shown(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"
