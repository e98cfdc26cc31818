"""From features and a reference to records; and from anything that holds samples to features.

Legend: N samples, M reference images, D pooled width.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from evalsuite.artifacts.features import FeatureTable
from evalsuite.artifacts.records import Detail, Protocol, Record, finite_or_none, short_count
from evalsuite.artifacts.references import Reference, StoredMoments
from evalsuite.artifacts.samples import SampleSet
from evalsuite.config import ExtractorSpec, Plan
from evalsuite.errors import DataError, UsageError, nearest
from evalsuite.features.aligned import concatenate, extract_all
from evalsuite.metrics.moments import Moments, moments_of
from evalsuite.metrics.registry import METRICS, MetricInputs, MetricSpec, compute_metrics
from evalsuite.pipeline.numerics import prepare_torch
from evalsuite.pipeline.provenance import package_versions, source_revision
from evalsuite.pipeline.worker import load_extractor


@dataclass(frozen=True)
class SamplingFields:
    """What is known of how samples were made; None is unknown."""

    label_rule: str | None
    uint8_rule: str | None
    codec: str | None


@dataclass(frozen=True)
class ReferenceStatistics:
    """A reference made ready for the metrics that were asked."""

    pool: Moments | None
    spatial: Moments | None
    features_MD: NDArray[np.float32] | None
    digests: Mapping[str, str]
    """SHA-256 of what each need was made from: `reference_pool`, `reference_spatial`, ..."""


def parse_metrics(text: str | None) -> list[str]:
    """Metric names from a comma-separated list, all of them by default, in the registry's order.

    Raises:
        UsageError: an unknown name.
    """
    if text is None:
        return list(METRICS)
    asked = [name.strip() for name in text.split(",") if name.strip()]
    for name in asked:
        if name not in METRICS:
            raise UsageError(f"unknown metric {name!r}: {nearest(name, METRICS)}")
    if not asked:
        raise UsageError("--metrics names no metric")
    return [name for name in METRICS if name in asked]


def check_reference(reference: Reference, spec: ExtractorSpec, metrics: Sequence[str]) -> None:
    """Raise DataError unless the reference fits extractor and metrics; no forward pass."""
    sidecar = reference.spec
    if sidecar is not None and sidecar.extractor is not None:
        # of another program's file only the network's name is known
        made_with = sidecar.extractor_id or sidecar.extractor
        ours = spec.name if sidecar.extractor_id is None else spec.extractor_id
        if made_with != ours:
            raise DataError(
                f"reference {reference.name} was made with extractor {made_with}, not {ours}:"
                " their features cannot be compared; choose another --reference or --extractor"
            )
    for stored, width, part in (
        (reference.pool, spec.pool_dim, "mu"),
        (reference.spatial, spec.spatial_dim, "mu_s"),
    ):
        if stored is not None and len(stored.mean_D) != width:
            raise DataError(
                f"reference {reference.name}: {part} has {len(stored.mean_D)} values, but extractor"
                f" {spec.name} gives {width}: it was made with another extractor"
            )
    for name in metrics:
        for need, stored in (
            ("reference_pool", reference.pool),
            ("reference_spatial", reference.spatial),
        ):
            if need in METRICS[name].needs and stored is None and reference.images is None:
                raise DataError(
                    f"reference {reference.name} holds neither moments nor images for {name}"
                )
        if "reference_features" in METRICS[name].needs and reference.images is None:
            raise DataError(f"reference {reference.name} holds no images, which {name} needs")
    images = reference.images
    if images is not None and spec.input_size not in {None, images.size}:
        raise DataError(
            f"reference {reference.name}: images of {images.size} do not fit {spec.name}"
        )


def check_samples(metrics: Sequence[str], num_samples: int, have_reference: bool) -> None:
    """Raise before any work when a metric cannot be had from `num_samples` or lacks a reference."""
    for name in metrics:
        metric = METRICS[name]
        if num_samples < metric.minimum_samples:
            raise DataError(
                f"{name} needs at least {metric.minimum_samples} samples, not {num_samples}"
            )
        if not have_reference and any(need.startswith("reference_") for need in metric.needs):
            raise UsageError(f"{name} needs a --reference")


def prepare_reference(
    reference: Reference, spec: ExtractorSpec, metrics: Sequence[str], device: torch.device
) -> ReferenceStatistics:
    """Load moments, and embed the reference's images only where a metric needs them."""
    check_reference(reference, spec, metrics)
    needs = {need for name in metrics for need in METRICS[name].needs}
    embedded: FeatureTable | None = None
    must_embed = (
        "reference_features" in needs
        or ("reference_pool" in needs and reference.pool is None)
        or ("reference_spatial" in needs and reference.spatial is None)
    )
    digests: dict[str, str] = {}
    if must_embed and reference.images is not None:
        embedded, images_sha256 = embed(reference.images, reference.images.num_images, spec, device)
        digests = dict.fromkeys(
            ("reference_pool", "reference_spatial", "reference_features"), images_sha256
        )
    pool = _moments(reference.pool, embedded.pool_ND if embedded else None)
    spatial = _moments(reference.spatial, embedded.spatial_NP if embedded else None)
    for need, stored in (
        ("reference_pool", reference.pool),
        ("reference_spatial", reference.spatial),
    ):
        if stored is not None:
            digests[need] = stored.sha256
    features_MD = embedded.pool_ND if embedded and "reference_features" in needs else None
    return ReferenceStatistics(pool, spatial, features_MD, digests)


def embed(
    samples: SampleSet, num_samples: int, spec: ExtractorSpec, device: torch.device
) -> tuple[FeatureTable, str]:
    """Features of the first `num_samples` images, and the SHA-256 of their pixels."""
    import hashlib

    if spec.input_size not in {None, samples.size}:
        height, width = samples.size
        raise DataError(
            f"{samples.where} holds images of {height}x{width}, but extractor {spec.name} takes"
            f" {spec.input_size[0]}x{spec.input_size[1]} only"
        )
    prepare_torch(device)
    extractor = load_extractor(spec, device)
    digest = hashlib.sha256()

    def hashed() -> Any:  # noqa: ANN401 - a generator of arrays
        for images in samples.portions(num_samples):
            digest.update(images.tobytes())
            yield images

    features = concatenate(extract_all(extractor, hashed()))
    return FeatureTable(0, *features), digest.hexdigest()


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
    metrics: Sequence[str],
    spec: ExtractorSpec,
    reference: Reference | None,
    statistics: ReferenceStatistics | None,
    sampling: SamplingFields,
    samples: Mapping[str, Any],
    cost: Mapping[str, Any],
) -> list[Record]:
    """One record for each metric.

    Raises:
        DataError: NaN features, too few samples, or a part that the reference lacks.
    """
    began = time.monotonic()
    inputs = MetricInputs(
        pool_ND=table.pool_ND,
        spatial_ND=table.spatial_NP,
        probabilities_NK=table.probabilities_NK,
        strata_N=strata_N,
        reference_pool=statistics.pool if statistics else None,
        reference_spatial=statistics.spatial if statistics else None,
        reference_features_MD=statistics.features_MD if statistics else None,
    )
    values = compute_metrics(metrics, inputs)
    seconds = round(time.monotonic() - began, 3)
    provenance = {"packages": package_versions(), "git": source_revision()}
    records = []
    for name, value in values.items():
        metric = METRICS[name]
        protocol = protocol_of(metric, len(table.pool_ND), spec, statistics, sampling)
        records.append(
            Record(
                metric=name,
                display=f"{spec.short}{metric.display}-{short_count(len(table.pool_ND))}",
                better=metric.better,
                value=finite_or_none(value.value),
                standard_error=finite_or_none(value.standard_error),
                extrapolated=finite_or_none(value.extrapolated),
                notes=value.notes,
                protocol=protocol,
                protocol_id=protocol.protocol_id,
                reference=reference.name if reference and protocol.reference_sha256 else None,
                samples=dict(samples),
                provenance=provenance,
                cost={**cost, "score_seconds": seconds},
                created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            )
        )
    return records


def protocol_of(
    metric: MetricSpec,
    num_samples: int,
    spec: ExtractorSpec,
    statistics: ReferenceStatistics | None,
    sampling: SamplingFields,
) -> Protocol:
    """Only the fields that can change this metric's number."""
    needs = sorted(need for need in metric.needs if need.startswith("reference_"))
    digests = [statistics.digests[need] for need in needs] if statistics else []
    details: dict[str, Detail] = dict(metric.protocol)
    return Protocol(
        metric=metric.name,
        num_samples=num_samples,
        extractor=spec.extractor_id,
        extractor_sha256=spec.weights.sha256,
        resize=spec.resize,
        precision=spec.precision,
        backend="torch",
        reference_sha256=digests[0] if digests else None,
        details=details,
        label_rule=sampling.label_rule,
        uint8_rule=sampling.uint8_rule,
        codec=sampling.codec,
    )


def sampling_fields(plan: Plan) -> SamplingFields:
    """What a run's plan says about its samples; fused features never pass a lossy codec."""
    chosen = "" if plan.classes is None else f" of {','.join(map(str, plan.classes))}"
    return SamplingFields(plan.labels.describe() + chosen, plan.uint8_rule, "lossless")


def _moments(stored: StoredMoments | None, features: NDArray[np.float32] | None) -> Moments | None:
    if stored is not None:
        return Moments(stored.count or len(stored.mean_D) + 1, stored.mean_D, stored.cov_DD)
    return moments_of(features) if features is not None else None
