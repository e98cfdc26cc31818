"""Nearest reference images of chosen samples: copies, and what a sample is like.

Legend: N chosen samples, Q neighbours, M reference images, D feature dimensions.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from evalsuite.artifacts.images import Images
from evalsuite.metrics.neighbours import Neighbours, nearest
from evalsuite.pipeline.analysis import chosen_images
from evalsuite.report.environment import fill
from evalsuite.report.grid import describe_sample
from evalsuite.report.loaded import LoadedRun
from evalsuite.report.pictures import data_uris, is_crisp
from evalsuite.report.reference_view import ReferenceView
from evalsuite.report.sections.part import Part
from evalsuite.seeding import labels_of

_FIRST, _COSTLY = 6, 6
"""Samples that are shown: the first, and those that cost most of the others."""
_NUM_NEAREST = 5
_IMAGE_BYTES = 600_000


class _Near(NamedTuple):
    """A reference image near to a sample; `uri` is None where only features are at hand."""

    uri: str | None
    text: str
    distance: float


class _Row(NamedTuple):
    uri: str | None
    text: str
    sample: int
    why: str
    near: list[_Near]


def neighbours(run: LoadedRun) -> Part | None:
    """A row of neighbours for each chosen sample; None where the reference's features are absent.

    Raises:
        CorruptionError: features or pixels are not the recorded ones.
    """
    view = run.reference
    if view is None or view.features_MD is None or len(view.features_MD) <= _NUM_NEAREST:
        return None
    chosen = _chosen(run, view.record.protocol.num_samples)
    features_ND = _features(run, view, list(chosen))
    found = nearest(features_ND, view.features_MD, _NUM_NEAREST, torch.device("cpu"))
    return Part(
        fill(
            "sections/neighbours.html.j2",
            rows=_rows(run, view, chosen, found),
            num_nearest=_NUM_NEAREST,
            num_reference=len(view.features_MD),
            num_copies=int((found.distances_NQ[:, 0] == 0).sum()),
            view=view,
            plan=run.plan,
            is_crisp=is_crisp(run.plan.size),
        )
    )


def _chosen(run: LoadedRun, num_samples: int) -> dict[int, str]:
    """Indices and why they were chosen: those with pixels where any are kept."""
    kept = run.run.kept_indices(num_samples)
    pool = kept or list(range(num_samples))
    chosen = dict.fromkeys(pool[:_FIRST], "first")
    if run.taken_apart is not None:
        allowed = set(pool)
        order = (i for i in run.taken_apart.order().tolist() if i in allowed and i not in chosen)
        chosen |= {index: "costly" for index, _ in zip(order, range(_COSTLY), strict=False)}
    return chosen


def _features(run: LoadedRun, view: ReferenceView, indices: list[int]) -> NDArray[np.float32]:
    rows = [run.run.read_features(view.extractor_id, i + 1, i).pool_ND for i in indices]
    return np.concatenate(rows)


def _rows(
    run: LoadedRun, view: ReferenceView, chosen: dict[int, str], found: Neighbours
) -> list[_Row]:
    uris = _uris(run, view, list(chosen), found)
    names = view.reference.images.names if view.reference.images else None
    rows = []
    for place, (index, why) in enumerate(chosen.items()):
        (label,) = labels_of(run.plan, index, index + 1, run.manifest.file_labels)
        near = []
        for q, image in enumerate(found.indices_NQ[place].tolist()):
            distance = float(found.distances_NQ[place, q])
            text = f"reference image {names[image] if names else image}, distance {distance:.4g}"
            near.append(_Near(uris.get(("reference", image)), text, distance))
        text = describe_sample(run, index, label)
        rows.append(_Row(uris.get(("sample", index)), text, index, why, near))
    return rows


def _uris(
    run: LoadedRun, view: ReferenceView, indices: list[int], found: Neighbours
) -> dict[tuple[str, int], str]:
    """Pictures of samples and reference images, each once, as far as their pixels are at hand."""
    pictures: dict[tuple[str, int], Images] = {
        ("sample", index): image for index, image in run.run.find_images(indices)
    }
    images = view.reference.images
    if images is not None:
        places = np.unique(found.indices_NQ).tolist()
        pictures |= {
            ("reference", place): image
            for place, image in zip(places, chosen_images(images, places), strict=True)
        }
    uris, _ = data_uris(list(pictures.values()), _IMAGE_BYTES)
    return dict(zip(pictures, uris, strict=True))
