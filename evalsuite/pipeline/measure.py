"""What is to be measured, and everything about it that can be refused before a forward pass."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch

from evalsuite.artifacts.references import Reference
from evalsuite.config import ExtractorSpec, ProtocolSpec, load_spec
from evalsuite.errors import DataError, UsageError, nearest
from evalsuite.metrics.registry import METRICS

FEWEST_IMAGES = 2
"""Of a reference: a covariance needs as many."""
Backend = Literal["torch", "tensorflow"]


class Measure(NamedTuple):
    """Metrics by one protocol, with what they are made of."""

    spec: ExtractorSpec
    reference: Reference | None
    metrics: Sequence[str]
    device: torch.device
    protocol: ProtocolSpec
    backend: Backend = "torch"

    @property
    def needs(self) -> frozenset[str]:
        """Inputs that the metrics need."""
        return frozenset(need for name in self.metrics for need in METRICS[name].needs)


def protocol_named(name: str | None, spec: ExtractorSpec) -> ProtocolSpec:
    """A protocol by name or path, by default the extractor's own.

    Raises:
        UsageError: no such protocol, or it is of another network than that of `spec`, or of one
            that resizes otherwise. Other weights of the same network have a prefix of their own.
    """
    protocol = load_spec(ProtocolSpec, name or spec.default_protocol)
    if protocol.extractor not in {None, spec.name}:
        of = load_spec(ExtractorSpec, str(protocol.extractor))
        if (of.family, of.resize) != (spec.family, spec.resize):
            raise UsageError(
                f"protocol {protocol.name} is of extractor {of.name}, and {spec.name} is another"
                " network or resizes otherwise: its numbers would be no numbers of that protocol"
            )
    return protocol


def parse_metrics(text: str | None, protocol: ProtocolSpec) -> list[str]:
    """Metric names from a comma-separated list, the protocol's by default, in the registry's order.

    Raises:
        UsageError: an unknown name.
    """
    if text is None:
        asked = list(protocol.metrics)
    else:
        asked = [name.strip() for name in text.split(",") if name.strip()]
        if not asked:
            raise UsageError("--metrics names no metric")
    for name in asked:
        if name not in METRICS:
            raise UsageError(f"unknown metric {name!r}: {nearest(name, METRICS)}")
    return [name for name in METRICS if name in asked]


def check(measure: Measure, num_samples: int, size: tuple[int, int] | None = None) -> None:
    """Raise what can be refused before any work.

    Args:
        measure: what is to be computed.
        num_samples: of how many samples.
        size: (H, W) of the samples, where it is known.

    Raises:
        UsageError: a metric that needs a reference has none.
        DataError: too few samples, or a reference that does not fit samples, extractor and metrics.
    """
    leasts = {
        name: METRICS[name].least(measure.protocol, measure.spec.pool_dim)
        for name in measure.metrics
    }
    for name, least in leasts.items():
        least.check(name, num_samples)
        if _compares(name) and measure.reference is None:
            raise UsageError(f"{name} needs a --reference")
    _check_parts(measure)
    if measure.reference is not None:
        check_reference(measure.reference, measure.spec, measure.metrics)
        # a size that the extractor does not take is refused for that
        fits = size is not None and measure.spec.input_size in {None, size}
        if size is not None and fits and any(_compares(name) for name in measure.metrics):
            _check_resolution(measure.reference, size)
        images = measure.reference.images
        for name, least in leasts.items():
            if images is not None and "reference_features" in METRICS[name].needs:
                least.check(name, num_samples, images.num_images)


def _check_resolution(reference: Reference, size: tuple[int, int]) -> None:
    """Raise DataError when a reference is known to be of images of another size."""
    known = reference.spec.size if reference.spec else None
    if known is None and reference.images is not None:
        known = reference.images.size
    if known is not None and tuple(known) != tuple(size):
        raise DataError(
            f"the samples are {size[0]}x{size[1]}, but reference {reference.name} is of"
            f" {known[0]}x{known[1]} images, so they would differ by their resolution alone: choose"
            f" another --reference, or give --resize RULE, such as adm-crop:{known[0]}"
        )


def _compares(name: str) -> bool:
    return any(need.startswith("reference_") for need in METRICS[name].needs)


def _check_parts(measure: Measure) -> None:
    """Refuse metrics of features that the extractor does not give."""
    spec = measure.spec
    lacking = {"spatial": spec.spatial_dim is None, "probabilities": spec.num_classes is None}
    for name in measure.metrics:
        for need in METRICS[name].needs:
            if lacking.get(need, False):
                raise UsageError(f"{name} needs {need} features, which {spec.name} does not give")


def check_reference(reference: Reference, spec: ExtractorSpec, metrics: Sequence[str]) -> None:
    """Raise DataError unless the reference fits extractor and metrics; no forward pass."""
    _check_made_with(reference, spec)
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
        _check_part(reference, name)
    images = reference.images
    if images is not None and images.num_images < FEWEST_IMAGES:
        raise DataError(
            f"reference {reference.name} holds {images.num_images} image: nothing is computed from"
            f" fewer than {FEWEST_IMAGES}"
        )
    if images is not None and spec.input_size not in {None, images.size}:
        raise DataError(
            f"reference {reference.name}: images of {images.size} do not fit {spec.name}"
        )


def _check_made_with(reference: Reference, spec: ExtractorSpec) -> None:
    sidecar = reference.spec
    if sidecar is None or sidecar.extractor is None:
        return
    # of another program's file only the network's name is known
    made_with = sidecar.extractor_id or sidecar.extractor
    ours = spec.name if sidecar.extractor_id is None else spec.extractor_id
    if made_with != ours:
        raise DataError(
            f"reference {reference.name} was made with extractor {made_with}, not {ours}:"
            " their features cannot be compared; choose another --reference or --extractor"
        )


def _check_part(reference: Reference, name: str) -> None:
    """Raise DataError when the reference lacks what a metric needs."""
    needs = METRICS[name].needs
    can_embed = reference.images is not None or reference.has_features
    for need, stored in (
        ("reference_pool", reference.pool),
        ("reference_spatial", reference.spatial),
    ):
        if need in needs and stored is None and not can_embed:
            raise DataError(
                f"reference {reference.name} holds neither moments nor images for {name}"
            )
    if "reference_features" in needs and not can_embed:
        raise DataError(
            f"reference {reference.name} holds no images, which {name} needs: choose another"
            " --reference or leave it out of --metrics"
        )
