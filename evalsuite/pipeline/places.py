"""Which results may stand in one group, in which places, and which of them are ties.

The rules of `comparability` decide: measurement fields are equal within a group, what is known to
differ is in another group, and a row of which something is unknown, or that lacks the hash by which
an edit is found, stands in it with a dagger and without a place.
"""

import functools
import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from evalsuite.artifacts.records import Protocol, Record
from evalsuite.config import canonical_json
from evalsuite.pipeline.claims import Reproduction, Settings
from evalsuite.pipeline.comparability import DECLARABLE, Side, comparability
from evalsuite.pipeline.comparison import Sharing, compare_records, sharing
from evalsuite.pipeline.comparison_inputs import Entry, Meeting, measurement_key, side_of
from evalsuite.pipeline.comparison_words import RETRAINING_PERCENT


@dataclass(frozen=True, eq=False)
class BoardRow:
    """One result of one metric.

    Attributes:
        entry: the input that it came from.
        record: what was measured.
        settings: how its samples were made.
        dagger: fields of its protocol that are unknown, and `record_sha256` of a record without its
            hash; it then has no place.
        places: the best and the worst place that its interval allows; None without a place.
        ties: ids of rows that cannot be told apart from it.
        replicates: of its configuration on seeds that share none with its own; None without one.
        beside: claims of its model.
        apart: what tells it from other rows of its id, in words; empty where there is none.
    """

    entry: Entry
    record: Record
    settings: Settings
    dagger: tuple[str, ...] = ()
    places: tuple[int, int] | None = None
    ties: tuple[str, ...] = ()
    replicates: "Replicates | None" = None
    beside: tuple[Reproduction, ...] = ()
    apart: str = ""

    @property
    def id(self) -> str:
        """The plan's id, or the name of outside samples: it stays when other rows come."""
        samples = self.record.samples
        return str(samples.get("plan_id") or "")[:12] or str(samples.get("path") or "unknown")

    @functools.cached_property
    def configuration(self) -> str:
        """What all but its seeds decides: of two replicates it is the same."""
        plan = self.entry.plan
        if plan is None:
            pixels = self.record.samples.get("pixels_digest")
            return f"{self.id} in {self.entry.where}, {pixels}"
        return plan.model_copy(update={"first_seed": 0}).plan_id

    @property
    def first_seed(self) -> int | None:
        """Of its samples; None of outside samples."""
        return None if self.entry.plan is None else self.entry.plan.first_seed

    @property
    def name(self) -> str:
        """The model, or the name of outside samples."""
        return str(self.entry.model or self.record.samples.get("path") or "unknown")

    @property
    def declared(self) -> tuple[str, ...]:
        """What was declared of its samples and is not verified: `label_rule balanced`."""
        side = _side(self)
        return tuple(
            f"{name} {side.sampling(name)}" for name in DECLARABLE if side.is_declared(name)
        )

    @property
    def gpu_hours(self) -> float | None:
        """What making the samples took; None where no GPU was held or nobody measured."""
        hours = self.record.cost.get("gpu_hours")
        return float(hours) if hours is not None and hours > 0 else None


class Replicates(NamedTuple):
    """One configuration on several ranges of seeds that share none.

    Attributes:
        ids: of the plans, one for each range.
        mean: of their values.
        standard_error: of the mean; None where one has no error.
    """

    ids: tuple[str, ...]
    mean: float
    standard_error: float | None


class Group(NamedTuple):
    """Rows of one metric that may stand in one table.

    Attributes:
        protocol: of its first row; rows differ in nothing that is known to matter.
        rows: the best first.
        id: by which files and figures tell it apart from all others of its board; empty before it
            stands on one.
        title: for people, no other group's of its board.
    """

    protocol: Protocol
    rows: tuple[BoardRow, ...]
    id: str = ""
    title: str = ""


@dataclass
class _Pile:
    """Rows that stand together, and the distinct protocols among them."""

    rows: list[BoardRow] = field(default_factory=list)
    sides: list[Side] = field(default_factory=list)

    def ranks_with(self, side: Side) -> bool:
        """Whether all is known and equal between it and every row."""
        return side in self.sides or all(comparability(side, one).ranked for one in self.sides)

    def admits(self, side: Side) -> bool:
        """Whether nothing is known to differ between it and any row."""
        return not any(comparability(side, one).refusals for one in self.sides)

    def add(self, row: BoardRow, side: Side) -> None:
        """Put a row on it."""
        self.rows.append(row)
        if side not in self.sides:
            self.sides.append(side)


def grouped(rows: Iterable[BoardRow]) -> list[Group]:
    """Rows divided so that within a group nothing is known to differ.

    A row of which something is unknown, its hash too, joins a group where only one would take it.
    """
    alike: dict[bytes, list[BoardRow]] = {}
    for row in rows:
        alike.setdefault(canonical_json(measured(row.record)), []).append(row)
    groups: list[Group] = []
    for _, members in sorted(alike.items()):
        groups += _divided(sorted(members, key=_order))
    return groups


def measured(record: Record) -> list[Any]:
    """What is equal within a group: everything of the measurement, N too."""
    return [measurement_key(record).decode(), record.protocol.num_samples]


def _divided(rows: Sequence[BoardRow]) -> list[Group]:
    """Rows of equal measurement, divided by what is known of their sampling."""
    known: list[_Pile] = []
    unknown: list[BoardRow] = []
    for row in rows:
        side = _side(row)
        if _unknown(row):
            unknown.append(row)
        else:
            _pile_for(known, [pile.ranks_with(side) for pile in known]).add(row, side)
    joined: list[list[BoardRow]] = [[] for _ in known]
    apart: list[_Pile] = []
    for row in unknown:
        side = _side(row)
        fits = [place for place, pile in enumerate(known) if pile.admits(side)]
        if len(fits) == 1:
            joined[fits[0]].append(row)
        else:
            _pile_for(apart, [pile.admits(side) for pile in apart]).add(row, side)
    found = [
        [*_placed(p.rows), *map(_daggered, more)] for p, more in zip(known, joined, strict=True)
    ]
    found += [list(map(_daggered, pile.rows)) for pile in apart]
    return [Group(rows[0].record.protocol, tuple(_told_apart(rows))) for rows in found]


def _pile_for(piles: list[_Pile], takes: Sequence[bool]) -> _Pile:
    """The first pile that takes a row, or a new one at the end."""
    for pile, taken in zip(piles, takes, strict=True):
        if taken:
            return pile
    piles.append(_Pile())
    return piles[-1]


def _placed(rows: Sequence[BoardRow]) -> list[BoardRow]:
    """Rows of one group, the best first, with the places that their intervals allow.

    Replicates of one configuration have the same places: the best of several is no better than
    they are, so two configurations are told apart where all their replicates are.
    """
    valued = [row for row in rows if row.record.value is not None]
    better, worse = [0] * len(valued), [0] * len(valued)
    ties: list[list[str]] = [[] for _ in valued]
    ways = _ways(valued)
    for i, j in itertools.combinations(range(len(valued)), 2):
        way = ways[valued[i].configuration, valued[j].configuration]
        if way == 0:
            ties[i].append(valued[j].id)
            ties[j].append(valued[i].id)
        else:
            first, last = (j, i) if way == 1 else (i, j)
            better[last] += 1
            worse[first] += 1
    alike = _replicates(valued)
    placed = [
        replace(
            row,
            places=(1 + better[i], len(valued) - worse[i]),
            ties=tuple(sorted(ties[i])),
            replicates=alike.get(row.id),
        )
        for i, row in enumerate(valued)
    ]
    return [*placed, *(row for row in rows if row.record.value is None)]


def _told_apart(rows: Sequence[BoardRow]) -> list[BoardRow]:
    """Rows, those of one plan or file name with words on what each is of."""
    times = Counter(row.id for row in rows)
    return [replace(row, apart=_way_of(row.record)) if times[row.id] > 1 else row for row in rows]


def _way_of(record: Record) -> str:
    """Pixels, backend and numerics, of which the last two may move the last digits."""
    pixels = str(record.samples.get("pixels_digest") or "")[:8]
    numerics = "+".join(one[:8] for one in record.numerics_ids)
    parts = (
        f"by {record.protocol.backend}",
        numerics and f"numerics {numerics}",
        pixels and f"pixels {pixels}",
    )
    return ", ".join(part for part in parts if part)


def _ways(rows: Sequence[BoardRow]) -> Mapping[tuple[str, str], int]:
    """For each two configurations: 1 where all rows of the second are better, -1 worse, else 0."""
    ways: dict[tuple[str, str], int] = {}
    for row, other in itertools.combinations(rows, 2):
        gap = distinguishable(row, other)
        found = 0 if gap is None else 1 if gap > 0 else -1
        a, b = row.configuration, other.configuration
        for pair, way in (((a, b), found), ((b, a), -found)):
            ways[pair] = way if ways.get(pair, way) == way else 0
    return ways


def _replicates(rows: Sequence[BoardRow]) -> dict[str, Replicates]:
    """By plan, where its configuration has other ranges of seeds too; all rows have values."""
    members: dict[str, dict[str, list[BoardRow]]] = {}
    for row in sorted(rows, key=lambda row: row.first_seed or 0):
        if row.entry.plan is not None:
            members.setdefault(row.configuration, {}).setdefault(row.id, []).append(row)
    pooled = (_pooled(_apart(list(plans.values()))) for plans in members.values())
    return {one: found for found in pooled if len(found.ids) > 1 for one in found.ids}


def _apart(plans: Sequence[Sequence[BoardRow]]) -> list[Sequence[BoardRow]]:
    """The rows of plans that share no seed with one before; plans are in the order of seeds."""
    kept: list[Sequence[BoardRow]] = []
    for rows in plans:
        count = rows[0].record.protocol.num_samples
        plan = rows[0].entry.plan
        if all(sharing(k[0].entry.plan, plan, count, count) is Sharing.DISJOINT for k in kept):
            kept.append(rows)
    return kept


def _pooled(plans: Sequence[Sequence[BoardRow]]) -> Replicates:
    """The mean over plans; one that was scored in several ways counts once, by their mean."""
    values = [math.fsum(row.record.value or 0.0 for row in rows) / len(rows) for rows in plans]
    errors = [[row.record.standard_error for row in rows] for rows in plans]
    known = [max(e for e in found if e is not None) for found in errors if None not in found]
    ids = tuple(rows[0].id for rows in plans)
    error = math.hypot(*known) / len(plans) if len(known) == len(plans) else None
    return Replicates(ids, math.fsum(values) / len(values), error)


def distinguishable(row: BoardRow, other: BoardRow) -> float | None:
    """How much better `other` is; None where the two are a tie, or nothing says that they are not.

    Replicates of one configuration are a tie. Of others a gap counts when it exceeds its 95 %
    interval (paired where both are runs that share noise) and, of FID, 1.3 % of the larger value.
    """
    if row.configuration == other.configuration:
        return None
    if is_near(row.record.metric, row.record.value or 0.0, other.record.value or 0.0):
        return None
    met = compare_records(row.entry, other.entry, Meeting(row.record, other.record, None))
    found = met.difference
    if not met.comparability.ranked or found is None or found.holds_zero is not False:
        return None
    return found.value if row.record.better == "higher" else -found.value


def is_near(metric: str, a: float, b: float) -> bool:
    """Whether a gap of FID is under what another training seed gives."""
    return metric == "fid" and abs(a - b) < RETRAINING_PERCENT / 100 * max(abs(a), abs(b))


def _daggered(row: BoardRow) -> BoardRow:
    return replace(row, dagger=_unknown(row))


def _unknown(row: BoardRow) -> tuple[str, ...]:
    """Why a row has no place: without its hash, an edit of any field would not be seen."""
    fields = (relation.field for relation in comparability(_side(row), _side(row)).unknown)
    return (*fields, *(() if row.record.is_sealed else ("record_sha256",)))


def _side(row: BoardRow) -> Side:
    return side_of(row.record, row.entry.plan)


def _order(row: BoardRow) -> tuple[bool, float, str, str]:
    value = row.record.value
    ranked = 0.0 if value is None else value
    ranked = -ranked if row.record.better == "higher" else ranked
    return value is None, ranked, row.id, row.entry.where
