"""Orientation: whether pictures are inverted, mirrored or turned.

Only a set that lies far from the reference can be so; of each way to undo it a few pictures show
whether their mean features come nearer, and of the best way all of them.
"""

from collections.abc import Callable

import numpy as np

from evalsuite.artifacts.images import Images
from evalsuite.diagnosis.findings import CannotTell, Clear, Finding, Outcome, capped
from evalsuite.diagnosis.material import FARTHER, Material
from evalsuite.metrics.frechet import frechet_distance
from evalsuite.metrics.moments import moments_of

_FEW = 200
"""Pictures on which every way is tried."""
_BETWEEN_SETS = 0.2
"""Spread of the logarithm of a ratio of distances, as between references of one kind."""
_WAYS: dict[str, Callable[[Images], Images]] = {
    "inverted (dark for bright)": lambda x: 255 - x,
    "mirrored (left for right)": lambda x: x[:, :, ::-1],
    "upside down": lambda x: x[:, ::-1],
    "turned by 180 degrees": lambda x: x[:, ::-1, ::-1],
}
"""What undoes each fault."""
_OF_SQUARES: dict[str, Callable[[Images], Images]] = {
    "transposed (rows for columns)": lambda x: x.transpose(0, 2, 1, 3),
    "turned by 90 degrees anticlockwise": lambda x: np.rot90(x, 3, (1, 2)),
    "turned by 90 degrees clockwise": lambda x: np.rot90(x, 1, (1, 2)),
}


def probe_orientation(material: Material) -> Outcome:
    """Whether samples come much nearer to the reference when they are inverted or turned back."""
    real, images, embed = material.reference, material.images_MHWC, material.embed
    factor = real.factor if real is not None else None
    if real is None or factor is None:
        return CannotTell(material.why_no("reference"))
    ours = material.distance
    if ours is None or embed is None:
        return CannotTell(material.why_no("features"))
    seen = f"the distance to {real.name} is {ours:.3f}"
    if material.is_far is None:
        least = -(-len(factor.moments.mean_D) // 2)
        return CannotTell(f"with fewer than {least:,} samples the bias of the distance hides it")
    if not material.is_far:
        return Clear(f"{seen}, too near for pictures that are inverted, mirrored or turned")
    if images is None or len(images) != len(material.rows_N):
        return CannotTell(material.why_no("pixels"))
    ways = _WAYS | (_OF_SQUARES if material.size[0] == material.size[1] else {})
    step = -(-len(images) // _FEW)

    def from_mean(way: str) -> float:
        few_ND = embed(np.ascontiguousarray(ways[way](images[::step]))).pool_ND
        apart_D = few_ND.mean(axis=0, dtype=np.float64) - factor.moments.mean_D
        return float(apart_D @ apart_D)

    best = min(ways, key=from_mean)
    undone = embed(np.ascontiguousarray(ways[best](images))).pool_ND
    mended = frechet_distance(moments_of(undone), factor)
    seen += f", that of the same pictures were they {best} {mended:.3f}"
    if mended * FARTHER > ours:
        return Clear(seen)
    return Finding(
        f"pictures {best}",
        capped(float(np.log(ours / max(mended, 1e-9))) / _BETWEEN_SETS),
        seen,
        "look at the pictures, and for the step that inverts or turns them on the way to the file",
        ours - mended,
    )
