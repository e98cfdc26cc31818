"""The samples that cost a distance most, and those that earn it most."""

from collections.abc import Sequence
from typing import NamedTuple

from evalsuite.artifacts.images import Images
from evalsuite.report.environment import fill
from evalsuite.report.grid import describe_sample
from evalsuite.report.loaded import LoadedRun
from evalsuite.report.pictures import data_uris, is_crisp
from evalsuite.report.sections.part import Part
from evalsuite.report.taken_apart import TakenApart

EACH_END = 12
"""Samples of each kind."""
_IMAGE_BYTES = 400_000


class Card(NamedTuple):
    """One sample with its picture."""

    uri: str
    text: str
    sample: int
    name: str
    influence: float


def influence(run: LoadedRun) -> Part | None:
    """Pictures of both ends; None where no record has influence values."""
    apart = run.taken_apart
    if apart is None:
        return None
    count = len(apart.influence_N)
    kept = set(run.run.kept_indices(count))
    order = apart.order().tolist()
    seen = [index for index in order if index in kept]
    each = min(EACH_END, len(seen) // 2)
    costly, helpful = seen[:each], seen[::-1][:each]
    images = dict(run.run.find_images([*costly, *helpful]))
    each_of_all = min(EACH_END, count // 2)
    return Part(
        fill(
            "sections/influence.html.j2",
            record=apart.record,
            plan=run.plan,
            costly=_cards(run, apart, costly, images),
            helpful=_cards(run, apart, helpful, images),
            is_crisp=is_crisp(run.plan.size),
            num_kept=len(kept),
            num_samples=count,
            costly_of_all=order[:each_of_all],
            helpful_of_all=order[::-1][:each_of_all],
        )
    )


def _cards(
    run: LoadedRun, apart: TakenApart, indices: Sequence[int], images: dict[int, Images]
) -> list[Card]:
    uris, _ = data_uris([images[index] for index in indices], _IMAGE_BYTES)
    cards = []
    for uri, index in zip(uris, indices, strict=True):
        label, value = int(apart.labels_N[index]), float(apart.influence_N[index])
        text = f"{describe_sample(run, index, label)}, influence {value:+.4g}"
        cards.append(Card(uri, text, index, run.name_of(label) or str(label), value))
    return cards
