"""Reference: whether the number is against the real data that it should be against."""

import numpy as np

from evalsuite.config import ReferenceSpec, load_spec, names_of
from evalsuite.diagnosis.findings import RECORDED, CannotTell, Clear, Finding, Outcome, capped
from evalsuite.diagnosis.material import FARTHER, Expected, Material, RealData
from evalsuite.diagnosis.references import wanted_references
from evalsuite.metrics.frechet import frechet_distance
from evalsuite.metrics.moments import moments_of

_BETWEEN_SETS = 0.2
"""Spread of the logarithm of such a ratio between references of one kind."""
_PER_DIM = 2
"""Images of a reference for each feature dimension, below which it is none."""


def probe_reference(material: Material) -> Outcome:
    """Whether the reference fits samples, extractor and claim, and is of the same kind of data."""
    asked = material.asked or material.reference
    if asked is None:
        return CannotTell(material.why_no("reference"))
    if asked.unfit is not None and asked.wrong:
        return Finding(
            "wrong reference",
            RECORDED,
            f"reference {asked.name} does not fit: {asked.unfit}",
            _take(material, asked),
        )
    wanted = wanted_references(material.expected)
    if wanted and not _explained(material, asked) & set(wanted):
        return Finding(
            "wrong reference",
            RECORDED,
            f"the number is against {asked.name}, {_whose(material.expected)} is against"
            f" {' or '.join(wanted)}",
            f"score against --reference {wanted[0]}",
        )
    if asked.unfit is not None:
        return CannotTell(asked.unfit)
    return _by_distance(material, asked)


def _by_distance(material: Material, asked: RealData) -> Outcome:
    table, factor = material.features, asked.factor
    if table is None or factor is None:
        return CannotTell(material.why_no("features"))
    count, dim = factor.moments.count, factor.moments.dim
    if asked.images_MHWC is not None and count < _PER_DIM * dim:
        return Finding(
            "wrong reference",
            RECORDED,
            f"reference {asked.name} has {count} images for {dim} feature dimensions: its"
            " covariance is not that of the data",
            f"build a reference of at least {_PER_DIM * dim:,} images",
        )
    moments = moments_of(table.pool_ND)
    ours = frechet_distance(moments, factor)
    fitting = {o.name: frechet_distance(moments, o.factor) for o in material.others if o.factor}
    if not fitting:
        return Clear(f"the distance to {asked.name} is {ours:.3f}; no other reference is here")
    name = min(fitting, key=lambda one: fitting[one])
    ratio = ours / max(fitting[name], 1e-9)
    seen = f"the distance to {asked.name} is {ours:.3f}, to {name} {fitting[name]:.3f}"
    if ratio < FARTHER:
        return Clear(seen)
    return Finding(
        "wrong reference",
        capped(float(np.log(ratio)) / _BETWEEN_SETS),
        f"{seen}: the reference is of another kind of images",
        f"score against --reference {name}",
        ours - fitting[name],
    )


def _explained(material: Material, asked: RealData) -> set[str]:
    """What the number is against: as the user says, else all that FID was measured against."""
    if asked.given:
        return {asked.name}
    measured = {r.reference for r in material.records if r.metric == "fid" and r.reference}
    return {asked.name} | measured


def _whose(expected: Expected | None) -> str:
    assert expected is not None
    return "the claim" if expected.claim else f"the preset {expected.preset.name}"


def _take(material: Material, asked: RealData) -> str:
    """Advice: a reference that fits."""
    used = material.reference
    if used is not None and used.name != asked.name:
        return f"score against --reference {used.name}"
    height, width = material.size
    fitting = [
        n for n in names_of(ReferenceSpec) if load_spec(ReferenceSpec, n).size == (height, width)
    ]
    if fitting:
        return f"score against one for {height}x{width} images: {', '.join(fitting)}"
    return f"build a reference of {height}x{width} images: `evalsuite references build`"
