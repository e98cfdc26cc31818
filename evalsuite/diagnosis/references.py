"""References as far as they can be used for some samples, and why not where they cannot.

Legend: M pictures.
"""

import contextlib
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from evalsuite.artifacts.references import Reference, open_reference
from evalsuite.config import ExtractorSpec, ProtocolSpec, ReferenceSpec, load_spec, names_of
from evalsuite.diagnosis.material import MOST, Expected, RealData
from evalsuite.errors import CorruptionError, DataError, EvalsuiteError
from evalsuite.metrics.frechet import reference_factor
from evalsuite.metrics.moments import Moments, moments_of
from evalsuite.pipeline.analysis import chosen_images
from evalsuite.pipeline.embedding import embed_images
from evalsuite.pipeline.measure import check_reference
from evalsuite.pipeline.worker import check_extractor_weights

_MOST_PICTURES = 1000


def real_data(
    name: str,
    size: tuple[int, int],
    extractor: ExtractorSpec | None,
    device: torch.device,
    *,
    given: bool,
) -> RealData:
    """A reference with what is needed of it.

    What does not fit is no error here: that may be the very thing that is looked for.

    Args:
        name: of the registry, or a path.
        size: (H, W) of the samples.
        extractor: whose features are compared; None where there is none.
        device: where images are embedded.
        given: whether the user named it.

    Raises:
        UsageError: no such name.
        DataError: a path that cannot be read as a reference.
        CorruptionError: a file that is not what its sidecar names.
    """
    spec = load_spec(ReferenceSpec, name) if name in names_of(ReferenceSpec) else None
    fault = _misfit_of(spec, size, extractor)
    try:
        opened = open_reference(name)
    except CorruptionError:
        raise
    except DataError as error:
        if spec is None:
            raise
        return RealData(name, spec, given, fault or str(error), wrong=fault is not None)
    spec = opened.spec or spec
    fault = fault or _misfit_of(spec, size, extractor) or _misfit_of_images(opened, size)
    if fault is None and extractor is not None:
        try:
            check_reference(opened, extractor, ["fid"])
        except DataError as error:
            fault = str(error)
    if fault is not None:
        return RealData(opened.name, spec, given, fault, wrong=True)
    return _with_pictures(opened, spec, extractor, device, given=given)


def _misfit_of(
    spec: ReferenceSpec | None, size: tuple[int, int], extractor: ExtractorSpec | None
) -> str | None:
    """What is known of a reference and does not fit, without its file."""
    if spec is None:
        return None
    known = spec.size or (spec.images.size if spec.images else None)
    if known is not None and tuple(known) != tuple(size):
        return f"it is of {known[0]}x{known[1]} images, the samples are {size[0]}x{size[1]}"
    if extractor is not None and spec.extractor not in {None, extractor.name}:
        return f"it is made with extractor {spec.extractor}, not with {extractor.name}"
    return None


def _misfit_of_images(opened: Reference, size: tuple[int, int]) -> str | None:
    images = opened.images
    if images is None or tuple(images.size) == tuple(size):
        return None
    return f"it is of {images.size[0]}x{images.size[1]} images, the samples are {size[0]}x{size[1]}"


def _with_pictures(
    opened: Reference,
    spec: ReferenceSpec | None,
    extractor: ExtractorSpec | None,
    device: torch.device,
    *,
    given: bool,
) -> RealData:
    pictures, labels_M, table = None, None, None
    if opened.images is not None:
        total = opened.images.num_images
        rows_M = _rows(total, _MOST_PICTURES if opened.pool is not None else MOST)
        pictures = chosen_images(opened.images, rows_M.tolist())
        if opened.images.labels_N is not None:
            labels_M = opened.images.labels_N[rows_M]
        if extractor is not None:
            table = embed_images(pictures, extractor, device)
    moments: Moments | None = None
    if opened.pool is not None:
        stored = opened.pool
        moments = Moments(stored.count or len(stored.mean_D) + 1, stored.mean_D, stored.cov_DD)
    elif table is not None and len(table.pool_ND) > 1:
        moments = moments_of(table.pool_ND)
    return RealData(
        opened.name,
        spec,
        given,
        factor=reference_factor(moments) if moments is not None and extractor else None,
        images_MHWC=pictures,
        labels_M=labels_M,
        probabilities_MK=None if table is None else table.probabilities_NK,
        features_MD=None if table is None else table.pool_ND,
    )


def _rows(total: int, most: int) -> NDArray[np.int64]:
    """All rows, or a fixed random choice in order."""
    if total <= most:
        return np.arange(total)
    return np.sort(np.random.default_rng(0).choice(total, most, replace=False))


def names_by_size(protocol: str | None, size: tuple[int, int]) -> list[str]:
    """The reference that a named protocol has for images of this size."""
    if protocol is None:
        return []
    name = load_spec(ProtocolSpec, protocol).references.get(f"{size[0]}x{size[1]}")
    return [] if name is None else [name]


def wanted_references(expected: Expected | None) -> list[str]:
    """Names of references that what is claimed was measured against."""
    if expected is None:
        return []
    evaluation = expected.preset.evaluation
    found = [evaluation.reference] if evaluation.reference else []
    protocol = expected.claim.protocol_of("fid") if expected.claim else evaluation.protocol
    return found or names_by_size(protocol, expected.preset.size)


def others_like(
    used: RealData, size: tuple[int, int], extractor: ExtractorSpec, device: torch.device
) -> Iterator[RealData]:
    """Registered references of the same extractor and size that are on this machine."""
    for name in names_of(ReferenceSpec):
        if name == used.name or load_spec(ReferenceSpec, name).extractor != extractor.name:
            continue
        with contextlib.suppress(EvalsuiteError):
            found = real_data(name, size, extractor, device, given=False)
            if found.unfit is None and found.factor is not None:
                yield found


def usable_extractors(size: tuple[int, int]) -> Iterator[ExtractorSpec]:
    """Extractors whose weights are here and that take images of this size, narrow ones first."""
    specs = [load_spec(ExtractorSpec, name) for name in names_of(ExtractorSpec)]
    for spec in sorted(specs, key=lambda one: one.input_size is None):
        if spec.input_size not in {None, size}:
            continue
        with contextlib.suppress(EvalsuiteError):
            check_extractor_weights(spec)
            yield spec
