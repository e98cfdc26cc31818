"""What a scorer is asked for, resolved: by the first rank for all, then by each rank for itself."""

import contextlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from evalsuite.artifacts.references import open_reference
from evalsuite.config import ExtractorSpec, ProtocolSpec, load_spec
from evalsuite.errors import DataError, EvalsuiteError, UsageError, nearest
from evalsuite.features.base import Extractor
from evalsuite.pipeline.extractor_weights import find_extractor_weights
from evalsuite.pipeline.labels import parse_label_rule
from evalsuite.pipeline.measure import Measure, check, parse_metrics, protocol_named
from evalsuite.pipeline.numerics import numerics_id, numerics_of
from evalsuite.pipeline.plan import with_weights
from evalsuite.pipeline.reference_data import PreparedReference, prepare_reference
from evalsuite.pipeline.sample_batches import SamplePlan
from evalsuite.pipeline.worker import check_extractor_weights, load_extractor
from evalsuite.sampling.pixels import UINT8_RULES


@dataclass(frozen=True)
class ScorerRequest:
    """Arguments of `Scorer`, where they are described."""

    reference: str | Path | None
    num_classes: int
    num_samples: int
    size: tuple[int, int] | None
    metrics: Sequence[str] | str | None
    protocol: str | None
    extractor: str | None
    extractor_weights: str | None
    labels: str
    first_seed: int
    batch_size: int | None
    noise_shape: tuple[int, int, int] | None
    uint8_rule: str
    device: torch.device


class FirstRank(NamedTuple):
    """What the first rank alone has."""

    measure: Measure
    reference: PreparedReference | None


class EveryRank(NamedTuple):
    """What every rank has."""

    spec: ExtractorSpec
    extractor: Extractor
    plan: SamplePlan
    same_numerics: bool
    """Whether this rank's device and libraries are of the kind of the first one's."""


@dataclass(frozen=True)
class Facts:
    """What the first rank tells the others, who need no reference for it."""

    size: tuple[int, int]
    needs: frozenset[str]
    extractor: str
    extractor_id: str
    numerics_id: str

    def encode(self) -> bytes:
        """As JSON."""
        return json.dumps({**vars(self), "needs": sorted(self.needs)}).encode()

    @classmethod
    def decode(cls, content: bytes) -> "Facts":
        """From JSON."""
        fields = json.loads(content)
        height, width = fields.pop("size")
        return cls(size=(height, width), needs=frozenset(fields.pop("needs")), **fields)


_FLAG = re.compile(r"--([a-z][a-z-]*)(?: ([A-Z]+)\b)?")
_OF_THE_COMMAND_LINE = re.compile(r",? or give --resize \w+, such as [\w:-]+")


@contextlib.contextmanager
def in_arguments() -> Iterator[None]:
    """Say errors in arguments of `Scorer`, where they were written for the command line."""
    try:
        yield
    except EvalsuiteError as error:
        text = _OF_THE_COMMAND_LINE.sub("", str(error))
        error.args = (_FLAG.sub(_argument, text),)
        raise


def _argument(flag: re.Match[str]) -> str:
    """`reference` for --reference, and `reference=PATH` for --reference PATH."""
    name = flag[1].replace("-", "_")
    if name not in ScorerRequest.__dataclass_fields__:
        return flag[0]
    return f"{name}={flag[2]}" if flag[2] else f"`{name}`"


def prepare_first(request: ScorerRequest) -> tuple[FirstRank, Facts]:
    """Check everything that needs no image, and make the reference ready.

    Raises:
        EvalsuiteError: whatever cannot be.
    """
    if request.uint8_rule not in UINT8_RULES:
        known = nearest(request.uint8_rule, UINT8_RULES)
        raise UsageError(f"unknown uint8_rule {request.uint8_rule!r}: {known}")
    measure = _measure_of(request)
    facts = Facts(
        _size_of(measure, request.size),
        measure.needs,
        request.extractor or measure.spec.name,
        measure.spec.extractor_id,
        numerics_id(numerics_of(request.device)),
    )
    _plan_of(request, facts, measure.spec)
    check(measure, request.num_samples, facts.size)
    return FirstRank(measure, prepare_reference(measure)), facts


def prepare_every(request: ScorerRequest, facts: Facts) -> EveryRank:
    """Load what each rank needs.

    Raises:
        DataError: weights of the extractor that are missing here, or are not the first rank's.
    """
    spec = _extractor(facts.extractor, request.extractor_weights)
    if spec.extractor_id != facts.extractor_id:
        raise DataError(
            f"extractor {spec.name} has other weights on this rank than on the first one"
        )
    extractor = load_extractor(spec, request.device)
    plan = _plan_of(request, facts, spec)
    here = numerics_id(numerics_of(request.device))
    return EveryRank(spec, extractor, plan, here == facts.numerics_id)


def _measure_of(request: ScorerRequest) -> Measure:
    """What is measured; extractor and protocol follow from the reference where none is named."""
    reference = None if request.reference is None else open_reference(str(request.reference))
    named = load_spec(ProtocolSpec, request.protocol) if request.protocol else None
    candidates = (
        request.extractor,
        named.extractor if named else None,
        reference.spec.extractor if reference and reference.spec else None,
    )
    found = next((name for name in candidates if name is not None), None)
    if found is None:
        raise UsageError("the reference names no extractor: give Scorer(..., extractor=NAME)")
    spec = _extractor(found, request.extractor_weights)
    check_extractor_weights(spec)
    protocol = protocol_named(request.protocol, spec)
    given = request.metrics
    asked = given if given is None or isinstance(given, str) else ",".join(given)
    return Measure(spec, reference, parse_metrics(asked, protocol), request.device, protocol)


def _extractor(name: str, weights: str | None) -> ExtractorSpec:
    spec = load_spec(ExtractorSpec, name)
    return spec if weights is None else with_weights(spec, find_extractor_weights(weights))


def _size_of(measure: Measure, asked: tuple[int, int] | None) -> tuple[int, int]:
    """(H, W) as asked; else what the extractor takes; else that of the reference's images."""
    spec, reference = measure.spec, measure.reference
    images = reference.images if reference else None
    found = asked or spec.input_size or (images.size if images else None)
    if found is None:
        raise UsageError("the reference has no images: give Scorer(..., size=(H, W))")
    if spec.input_size not in {None, tuple(found)}:
        raise UsageError(f"size {found}: extractor {spec.name} takes {spec.input_size} only")
    return found


def _plan_of(request: ScorerRequest, facts: Facts, spec: ExtractorSpec) -> SamplePlan:
    rule, file_labels = parse_label_rule(request.labels, request.num_classes)
    return SamplePlan(
        request.num_samples,
        request.first_seed,
        rule,
        request.num_classes,
        file_labels,
        spec.batch_size if request.batch_size is None else request.batch_size,
        request.noise_shape or (3, *facts.size),
    )
