"""Samples and reference in the plane in which the reference varies most, with precision and recall.

Legend: N samples that are drawn, M reference images that are drawn, D feature dimensions.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from evalsuite.artifacts.records import Record
from evalsuite.report.charts import Key, Line, Point, axis_of, chart, of_one_unit
from evalsuite.report.environment import fill
from evalsuite.report.grid import describe_sample
from evalsuite.report.loaded import LoadedRun
from evalsuite.report.plane import Plane, ellipse, members, plane_of
from evalsuite.report.reference_view import ReferenceView
from evalsuite.report.sections.part import Part
from evalsuite.seeding import labels_of

MOST_POINTS = 800
"""Samples, and reference images, that are drawn."""
_K = 3
_SAMPLES, _REFERENCE = "s1", "s0"


class _Drawn(NamedTuple):
    """Features of what is drawn, and which of it lies where the other is too."""

    samples_ND: NDArray[np.float32]
    reference_MD: NDArray[np.float32] | None
    images_M: NDArray[np.int64]
    inside_N: NDArray[np.bool_] | None
    reached_M: NDArray[np.bool_] | None


def features(run: LoadedRun) -> Part | None:
    """A scatter plot; None where the reference of the FID is not at hand.

    Raises:
        CorruptionError: features are not the recorded ones.
    """
    view = run.reference
    if view is None or len(view.moments.mean_D) < 3:
        return None
    drawn = _drawn(run, view)
    plane = plane_of(view.moments)
    same = (view.record.protocol.num_samples, view.record.reference)
    shares = [
        record
        for record in run.records
        if record.metric in {"precision", "recall", "density", "coverage"}
        and (record.protocol.num_samples, record.reference) == same
    ]
    return Part(
        fill(
            "sections/features.html.j2",
            chart=_chart(run, plane, drawn, shares),
            drawn=drawn,
            view=view,
            plane=plane,
            shares=shares,
            k=_K,
        )
    )


def _drawn(run: LoadedRun, view: ReferenceView) -> _Drawn:
    """The first samples, and reference images at even distances."""
    count = min(MOST_POINTS, view.record.protocol.num_samples)
    samples_ND = run.run.read_features(view.extractor_id, count).pool_ND
    every_MD = view.features_MD
    if every_MD is None:
        return _Drawn(samples_ND, None, np.zeros(0, np.int64), None, None)
    number = min(MOST_POINTS, len(every_MD))
    images_M = np.linspace(0, len(every_MD) - 1, number).round().astype(np.int64)
    reference_MD = every_MD[images_M]
    if min(count, number) <= _K:
        return _Drawn(samples_ND, reference_MD, images_M, None, None)
    return _Drawn(
        samples_ND,
        reference_MD,
        images_M,
        members(samples_ND, reference_MD, _K),
        members(reference_MD, samples_ND, _K),
    )


def _chart(run: LoadedRun, plane: Plane, drawn: _Drawn, shares: Sequence[Record]) -> Markup:
    count = len(drawn.samples_ND)
    labels = labels_of(run.plan, 0, count, run.manifest.file_labels)
    texts = [describe_sample(run, index, label) for index, label in enumerate(labels)]
    places_N2 = plane.places(drawn.samples_ND)
    points = []
    if drawn.reference_MD is not None:
        images = [f"reference image {index}" for index in drawn.images_M]
        places_M2 = plane.places(drawn.reference_MD)
        points += _points(places_M2, images, drawn.reached_M, _REFERENCE)
    points += _points(places_N2, texts, drawn.inside_N, _SAMPLES)
    lines = [Line("reference, 95 %", ellipse(np.zeros(2), plane.cov_22), kind=_REFERENCE)]
    if count > 2:
        mean_2, cov_22 = places_N2.mean(axis=0), np.cov(places_N2.T)
        lines.append(Line("samples, 95 %", ellipse(mean_2, cov_22), kind=_SAMPLES))
    ends = [*(p[:2] for p in points), *(place for line in lines for place in line.points)]
    said = "; ".join(f"{one.display} {one.value:.4f}" for one in shares if one.value is not None)
    first, second = (f"{100 * share:.1f} % of its variance" for share in plane.explained)
    across, up = of_one_unit(
        axis_of([x for x, _ in ends], f"first direction of the reference, {first}", log=False),
        axis_of([y for _, y in ends], f"second direction, {second}", log=False),
    )
    return chart(
        f"Scatter plot of {count} samples and the reference in two principal directions. {said}",
        across,
        up,
        lines=lines,
        points=points,
        legend=[Key("reference", _REFERENCE), Key("samples", _SAMPLES)],
        is_square=True,
    )


def _points(
    places_N2: NDArray[Any], texts: Sequence[str], inside_N: NDArray[np.bool_] | None, kind: str
) -> list[Point]:
    """Markers, open where the other set does not reach."""
    reached = np.ones(len(texts), bool) if inside_N is None else inside_N
    return [
        Point(float(x), float(y), text, kind=f"small {kind}" + ("" if inside else " open"))
        for (x, y), text, inside in zip(places_N2, texts, reached, strict=True)
    ]
