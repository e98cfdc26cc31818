"""The moments in which a fault can strike, as operations on the files of one shard."""

import random
from typing import NamedTuple

BEFORE_DATA = "before data"
DATA_TO_RECEIPT = "between data and receipt"
BEFORE_HEARD = "before the driver hears"
COMPACTION = "during compaction"
ANY = "at a random moment"


class Point(NamedTuple):
    """An operation of the library's log; `{shard}` stands for the shard's first sample."""

    op: str
    when: str
    pattern: str


POINTS: dict[str, tuple[Point, ...]] = {
    BEFORE_DATA: (
        Point("create", "before", "images/{shard}-*"),
        Point("write", "before", "images/{shard}-*"),
        Point("fsync", "before", "images/{shard}-*"),
    ),
    DATA_TO_RECEIPT: (
        Point("fsync", "after", "images/{shard}-*"),
        Point("create", "before", "features/*/{shard}-*"),
        Point("fsync", "after", "features/*/{shard}-*"),
        Point("link", "before", "receipts/images/{shard}-*"),
        Point("link", "after", "receipts/images/{shard}-*"),
        Point("link", "before", "receipts/features/*/{shard}-*"),
    ),
    BEFORE_HEARD: (Point("link", "after", "receipts/features/*/{shard}-*"),),
    COMPACTION: (
        Point("create", "before", "ledger/*"),
        Point("write", "before", "ledger/*"),
        Point("fsync", "before", "ledger/*"),
        Point("rename", "before", "ledger/*"),
        Point("rename", "after", "ledger/*"),
    ),
}
"""The receipt of the last stage, features, completes a shard; until then it is partial.

Compaction writes segments of the ledger, of receipts and of files that were verified.
"""
OF_A_SHARD = (BEFORE_DATA, DATA_TO_RECEIPT, BEFORE_HEARD)


def point_of(phase: str, shard: int, chance: random.Random) -> Point:
    """One of the points of a phase, for the shard that begins with sample `shard`."""
    point = chance.choice(POINTS[phase])
    return point._replace(pattern=point.pattern.format(shard=f"{shard:010d}"))
