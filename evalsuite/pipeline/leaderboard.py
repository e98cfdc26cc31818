"""The sections of a leaderboard: groups of results, and the claims that stand beside them.

Claims never have places among our rows.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from evalsuite.artifacts.records import UNSEALED, Record, contradiction
from evalsuite.config import (
    FIGURES,
    Claim,
    ExtractorSpec,
    ProtocolSpec,
    canonical_json,
    load_spec,
    names_of,
)
from evalsuite.errors import DataError, UsageError
from evalsuite.metrics.registry import METRICS
from evalsuite.pipeline.claims import (
    Reproduction,
    Settings,
    beside_claim,
    class_counts,
    contradicts,
    settings_of,
    settings_of_claim,
)
from evalsuite.pipeline.comparison_inputs import Entry
from evalsuite.pipeline.places import BoardRow, Group, grouped, is_near, measured
from evalsuite.pipeline.registered import is_by_protocol


class ClaimRow(NamedTuple):
    """One claimed figure, and of FID the others of its group that are within 1.3 % of it.

    Of no other metric has anyone measured which gaps another training gives.
    """

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
        DataError: two records give one plan two values or standard errors by one protocol, of
            samples of the same numerics.
        CorruptionError: influence values that do not belong to their record.
    """
    if not entries and not claims:
        raise UsageError("nothing to show: give runs or records, or leave out --published none")
    groups: dict[str, list[Group]] = {}
    titles: dict[str, tuple[str, str]] = {}
    claimed: dict[str, list[ClaimGroup]] = {}
    for metric in FIGURES:
        for found in _claim_groups(metric, claims):
            key, title = _section_of_claims(metric, found)
            titles.setdefault(key, (title, metric))
            claimed.setdefault(key, []).append(found)
    for group in grouped(_rows(entries, claims)):
        key, title = _section_of_group(group, claimed)
        titles.setdefault(key, (title, group.protocol.metric))
        groups.setdefault(key, []).append(group)
    order = {name: place for place, name in enumerate(METRICS)}
    sections = [
        Section(key, title, metric, tuple(groups.get(key, ())), tuple(claimed.get(key, ())))
        for key, (title, metric) in titles.items()
    ]
    return _told_apart(
        sorted(
            sections,
            key=lambda s: (order.get(s.metric, len(order)), s.metric, -_count(s), s.title, s.key),
        )
    )


def _told_apart(sections: Sequence[Section]) -> list[Section]:
    """The sections with an id and a title for each group, and titles that stand once.

    Ids are protocol ids; groups that share one differ in what was declared, and are numbered.
    """
    titles = Counter(section.title for section in sections)
    ids: Counter[str] = Counter()
    found = []
    for section in sections:
        groups = []
        for group in section.groups:
            own = min(row.record.protocol_id for row in group.rows)
            ids[own] += 1
            groups.append(group._replace(id=own if ids[own] == 1 else f"{own}-{ids[own]}"))
        title = section.title
        if titles[title] > 1 and groups:
            title = f"{title} [{groups[0].id}]"
        several = len(groups) > 1
        named = [one._replace(title=f"{title} [{one.id}]" if several else title) for one in groups]
        found.append(section._replace(title=title, groups=tuple(named)))
    return found


def stands_beside(group: Group, claims: ClaimGroup) -> bool:
    """Whether claims of a section may share a figure with one of its groups.

    Not where their labels are known to be of another kind: that alone moves FID.
    """
    rule = group.protocol.label_rule
    return not any(contradicts(rule, row.claim) for row in claims.rows)


def _count(section: Section) -> int:
    """N of its results; 0 of claims alone, which come last."""
    return section.groups[0].protocol.num_samples if section.groups else 0


def _rows(entries: Sequence[Entry], claims: Sequence[Claim]) -> list[BoardRow]:
    """All records as rows; one that was only scored again stands once, by its last sealed scoring.

    The same plan gives the same bits within one kind of machine alone, so samples of other numerics
    are other rows.

    Raises:
        DataError: two records contradict each other.
    """
    rows: dict[tuple[str, str, bytes], list[BoardRow]] = {}
    every: dict[tuple[str, str, bytes], list[BoardRow]] = {}
    for entry in entries:
        settings = settings_of(entry.plan, entry.model)
        theirs = [claim for claim in claims if entry.model and claim.preset == entry.model]
        for record in entry.records:
            row = BoardRow(entry, record, settings, beside=_beside(entry, record, theirs))
            pixels = record.samples.get("pixels_digest")
            apart = canonical_json([record.declared, record.numerics_ids, pixels])
            key = (row.id, record.protocol_id, apart)
            _check_no_conflict(every.setdefault(key, []), row)
            every[key].append(row)
            alike = rows.setdefault(key, [])
            again = next((r for r in alike if contradiction(r.record, record) is None), None)
            if again is None:
                alike.append(row)
            elif _standing(again.record) < _standing(record):
                alike[alike.index(again)] = row
    return [row for alike in rows.values() for row in alike]


def _beside(entry: Entry, record: Record, claims: Sequence[Claim]) -> tuple[Reproduction, ...]:
    """A record beside those of the claims that say something of its metric."""
    run = entry.run
    counts = None if run is None else class_counts(run, record.protocol.num_samples)
    found = (beside_claim(record, entry.plan, entry.model, one, counts=counts) for one in claims)
    beside = tuple(one for one in found if one is not None)
    if record.is_sealed:
        return beside
    said = f"the record has {UNSEALED}"
    return tuple(one._replace(obstacles=(*one.obstacles, said)) for one in beside)


def _standing(record: Record) -> tuple[bool, bool, str]:
    """By which one of several scorings with one value is shown."""
    return record.is_sealed, record.standard_error is not None, record.created_at


def _check_no_conflict(before: Sequence[BoardRow], row: BoardRow) -> None:
    """Raise DataError where the plan of a row has other numbers by protocol and numerics."""
    for first in before if row.record.samples.get("plan_id") else ():
        differing = contradiction(first.record, row.record)
        if differing is not None:
            raise DataError(
                f"{first.entry.where} and {row.entry.where} contradict each other on"
                f" {row.record.display} of plan {row.id}: {differing}: leave one out, or score it"
                " again"
            )


def _section_of_group(group: Group, claimed: Collection[str]) -> tuple[str, str]:
    """(key, title): a named protocol at a size where the group is just that.

    A number may be by several: the first that has claims decides, else the first. No row's name
    alone decides, so a new best row moves no group.
    """
    protocol, records = group.protocol, [row.record for row in group.rows]
    given = {name for record in records for name in record.protocol_names if name}
    names = [*(n for n in names_of(ProtocolSpec) if n in given), *sorted(given)]
    sizes = {row.settings.resolution for row in group.rows} - {None}
    standard = protocol.num_samples == Claim.model_fields["num_samples"].default
    if len(sizes) == 1 and standard:
        size = next(iter(sizes))
        by = [n for n in names if any(is_by_protocol(record, n) for record in records)]
        found = [_named(protocol.metric, n, int(size or 0)) for n in by]
        if found:
            return next((one for one in found if one[0] in claimed), found[0])
    reference = min((r.reference for r in records if r.reference), default=None)
    against = f" against {reference}" if reference else ""
    named = next(iter(names), "no named protocol")
    title = f"{min(record.display for record in records)}, {named}{against}"
    key = f"{protocol.metric}/{title}/{canonical_json(measured(records[0])).decode()}"
    return key, title


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
                tuple(c.model for v, c in members if c is not claim and is_near(metric, v, value)),
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
