"""What a run opens, as the items of a lock file."""

import re
from pathlib import Path

from evalsuite.artifacts.digests import known_sha256
from evalsuite.artifacts.references import open_reference
from evalsuite.config import ExtractorSpec, Plan, load_spec
from evalsuite.pipeline.lock import LockedItem
from evalsuite.pipeline.plan import ResolvedPlan, with_weights
from evalsuite.pipeline.worker import check_extractor_weights

_COMMIT = re.compile(r"[0-9a-f]{40}")


def fetched_items(
    resolved: ResolvedPlan,
    reference: str | None,
    extractor: str | None,
    extractor_weights: Path | None,
) -> tuple[LockedItem, ...]:
    """Everything that `resolve_plan` found, and extractor and reference, opened and checked.

    Raises:
        DataError: a file that is missing or not what its sidecar says.
    """
    defaults = resolved.preset.evaluation
    items = [*_weights_items(resolved), *_encoder_items(resolved.plan, resolved.materials.encoder)]
    name = extractor or defaults.extractor
    if name is not None:
        spec = with_weights(load_spec(ExtractorSpec, name), extractor_weights)
        check_extractor_weights(spec)
        items.append(LockedItem(what="extractor", name=spec.name, sha256=spec.weights.sha256))
    name = reference or defaults.reference
    if name is not None:
        found = open_reference(name)
        if found.spec is not None:
            items.append(LockedItem(what="reference", name=name, sha256=found.spec.sha256))
        elif Path(name).is_file():
            sha256 = known_sha256(Path(name))
            items.append(LockedItem(what="reference", name=Path(name).name, sha256=sha256))
    return tuple(items)


def _weights_items(resolved: ResolvedPlan) -> list[LockedItem]:
    plan, origin = resolved.plan, resolved.origin
    items = []
    if resolved.materials.weights is not None:
        hub = {key: str(origin[key]) for key in ("repo", "revision", "filename") if key in origin}
        items.append(
            LockedItem(
                what="weights",
                name=resolved.materials.weights.name,
                sha256=plan.weights_sha256,
                **hub,
            )
        )
    if plan.guide is not None and resolved.materials.guide is not None:
        name = resolved.materials.guide.name
        items.append(LockedItem(what="guide", name=name, sha256=plan.guide.weights_sha256))
    return items


def _encoder_items(plan: Plan, folder: Path | None) -> list[LockedItem]:
    """The text encoder; a folder of the hub's cache is named by its commit."""
    text = plan.text
    if folder is None or text is None or text.encoder is None or text.encoder_sha256 is None:
        return []
    from_hub = _COMMIT.fullmatch(folder.name) is not None
    return [
        LockedItem(
            what="text encoder",
            name=text.encoder.repo if from_hub else folder.name,
            sha256=text.encoder_sha256,
            repo=text.encoder.repo if from_hub else None,
            revision=folder.name if from_hub else None,
        )
    ]
