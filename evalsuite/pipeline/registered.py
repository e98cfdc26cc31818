"""Whether a record was measured with what is registered under the names that it gives."""

import functools

from evalsuite.artifacts.records import Protocol, Record
from evalsuite.config import ExtractorSpec, ProtocolSpec, ReferenceSpec, load_spec, names_of
from evalsuite.metrics.registry import METRICS


def is_by_protocol(record: Record, name: str) -> bool:
    """Whether a record was measured just as a named protocol says, its reference included.

    Names alone do not count: extractor and reference have the digests that their registries pin.
    """
    spec = _protocol(name)
    if spec is None or record.metric not in METRICS:
        return False
    needs_reference = record.protocol.reference_sha256 is not None
    return (
        record.metric in spec.metrics
        and (spec.extractor is None or is_extractor(record.protocol, spec.extractor))
        and dict(METRICS[record.metric].fields(spec)) == record.protocol.details
        and (
            not needs_reference
            or (record.reference in spec.references.values() and is_reference(record))
        )
    )


@functools.cache
def _extractor(name: str) -> ExtractorSpec | None:
    """A named extractor; its file is read once."""
    return load_spec(ExtractorSpec, name) if name in names_of(ExtractorSpec) else None


def is_extractor(protocol: Protocol, name: str) -> bool:
    """Whether a protocol's extractor is a registered one: its id and its weights, where pinned."""
    spec = _extractor(name)
    if spec is None or protocol.extractor.rpartition("-")[0] != name:
        return False
    if spec.weights.sha256 is None:  # the user brings the weights, which are part of the id
        return True
    same_weights = protocol.extractor_sha256 == spec.weights.sha256
    return same_weights and protocol.extractor == spec.extractor_id


@functools.cache
def _reference(name: str) -> ReferenceSpec | None:
    """A named reference; its file is read once."""
    return load_spec(ReferenceSpec, name) if name in names_of(ReferenceSpec) else None


def is_reference(record: Record) -> bool:
    """Whether nothing speaks against a record's reference being the registered one of that name.

    The registry pins images; of moments that a file brings it pins no digest.
    """
    spec = _reference(record.reference) if record.reference else None
    pinned = spec.images.images_sha256 if spec and spec.images else None
    digest, metric = record.protocol.reference_sha256, METRICS.get(record.metric)
    if spec is None or pinned is None or digest is None or metric is None:
        return True
    of_images = spec.extractor is None or "reference_features" in metric.needs
    return not of_images or digest == pinned


def named_reference(record: Record) -> ReferenceSpec | None:
    """The registered reference of a record's name, where its metric uses one."""
    uses = record.reference is not None and record.protocol.reference_sha256 is not None
    return _reference(record.reference) if uses and record.reference else None


def is_made_for(reference: ReferenceSpec, protocol: Protocol) -> bool:
    """Whether a reference's features are of a protocol's extractor; one of images is of any.

    Of another program's file only the network's name is known.
    """
    if reference.extractor_id is not None:
        return protocol.extractor == reference.extractor_id
    return reference.extractor in {None, protocol.extractor.rpartition("-")[0]}


def keeps_rules(protocol: Protocol, name: str) -> bool:
    """Whether nothing speaks against a measurement being by the named protocol.

    Less than `is_by_protocol`: the reference may be another, and the network's weights too.
    """
    spec, metric = _protocol(name), METRICS.get(protocol.metric)
    if spec is None or metric is None:
        return True
    if dict(metric.fields(spec)) != protocol.details:
        return False
    of = None if spec.extractor is None else _extractor(spec.extractor)
    ours = _extractor(protocol.extractor.rpartition("-")[0])
    return of is None or ours is None or (of.family, of.resize) == (ours.family, ours.resize)


@functools.cache
def _protocol(name: str) -> ProtocolSpec | None:
    """A named protocol; its file is read once."""
    return load_spec(ProtocolSpec, name) if name in names_of(ProtocolSpec) else None
