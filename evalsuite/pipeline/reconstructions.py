"""Records of reconstructions against their originals: rFID by a protocol, and metrics of pairs.

Legend: N pairs.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from evalsuite.artifacts.features import FeatureTable
from evalsuite.artifacts.records import Protocol, Record, finite_or_none, short_count
from evalsuite.artifacts.references import Reference
from evalsuite.artifacts.samples import SampleSet
from evalsuite.errors import DataError
from evalsuite.features.lpips.network import Lpips
from evalsuite.metrics.paired_frechet import rfid
from evalsuite.metrics.registry import METRICS
from evalsuite.pipeline.embedding import embed
from evalsuite.pipeline.evaluation import balanced_labels
from evalsuite.pipeline.measure import Measure, check
from evalsuite.pipeline.numerics import prepare_torch
from evalsuite.pipeline.paired import PairedScores, PairedValue, Pairs, score_paired
from evalsuite.pipeline.provenance import package_versions, source_revision
from evalsuite.pipeline.reference_data import prepare_reference
from evalsuite.pipeline.scoring import SamplingFields, all_threads, protocol_of
from evalsuite.pipeline.worker import check_extractor_weights

NO_EXTRACTOR = "none"
"""In the protocol of a metric that compares pixels."""
_DISPLAYS = {"psnr": "PSNR", "ssim": "SSIM", "lpips-alex": "LPIPS-Alex", "lpips-vgg": "LPIPS-VGG"}


def reference_of(originals: SampleSet, path: Path | None) -> Reference:
    """The originals as a reference that is embedded; what `path` holds is remembered if whole."""
    return Reference(Path(originals.where).name, None, None, originals, None, path)


def first_pairs(pairs: Pairs, num_pairs: int | None) -> Pairs:
    """The first so many pairs.

    Raises:
        DataError: there are fewer.
    """
    if num_pairs is None:
        return pairs
    if num_pairs > pairs.num_pairs:
        raise DataError(
            f"{pairs.samples.where} holds {pairs.num_pairs} images, fewer than --num-samples"
            f" {num_pairs}"
        )
    first = [_first(one, num_pairs) for one in (pairs.samples, pairs.originals)]
    return Pairs(first[0], first[1], pairs.paired_by)


def _first(samples: SampleSet, count: int) -> SampleSet:
    labels = None if samples.labels_N is None else samples.labels_N[:count]
    names = None if samples.names is None else samples.names[:count]
    return replace(samples, num_images=count, labels_N=labels, names=names)


def score_reconstructions(
    pairs: Pairs,
    metrics: Sequence[str],
    measures: Sequence[Measure],
    device: torch.device,
    lpips: Lpips | None = None,
    workers: int = 1,
) -> tuple[list[Record], PairedScores]:
    """One record for each metric of pairs, and an rFID for each measure.

    Args:
        pairs: reconstructions and originals.
        metrics: of pairs, of `paired.parse_paired_metrics`.
        measures: of FID alone, whose reference is the originals.
        device: where SSIM is computed.
        lpips: the network, where LPIPS is asked.
        workers: threads and processes that may be busy at a time.

    Raises:
        DataError: images, weights or numbers of them that cannot be used.
    """
    for measure in measures:
        check(measure, pairs.num_pairs)
        check_extractor_weights(measure.spec)
    prepare_torch(device)
    began = time.monotonic()
    found = score_paired(pairs, metrics, device, lpips, workers)
    about: dict[str, Any] = {
        "samples": _about(pairs, found),
        "provenance": {"packages": package_versions(), "git": source_revision()},
        "cost": {"evaluation_seconds": round(time.monotonic() - began, 3)},
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "reference": Path(pairs.originals.where).name,
    }
    records = [
        _paired_record(value, pairs, found.originals_sha256, lpips, about) for value in found.values
    ]
    tables: dict[tuple[str, str], FeatureTable] = {}
    for measure in measures:
        key = (measure.spec.extractor_id, measure.backend)
        if key not in tables:
            tables[key] = embed(
                pairs.samples, pairs.num_pairs, measure.spec, device, measure.backend, workers
            ).table
        records.append(_rfid_record(tables[key], pairs, measure, about, workers))
    return records, found


def _about(pairs: Pairs, found: PairedScores) -> dict[str, Any]:
    return {
        "path": Path(pairs.samples.where).name,
        "images_sha256": found.images_sha256,
        "paired_with": Path(pairs.originals.where).name,
        "paired_by": pairs.paired_by,
        "num_identical": found.num_identical,
    }


def _rfid_record(
    table: FeatureTable, pairs: Pairs, measure: Measure, about: Mapping[str, Any], workers: int
) -> Record:
    """FID against the originals: the number and the protocol of any other reference's FID."""
    began = time.monotonic()
    # precision needs features of the reference's images, as the error over pairs does
    prepared = prepare_reference(measure._replace(metrics=["fid", "precision"]), workers)
    assert prepared is not None
    assert prepared.data.features_MD is not None
    labels = None if pairs.samples.labels_N is None else pairs.samples.labels_N.tolist()
    with all_threads():
        value = rfid(table.pool_ND, prepared.data.features_MD, balanced_labels(labels))
    sampling = SamplingFields(None, None, pairs.samples.codec, pairs.samples.resize)
    protocol = protocol_of(METRICS["fid"], pairs.num_pairs, measure, prepared, sampling)
    seconds = {"evaluation_seconds": round(time.monotonic() - began, 3)}
    return Record(
        metric="fid",
        display=f"{measure.spec.short}rFID-{short_count(pairs.num_pairs)}",
        better="lower",
        value=finite_or_none(value.value),
        standard_error=finite_or_none(value.standard_error),
        extrapolated=None,
        notes=value.notes,
        protocol=protocol,
        protocol_id=protocol.protocol_id,
        protocol_name=measure.protocol.name,
        **{**about, "cost": seconds},
    ).sealed()


def _paired_record(
    value: PairedValue,
    pairs: Pairs,
    originals_sha256: str,
    lpips: Lpips | None,
    about: Mapping[str, Any],
) -> Record:
    with_network = value.metric.startswith("lpips")
    weights = lpips.weights_sha256 if with_network and lpips is not None else NO_EXTRACTOR
    protocol = Protocol(
        metric=value.metric,
        num_samples=pairs.num_pairs,
        extractor=value.metric if with_network else NO_EXTRACTOR,
        extractor_sha256=weights,
        resize="none",
        precision="float32" if with_network else "float64",
        backend="numpy" if value.metric == "psnr" else "torch",
        reference_sha256=originals_sha256,
        details=dict(value.details),
        label_rule=None,
        uint8_rule=None,
        codec=pairs.samples.codec,
        sample_resize=pairs.samples.resize,
    )
    return Record(
        metric=value.metric,
        display=f"{_DISPLAYS[value.metric]}-{short_count(pairs.num_pairs)}",
        better="higher" if value.metric in {"psnr", "ssim"} else "lower",
        value=finite_or_none(value.value),
        standard_error=finite_or_none(value.standard_error),
        extrapolated=None,
        notes=value.notes,
        protocol=protocol,
        protocol_id=protocol.protocol_id,
        **about,
    ).sealed()
