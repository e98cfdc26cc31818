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

from evalsuite.artifacts.records import Detail, Protocol, Record, finite_or_none, short_count
from evalsuite.artifacts.references import Reference
from evalsuite.artifacts.samples import SampleSet
from evalsuite.errors import DataError
from evalsuite.features.lpips.network import Lpips
from evalsuite.pipeline.evaluation import score_samples
from evalsuite.pipeline.measure import Measure, check
from evalsuite.pipeline.numerics import prepare_torch
from evalsuite.pipeline.paired import PairedScores, PairedValue, Pairs, score_paired
from evalsuite.pipeline.provenance import package_versions, source_revision
from evalsuite.pipeline.scoring import Scored
from evalsuite.pipeline.worker import check_extractor_weights

NO_EXTRACTOR = "none"
"""In the protocol of a metric that compares pixels."""
_DISPLAYS = {"psnr": "PSNR", "ssim": "SSIM", "lpips-alex": "LPIPS-Alex", "lpips-vgg": "LPIPS-VGG"}
_FIXED_ORIGINALS = (
    "its error is that of drawing reconstructions at random against these fixed originals; over"
    " pairs that are drawn together it is smaller"
)


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
) -> tuple[list[Scored], PairedScores]:
    """One record for each metric of pairs and for each metric of the measures.

    Args:
        pairs: reconstructions and originals.
        metrics: of pairs, of `paired.parse_paired_metrics`.
        measures: distances of sets, whose reference is the originals.
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
    }
    scored = [
        Scored(_paired_record(value, pairs, found.originals_sha256, lpips, about), None)
        for value in found.values
    ]
    for one in score_samples(pairs.samples, measures, None, workers) if measures else ():
        scored.append(one._replace(record=_set_record(one.record, about["samples"])))
    return scored, found


def _about(pairs: Pairs, found: PairedScores) -> dict[str, Any]:
    return {
        "path": Path(pairs.samples.where).name,
        "images_sha256": found.images_sha256,
        "paired_with": Path(pairs.originals.where).name,
        "paired_by": pairs.paired_by,
        "num_identical": found.num_identical,
    }


def _set_record(record: Record, about: Mapping[str, Any]) -> Record:
    """A record of `score_samples` that says what its reference is."""
    display, notes = record.display, record.notes
    if record.metric == "fid":
        display = record.display.replace("FID-", "rFID-")
        notes = (*notes, _FIXED_ORIGINALS) if record.standard_error is not None else notes
    samples = {**record.samples, **about}
    return record.model_copy(update={"display": display, "notes": notes, "samples": samples})


def _paired_record(
    value: PairedValue,
    pairs: Pairs,
    originals_sha256: str,
    lpips: Lpips | None,
    about: Mapping[str, Any],
) -> Record:
    with_network = value.metric.startswith("lpips")
    details: dict[str, Detail] = dict(value.details)
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
        details=details,
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
        reference=Path(pairs.originals.where).name,
        **about,
    )
