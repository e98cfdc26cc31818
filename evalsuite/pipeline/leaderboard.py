"""Which results may stand in one table, in which places, and which of them are ties.

The rules of `comparability` decide: measurement fields are equal within a group, what is known to
differ is in another group, and a row of which something is unknown stands in it with a dagger and
without a place. Claims stand beside the groups and never have places among our rows.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from evalsuite.artifacts.records import Protocol, Record, same_number
from evalsuite.config import (
    FIGURES,
    Claim,
    ExtractorSpec,
    ProtocolSpec,
    canonical_json,
    load_spec,
    names_of,
)
from evalsuite.errors import UsageError
from evalsuite.metrics.registry import METRICS
from evalsuite.pipeline.claims import (
    Reproduction,
    Settings,
    beside_claim,
    is_by_protocol,
    settings_of,
    settings_of_claim,
)
from evalsuite.pipeline.comparability import Comparability, Side, comparability
from evalsuite.pipeline.comparison import compare_records
from evalsuite.pipeline.comparison_inputs import Entry, Meeting, measurement_key, side_of
from evalsuite.pipeline.comparison_words import RETRAINING_PERCENT


@dataclass(frozen=True, eq=False)
class BoardRow:
    """One result of one metric.

    Attributes:
        entry: the input that it came from.
        record: what was measured.
        settings: how its samples were made.
        dagger: fields of its protocol that are unknown; it then has no place.
        places: the best and the worst place that its interval allows; None without a place.
        ties: ids of rows that cannot be told apart from it.
        beside: claims of its model.
    """

    entry: Entry
    record: Record
    settings: Settings
    dagger: tuple[str, ...] = ()
    places: tuple[int, int] | None = None
    ties: tuple[str, ...] = ()
    beside: tuple[Reproduction, ...] = ()

    @property
    def id(self) -> str:
        """The plan's id, or the name of outside samples: it stays when other rows come."""
        samples = self.record.samples
        return str(samples.get("plan_id") or "")[:12] or str(samples.get("path") or "unknown")

    @property
    def name(self) -> str:
        """The model, or the name of outside samples."""
        return str(self.entry.model or self.record.samples.get("path") or "unknown")

    @property
    def gpu_hours(self) -> float | None:
        """What making the samples took; None where no GPU was held or nobody measured."""
        hours = self.record.cost.get("gpu_hours")
        return float(hours) if isinstance(hours, int | float) and hours > 0 else None


class Group(NamedTuple):
    """Rows of one metric that may stand in one table."""

    protocol: Protocol
    rows: tuple[BoardRow, ...]


class ClaimRow(NamedTuple):
    """One claimed figure, and how many others of its group are within 1.3 % of it."""

    claim: Claim
    value: float
    settings: Settings
    near: tuple[str, ...]


class ClaimGroup(NamedTuple):
    """Claims of one metric whose sources state one protocol in the same words."""

    words: str
    rows: tuple[ClaimRow, ...]


class Section(NamedTuple):
    """Groups and claims by one named protocol at one size; or one group by another protocol.

    Attributes:
        key: decides the order; the same for the same content.
        title: for people.
        metric: name in the registry.
        groups: of our records.
        claims: of others, by the words of their protocol.
    """

    key: str
    title: str
    metric: str
    groups: tuple[Group, ...]
    claims: tuple[ClaimGroup, ...]


def build_board(entries: Sequence[Entry], claims: Sequence[Claim]) -> list[Section]:
    """All sections, by metric in the registry's order, then by title.

    Raises:
        UsageError: nothing to show.
        CorruptionError: influence values that do not belong to their record.
    """
    if not entries and not claims:
        raise UsageError("nothing to show: give runs or records, or leave out --published none")
    groups: dict[str, list[Group]] = {}
    titles: dict[str, tuple[str, str]] = {}
    for group in _groups(_rows(entries, claims)):
        key, title = _section_of_group(group)
        titles[key] = title, group.protocol.metric
        groups.setdefault(key, []).append(group)
    claimed: dict[str, list[ClaimGroup]] = {}
    for metric in FIGURES:
        for found in _claim_groups(metric, claims):
            key, title = _section_of_claims(metric, found)
            titles.setdefault(key, (title, metric))
            claimed.setdefault(key, []).append(found)
    order = {name: place for place, name in enumerate(METRICS)}
    sections = [
        Section(key, title, metric, tuple(groups.get(key, ())), tuple(claimed.get(key, ())))
        for key, (title, metric) in titles.items()
    ]
    return sorted(
        sections,
        key=lambda s: (order.get(s.metric, len(order)), s.metric, -_count(s), s.title, s.key),
    )


def _count(section: Section) -> int:
    """N of its results; 0 of claims alone, which come last."""
    return section.groups[0].protocol.num_samples if section.groups else 0


def _rows(entries: Sequence[Entry], claims: Sequence[Claim]) -> list[BoardRow]:
    """All records as rows; one that was only scored again stands once, by its last scoring."""
    rows: list[BoardRow] = []
    for entry in entries:
        settings = settings_of(entry.plan, entry.model)
        theirs = [claim for claim in claims if entry.model and claim.preset == entry.model]
        for record in entry.records:
            found = (beside_claim(record, entry.plan, entry.model, c) for c in theirs)
            row = BoardRow(
                entry, record, settings, beside=tuple(one for one in found if one is not None)
            )
            again = next((one for one in rows if _is_again(one, row)), None)
            if again is None:
                rows.append(row)
            elif again.record.created_at < record.created_at:
                rows[rows.index(again)] = row
    return rows


def _is_again(a: BoardRow, b: BoardRow) -> bool:
    x, y = a.record, b.record
    same = (a.id, x.protocol_id, x.declared) == (b.id, y.protocol_id, y.declared)
    return same and same_number(x.value, y.value)


def _groups(rows: Iterable[BoardRow]) -> list[Group]:
    """Rows divided so that within a group nothing is known to differ.

    A row of which something is unknown joins a group where only one would take it.
    """
    measured: dict[bytes, list[BoardRow]] = {}
    for row in rows:
        measured.setdefault(canonical_json(_measured(row.record)), []).append(row)
    groups: list[Group] = []
    for _, alike in sorted(measured.items()):
        groups += _divided(sorted(alike, key=_order))
    return groups


def _divided(rows: Sequence[BoardRow]) -> list[Group]:
    """Rows of equal measurement, divided by what is known of their sampling."""
    known: list[list[BoardRow]] = []
    unknown: list[BoardRow] = []
    for row in rows:
        if comparability(_side(row), _side(row)).unknown:
            unknown.append(row)
            continue
        for members in known:
            if all(_relation(row, member).ranked for member in members):
                members.append(row)
                break
        else:
            known.append([row])
    apart: list[BoardRow] = []
    joined: dict[int, list[BoardRow]] = {}
    for row in unknown:
        fits = [
            place
            for place, members in enumerate(known)
            if not any(_relation(row, member).refusals for member in members)
        ]
        if len(fits) == 1:
            joined.setdefault(fits[0], []).append(row)
        else:
            apart.append(row)
    groups = [
        Group(
            members[0].record.protocol,
            (*_placed(members), *(_daggered(row) for row in joined.get(place, ()))),
        )
        for place, members in enumerate(known)
    ]
    if apart:
        groups.append(Group(apart[0].record.protocol, tuple(map(_daggered, apart))))
    return groups


def _placed(rows: Sequence[BoardRow]) -> list[BoardRow]:
    """Rows of one group, the best first, with the places that their intervals allow."""
    placed = []
    for row in rows:
        if row.record.value is None:
            placed.append(row)
            continue
        better = worse = 0
        ties = []
        for other in rows:
            if other is row or other.record.value is None:
                continue
            gap = distinguishable(row, other)
            if gap is None:
                ties.append(other.id)
            elif gap > 0:
                better += 1
            else:
                worse += 1
        count = sum(one.record.value is not None for one in rows)
        placed.append(replace(row, places=(1 + better, count - worse), ties=tuple(sorted(ties))))
    return placed


def distinguishable(row: BoardRow, other: BoardRow) -> float | None:
    """How much better `other` is; None where the two are a tie, or nothing says that they are not.

    A gap counts when it exceeds its 95 % interval (paired where both are runs that share noise)
    and, of FID, 1.3 % of the larger value.
    """
    met = compare_records(row.entry, other.entry, Meeting(row.record, other.record, None))
    found = met.difference
    if not met.comparability.ranked or found is None or found.holds_zero is not False:
        return None
    values = (row.record.value or 0.0, other.record.value or 0.0)
    if _is_near(row.record.metric, *values):
        return None
    return found.value if row.record.better == "higher" else -found.value


def _is_near(metric: str, a: float, b: float) -> bool:
    """Whether a gap of FID is under what another training seed gives."""
    return metric == "fid" and abs(a - b) < RETRAINING_PERCENT / 100 * max(abs(a), abs(b))


def _daggered(row: BoardRow) -> BoardRow:
    unknown = comparability(_side(row), _side(row)).unknown
    return replace(row, dagger=tuple(relation.field for relation in unknown))


def _relation(a: BoardRow, b: BoardRow) -> Comparability:
    return comparability(_side(a), _side(b))


def _side(row: BoardRow) -> Side:
    return side_of(row.record, row.entry.plan)


def _order(row: BoardRow) -> tuple[bool, float, str, str]:
    value = row.record.value
    ranked = 0.0 if value is None else value
    ranked = -ranked if row.record.better == "higher" else ranked
    return value is None, ranked, row.id, row.entry.where


def _section_of_group(group: Group) -> tuple[str, str]:
    """(key, title): a named protocol at a size where the group is just that."""
    row, protocol = group.rows[0], group.protocol
    display = row.record.display
    name, size = row.record.protocol_name, row.settings.resolution
    standard = protocol.num_samples == Claim.model_fields["num_samples"].default
    if name and size and standard and is_by_protocol(row.record, name):
        return _named(protocol.metric, name, size)
    against = f" against {row.record.reference}" if row.record.reference else ""
    title = f"{display}, {name or 'no named protocol'}{against}"
    key = f"{protocol.metric}/{title}/{canonical_json(_measured(row.record)).decode()}"
    return key, title


def _measured(record: Record) -> list[Any]:
    return [measurement_key(record).decode(), record.protocol.num_samples]


def _named(metric: str, name: str, resolution: int) -> tuple[str, str]:
    spec = load_spec(ProtocolSpec, name)
    short = load_spec(ExtractorSpec, spec.extractor).short if spec.extractor else ""
    display = f"{short}{METRICS[metric].display}-50K"
    return f"{metric}/{name}/{resolution}", f"{display}, {spec.title}, {resolution} x {resolution}"


def _claim_groups(metric: str, claims: Iterable[Claim]) -> list[ClaimGroup]:
    found: dict[tuple[str, int, int, str], list[tuple[float, Claim]]] = {}
    for claim in claims:
        value = claim.figure(metric)
        if value is not None:
            key = (claim.dataset, claim.resolution, claim.num_samples, claim.protocol)
            found.setdefault(key, []).append((value, claim))
    higher = metric in METRICS and METRICS[metric].better == "higher"
    groups = []
    for key, members in sorted(found.items()):
        members.sort(key=lambda one: (-one[0] if higher else one[0], one[1].model, one[1].source))
        rows = [
            ClaimRow(
                claim,
                value,
                settings_of_claim(claim),
                tuple(c.model for v, c in members if c is not claim and _is_near(metric, v, value)),
            )
            for value, claim in members
        ]
        groups.append(ClaimGroup(key[3], tuple(rows)))
    return groups


def _section_of_claims(metric: str, group: ClaimGroup) -> tuple[str, str]:
    claim = group.rows[0].claim
    name = claim.protocol_of(metric)
    standard = claim.num_samples == Claim.model_fields["num_samples"].default
    if name in names_of(ProtocolSpec) and standard:
        spec = load_spec(ProtocolSpec, str(name))
        if metric in spec.metrics:
            return _named(metric, str(name), claim.resolution)
    display = METRICS[metric].display if metric in METRICS else metric
    title = f"{display}, {group.words}, {claim.dataset} {claim.resolution} x {claim.resolution}"
    return f"{metric}/claims/{title}", title
