"""What a run opens, as the items of a lock file."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from evalsuite.artifacts.digests import known_sha256
from evalsuite.artifacts.references import Reference
from evalsuite.config import BenchmarkSpec, ExtractorSpec, Scalar
from evalsuite.pipeline.benchmark_files import files_here
from evalsuite.pipeline.extractor_weights import place_of_weights
from evalsuite.pipeline.lock import LockedItem
from evalsuite.pipeline.plan import ResolvedPlan
from evalsuite.pipeline.worker import check_extractor_weights


def fetched_items(
    resolved: ResolvedPlan,
    references: Sequence[Reference],
    extractors: Sequence[ExtractorSpec],
    extractor_weights: str | None = None,
) -> tuple[LockedItem, ...]:
    """Everything that `resolve_plan` found, and extractors and references, checked.

    Args:
        resolved: the plan.
        references: real data that is compared with.
        extractors: whose features are computed.
        extractor_weights: what the user gave for those, where they come from a hub.

    Raises:
        DataError: a file that is missing or not what its sidecar says.
    """
    items = [*plan_items(resolved)]
    for extractor in {spec.extractor_id: spec for spec in extractors}.values():
        check_extractor_weights(extractor)
        sha256 = extractor.weights_sha256
        place = place_of_weights(extractor_weights, Path(extractor.weights.file or ""))
        items.append(LockedItem(what="extractor", name=extractor.name, sha256=sha256, **place))
    for path, reference in {ref.path: ref for ref in references}.items():
        if path is not None and path.is_file():
            name = reference.name if reference.spec is not None else path.name
            items.append(LockedItem(what="reference", name=name, sha256=known_sha256(path)))
    return tuple(items)


def benchmark_items(spec: BenchmarkSpec) -> tuple[LockedItem, ...]:
    """The files of a benchmark.

    Raises:
        UsageError: one has not been fetched.
    """
    return tuple(
        LockedItem(what="benchmark", name=path.name, sha256=known_sha256(path))
        for path in files_here(spec)
    )


def plan_items(resolved: ResolvedPlan) -> tuple[LockedItem, ...]:
    """Weights, guide and text encoder."""
    plan, materials, origin = resolved.plan, resolved.materials, resolved.origin
    items = []
    if materials.weights is not None:
        name = materials.weights.name
        items.append(_item("weights", name, plan.weights_sha256, origin))
    if plan.guide is not None and materials.guide is not None:
        name = materials.guide.name
        items.append(_item("guide", name, plan.guide.weights_sha256, origin, "guide_"))
    text = plan.text
    if text is not None and text.encoder is not None and text.encoder_sha256 is not None:
        name = str(origin.get("text_encoder", text.encoder.repo))
        sha256 = text.encoder_sha256
        items.append(_item("text encoder", name, sha256, origin, "text_encoder_"))
    return tuple(items)


def _item(
    what: str, name: str, sha256: str, origin: Mapping[str, Scalar], prefix: str = ""
) -> LockedItem:
    """With its place on a hub, when it came from one."""
    keys = ("repo", "revision", "asked", "filename")
    place = {key: str(origin[prefix + key]) for key in keys if prefix + key in origin}
    return LockedItem(what=what, name=name, sha256=sha256, **place)
