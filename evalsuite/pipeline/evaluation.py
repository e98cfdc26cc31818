"""Scoring a run, samples that someone else made, and the mean over replicates."""

import functools
import hashlib
import io
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evalsuite.artifacts.features import FeatureTable
from evalsuite.artifacts.images import Images
from evalsuite.artifacts.plan_fields import differences
from evalsuite.artifacts.records import Record, warnings_by_reference
from evalsuite.artifacts.run_directory import IMAGES, STORED_PIXELS, RunDirectory, feature_stage
from evalsuite.artifacts.samples import PORTION, SampleSet
from evalsuite.config import ExtractorSpec, parse_json
from evalsuite.errors import CorruptionError, DataError, UsageError
from evalsuite.metrics.intervals import mean_over_replicates
from evalsuite.metrics.registry import METRICS
from evalsuite.pipeline.embedding import check_finite, check_size, embed
from evalsuite.pipeline.feature_cache import Extracted
from evalsuite.pipeline.integrity import find_faults
from evalsuite.pipeline.measure import Measure, check
from evalsuite.pipeline.outside import extract_uncached
from evalsuite.pipeline.reference_data import PreparedReference, prepare_reference
from evalsuite.pipeline.scoring import (
    SamplingFields,
    Scored,
    protocol_of,
    sampling_fields,
    score,
    strata_of,
)
from evalsuite.pipeline.spending import spent
from evalsuite.sampling.describe import nfe_of
from evalsuite.seeding import labels_of

Obtain = Callable[[SampleSet, int, Measure, int], Extracted]
"""(samples, num_samples, measure, decoders) to features by the measure's extractor and backend."""


class MeanOverRuns(NamedTuple):
    """The mean of one metric over runs that share no sample."""

    metric: str
    protocol_name: str | None
    display: str
    mean: float
    standard_error: float | None
    num_runs: int


def score_run(run: RunDirectory, measure: Measure, num_samples: int) -> list[Record]:
    """`score_run_by` one protocol; arguments and errors are the same."""
    return score_run_by(run, [measure], num_samples)


def score_run_by(
    run: RunDirectory,
    measures: Sequence[Measure],
    num_samples: int,
    prepare: Callable[[Measure], PreparedReference | None] = prepare_reference,
) -> list[Record]:
    """Score the first `num_samples` of a run by one or several protocols and write the records.

    Features that the run has are used; otherwise stored pixels are embedded here, once for all
    measures that share extractor and backend.

    Args:
        run: has the samples.
        measures: what to compute.
        num_samples: how many of them.
        prepare: makes a measure's reference ready; who scores many runs keeps it.

    Raises:
        UsageError: the weights are random numbers.
        IncompleteError: samples are missing.
        DataError: corrupted files, a reference that does not fit, too few samples.
    """
    check_scorable(run)
    for measure in measures:
        check(measure, num_samples, run.plan.size)
    labels = labels_of(run.plan, 0, num_samples, run.manifest.file_labels)
    records = []
    for group in _by_extractor(measures).values():
        began = time.monotonic()
        check_files(run, group[0].spec, num_samples)
        references = [prepare(measure) for measure in group]
        table = run_features(run, group[0], num_samples)
        for measure, reference in zip(group, references, strict=True):
            scored = score(
                table,
                strata_of(run.plan.labels.describe(), labels),
                measure,
                reference,
                sampling_fields(run.plan),
                _about_run(run, num_samples),
                {
                    **spent(run),
                    "evaluation_seconds": round(time.monotonic() - began, 3),
                },
            )
            for one in scored:
                write_scored(run, one)
            records += [one.record for one in scored]
    return records


def found_record(
    run: RunDirectory,
    name: str,
    num_samples: int,
    measure: Measure,
    reference: PreparedReference | None,
) -> Record | None:
    """The record that a run has of a metric by a protocol; None without one that can be trusted.

    Args:
        run: has it or has not.
        name: of the metric.
        num_samples: that were scored.
        measure: metrics, protocol and extractor.
        reference: made ready for them.
    """
    fields = sampling_fields(run.plan)
    protocol = protocol_of(METRICS[name], num_samples, measure, reference, fields)
    content = run.storage.find(f"results/{name}-{protocol.protocol_id}.json")
    try:
        record = None if content is None else Record.model_validate(parse_json(content))
    except ValueError:
        return None
    return None if record is None or record.sealed() != record else record


def _about_run(run: RunDirectory, num_samples: int) -> dict[str, Any]:
    ids = sorted({r.numerics_id for r in run.committed(IMAGES, 0, num_samples)})
    return {
        "run": run.root.name,
        "plan_id": run.manifest.plan_id,
        "model": run.manifest.model,
        "plan": run.plan.model_dump(mode="json"),
        "nfe": nfe_of(run.plan),
        "numerics_ids": ids,
        "mixed_numerics": len(ids) > 1,
    }


def write_scored(run: RunDirectory, scored: Scored) -> None:
    """Write a record, and the influence values that paired comparisons need, into a run."""
    record = scored.record
    if scored.influence_N is not None:
        buffer = io.BytesIO()
        np.save(buffer, scored.influence_N, allow_pickle=False)
        run.storage.replace(record.influence_path, buffer.getvalue())
    before = _names_before(run, record) - {record.protocol_name}
    kept = record.model_copy(update={"also_of": tuple(sorted(map(str, before)))})
    run.write_json(record.path, kept.sealed().model_dump(mode="json"))


def _names_before(run: RunDirectory, record: Record) -> set[str | None]:
    """Named protocols of the record that this one replaces."""
    if not run.storage.exists(record.path):
        return set()
    try:
        before = Record.model_validate(parse_json(run.storage.read(record.path)))
        return set(before.protocol_names) - {None}
    except ValueError:
        return set()


def check_scorable(run: RunDirectory) -> None:
    """Raise UsageError when the weights are random numbers, whose images are no result."""
    if run.plan.has_random_weights:
        raise UsageError(f"{run.root} was made with random weights: its images are not scored")


def check_files(run: RunDirectory, spec: ExtractorSpec, num_samples: int) -> None:
    """Raise when samples that are scored are missing, damaged, or not the ones of the features.

    Raises:
        IncompleteError: a sample has no image receipt.
        CorruptionError: a file's bytes are not the recorded ones, or features are of other pixels.
    """
    run.slices(run.spans(IMAGES, 0, num_samples), 0, num_samples, "images")
    stages = [IMAGES, feature_stage(spec.extractor_id)]
    faults = find_faults(run, stages, 0, num_samples)
    if faults:
        more = f" ({len(faults) - 1} more faults)" if len(faults) > 1 else ""
        raise CorruptionError(
            f"{faults[0].text}{more}: run the same `evalsuite run` or `generate` again to repair"
        )


def run_features(run: RunDirectory, measure: Measure, num_samples: int) -> FeatureTable:
    """Features of a run's first samples: as committed, or embedded from stored pixels."""
    stage = feature_stage(measure.spec.extractor_id)
    committed = measure.backend == "torch" and run.spans(stage, 0, num_samples)
    if committed or not run.pixel_receipts(0, num_samples):
        return run.read_features(measure.spec.extractor_id, num_samples)
    samples = samples_of_run(run, num_samples)
    return embed(samples, num_samples, measure.spec, measure.device, measure.backend).table


def samples_of_run(run: RunDirectory, num_samples: int) -> SampleSet:
    """A run's stored pixels as a sample set, read in order: a shard is checked and read whole.

    Raises:
        IncompleteError: pixels are missing, or were not kept.
    """
    run.slices(run.pixel_receipts(0, num_samples), 0, num_samples, STORED_PIXELS)

    labels = np.array(labels_of(run.plan, 0, num_samples, run.manifest.file_labels))
    read = functools.partial(_stored_portions, run)
    return SampleSet(
        str(run.root), num_samples, run.plan.size, labels, "lossless", read, random_access=False
    )


def _stored_portions(run: RunDirectory, start: int, stop: int) -> Iterator[Images]:
    """Images start..stop-1 of a run in portions uint8 [n,H,W,3]."""
    pixels = run.read_images(start, stop)
    while held := [image for _, image in itertools.islice(pixels, PORTION)]:
        yield np.stack(held)


def score_samples(
    samples: SampleSet,
    measures: Sequence[Measure],
    num_samples: int | None = None,
    decoders: int = 1,
    obtain: Obtain = extract_uncached,
) -> list[Scored]:
    """Score samples that someone else made, by one or several protocols.

    Measures that share extractor and backend share one pass over the images.

    Args:
        samples: images in order.
        measures: what to compute.
        num_samples: the first so many; all of them by default.
        decoders: processes that decode images.
        obtain: gives the features of the samples, in this process or by workers.

    Raises:
        DataError: they cannot be read, or are too few.
    """
    if num_samples is not None and num_samples > samples.num_images:
        raise DataError(
            f"{samples.where} holds {samples.num_images} images, fewer than --num-samples"
            f" {num_samples}"
        )
    count = num_samples or samples.num_images
    for measure in measures:
        check_size(samples, measure.spec)
        check(measure, count, samples.size)
    labels = None if samples.labels_N is None else samples.labels_N[:count].tolist()
    sampling = SamplingFields(None, None, samples.codec, samples.resize)
    scored: list[Scored] = []
    for group in _by_extractor(measures).values():
        began = time.monotonic()
        references = [prepare_reference(measure, decoders) for measure in group]
        table, pixels_digest = obtain(samples, count, group[0], decoders)
        check_finite(table, samples)
        about = {
            "path": Path(samples.where).name,
            "pixels_digest": pixels_digest,
            "labels_sha256": _digest(labels),
        }
        cost = {"evaluation_seconds": round(time.monotonic() - began, 3)}
        for measure, reference in zip(group, references, strict=True):
            scored += score(
                table, balanced_labels(labels), measure, reference, sampling, about, cost
            )
    return scored


def _by_extractor(measures: Sequence[Measure]) -> dict[tuple[str, Any], list[Measure]]:
    groups: dict[tuple[str, Any], list[Measure]] = {}
    for measure in measures:
        groups.setdefault((measure.spec.extractor_id, measure.backend), []).append(measure)
    return groups


def balanced_labels(labels: list[int] | None) -> NDArray[np.int64] | None:
    """Labels as strata when every class has the same number of samples, but for one, and two."""
    if not labels:
        return None
    _, counts = np.unique(labels, return_counts=True)
    even = counts.max() - counts.min() <= 1 and counts.min() >= 2
    return np.array(labels, dtype=np.int64) if even else None


def check_disjoint(runs: Sequence[RunDirectory], num_samples: int) -> None:
    """Raise UsageError unless the runs are one plan but for seeds that do not overlap."""
    first = runs[0]
    for other in runs[1:]:
        same = other.plan.model_copy(update={"first_seed": first.plan.first_seed})
        if same != first.plan:
            listed = "; ".join(differences(first.plan, same))
            raise UsageError(f"{first.root} and {other.root} are no replicates: {listed}")
    spans = sorted((run.plan.first_seed, str(run.root)) for run in runs)
    for (low, here), (high, there) in itertools.pairwise(spans):
        shared = num_samples - (high - low)
        if shared > 0:
            raise UsageError(
                f"{here} (seeds from {low}) and {there} (seeds from {high}) share {shared} of"
                f" {num_samples} samples: their mean would count them twice; use --replicate"
            )


def mean_of_replicates(records: Sequence[Sequence[Record]]) -> list[MeanOverRuns]:
    """The mean of each metric over runs; its error is pooled from theirs, or their spread's."""
    means = []
    for rows in zip(*records, strict=True):
        values = [row.value for row in rows if row.value is not None]
        if len(values) == len(rows):
            mean, spread = mean_over_replicates(values)
            errors = [row.standard_error for row in rows if row.standard_error is not None]
            pooled = len(errors) == len(rows)
            error = math.sqrt(sum(e * e for e in errors)) / len(rows) if pooled else spread
            first = rows[0]
            means.append(
                MeanOverRuns(
                    first.metric, first.protocol_name, first.display, mean, error, len(values)
                )
            )
    return means


def payload(records: Sequence[Record], extra: dict[str, Any]) -> dict[str, Any]:
    """What `--json` writes: `metrics` by name, or by `PROTOCOL:NAME` when there are several."""
    several = len({record.protocol_name for record in records}) > 1
    metrics = {
        f"{record.protocol_name}:{record.metric}" if several else record.metric: {
            "value": record.value,
            "standard_error": record.standard_error,
            "protocol_id": record.protocol_id,
            "extrapolated": record.extrapolated,
            "notes": list(record.notes),
        }
        for record in records
    }
    full = [record.sealed().model_dump(mode="json") for record in records]
    warnings = warnings_by_reference(records)
    return {**extra, "metrics": metrics, "references": warnings, "records": full}


def _digest(labels: list[int] | None) -> str | None:
    if labels is None:
        return None
    return hashlib.sha256(np.array(labels, dtype="<i8").tobytes()).hexdigest()
