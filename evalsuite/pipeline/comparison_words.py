"""A comparison in words that cannot be misread, and as JSON.

No sentence says that one input is better: an interval of sampling is not about methods.
"""

import math
from collections.abc import Sequence
from typing import Any

from evalsuite.artifacts.plan_fields import differing_fields
from evalsuite.artifacts.records import UNSEALED, Record, warnings_by_reference
from evalsuite.config import Plan
from evalsuite.pipeline.comparability import Comparability, Relation
from evalsuite.pipeline.comparison import Comparison, Difference, Row
from evalsuite.pipeline.comparison_inputs import Entry

RETRAINING_PERCENT = 1.3
"""Gaps of FID under so many percent are what another training seed gives.

Source: Dufour, Efros and Perez 2026, "The FID Lottery" (arXiv 2606.20536), its abstract: gaps under
about 1.3 % are inconclusive, and retraining moves FID 3.2 times as much as resampling.
"""
RETRAINING = (
    f"retraining typically moves FID by about {RETRAINING_PERCENT} %, so this is not evidence for a"
    " method unless the gap exceeds that or several training seeds are grouped (--group-by)"
)
_UNBIASED = frozenset({"kid"})


def statement(row: Row) -> str:
    """One sentence on a row: what differs by how much, and what that does not say."""
    name = row.meeting.a.display
    if row.comparability.refusals:
        return f"{name}: {refusal(row)}"
    difference = row.difference
    if difference is None:
        return f"{name}: undefined for {' and '.join(_undefined(row))}"
    value, width = amounts(difference)
    said = f"{name}: {subject(row.a.plan, row.b.plan)} differ by {value}"
    why = "; ".join(difference.why)
    if width is None:
        return f"{said} ({row.b.name} - {row.a.name}) at {_count(row)}; {why}"
    limits = "sampling only" + (
        "" if row.metric in _UNBIASED else "; bias at finite N is not removed"
    )
    text = f"{said} ± {width} ({row.b.name} - {row.a.name}) at {_count(row)}"
    return f"{text} (95 %; {limits}; {why}){_reading(row)}"


def amounts(difference: Difference) -> tuple[str, str | None]:
    """A difference with its sign and the half width of its interval, both as text.

    Four decimals, or as many as two digits of the half width need.
    """
    width = difference.half_width
    if not width:
        return f"{difference.value:+.4f}", None if width is None else f"{width:.4f}"
    decimals = min(max(4, 1 - math.floor(math.log10(width))), 12)
    return f"{difference.value:+.{decimals}f}", f"{width:.{decimals}f}"


def refusal(row: Row) -> str:
    """Why two records are not compared: each field with the size of its effect."""
    listed = "; ".join(map(caveat_of, row.comparability.refusals))
    return f"{row.a.name} and {row.b.name} are not compared: {listed}"


def _reading(row: Row) -> str:
    """What the interval says, where the two may be read against each other at all."""
    difference = row.difference
    if difference is None or not row.comparability.ranked:
        return ""
    if row.a.plan and row.b.plan and _are_replicates(row.a.plan, row.b.plan):
        return "; both have one expectation, so all of it is sampling"
    if difference.holds_zero:
        return "; the interval holds 0: no difference is shown"
    return "; the interval does not hold 0"


def subject(a: Plan | None, b: Plan | None) -> str:
    """What a difference is between."""
    if a is None or b is None:
        return "these two sets of images"
    if _are_replicates(a, b):
        return "two results of one plan" if a == b else "these two replicates of one plan"
    if (a.weights_sha256, a.ema) != (b.weights_sha256, b.ema):
        return "these two sets of weights"
    return "these two settings of one set of weights"


def _are_replicates(a: Plan, b: Plan) -> bool:
    return differing_fields(a, b).keys() <= {"first_seed"}


def _count(row: Row) -> str:
    counts = [record.protocol.num_samples for record in (row.meeting.a, row.meeting.b)]
    if counts[0] == counts[1]:
        return f"N = {counts[0]:,}"
    return f"N = {counts[0]:,} and {counts[1]:,}"


def _undefined(row: Row) -> list[str]:
    sides = ((row.a, row.meeting.a), (row.b, row.meeting.b))
    return [entry.name for entry, record in sides if record.value is None]


def footnotes(found: Comparability) -> list[str]:
    """Lines below a row: daggers, caveats of allowed differences, and remarks."""
    lines = []
    if found.unknown:
        listed = "; ".join(f"{r.field} ({r.a}, {r.b})" for r in found.unknown)
        lines.append(f"† not ranked, because it is unknown: {listed}; --declare states it")
    lines += [f"allowed, not ranked: {caveat_of(relation)}" for relation in found.caveats]
    lines += [f"{r.field} ({r.a}, {r.b}): {r.effect}" for r in found.remarks]
    return lines


def gap_percent(row: Row) -> float | None:
    """The gap of FID in percent of the first value; None of another metric."""
    value = row.meeting.a.value
    if row.metric != "fid" or row.difference is None or not value or value <= 0:
        return None
    return 100 * abs(row.difference.value) / value


def closing(rows: Sequence[Row]) -> list[str]:
    """What stands below all rows: records without hashes, and what another training seed does."""
    gaps = [(row, gap_percent(row)) for row in rows]
    lines = [
        f"{row.meeting.a.display}: the gap of {row.a.name} and {row.b.name} is {gap:.1f} % of"
        f" {row.a.name}"
        for row, gap in gaps
        if gap is not None and row.comparability.ranked
    ]
    lines = [*_without_hashes(rows), *lines]
    return [*lines, RETRAINING] if any(row.difference for row in rows) else lines


def _without_hashes(rows: Sequence[Row]) -> list[str]:
    sides = [side for row in rows for side in ((row.a, row.meeting.a), (row.b, row.meeting.b))]
    lines = (
        f"{record.display} of {entry.name} has {UNSEALED}"
        for entry, record in sides
        if not record.is_sealed
    )
    return list(dict.fromkeys(lines))


def plan_differences(a: Entry, b: Entry) -> list[str] | None:
    """What is compared: `sampling.guidance_scale: 1.5, 3.0`; None when one has no plan."""
    if a.plan is None or b.plan is None:
        return None
    found = differing_fields(a.plan, b.plan)
    return [f"{key}: {_short(x)}, {_short(y)}" for key, (x, y) in found.items()]


def _short(value: object) -> str:
    text = str(value)
    return f"{text[:12]}..." if len(text) == 64 else text


def payload(found: Comparison) -> dict[str, Any]:
    """What `--json` writes of a comparison."""
    others = [entry for entry in found.entries if entry.name != found.base.name]
    return {
        "against": found.base.name,
        "inputs": [
            {
                "name": entry.name,
                "path": entry.where,
                "model": entry.model,
                "plan_id": entry.plan.plan_id if entry.plan else None,
                "tags": dict(entry.tags),
            }
            for entry in found.entries
        ],
        "plan_differences": {e.name: plan_differences(found.base, e) for e in others},
        "rows": [_row_payload(row) for row in found.rows],
        "references": warnings_by_reference(records_of(found.rows)),
        "missing": list(found.missing),
        "retraining": RETRAINING,
    }


def records_of(rows: Sequence[Row]) -> list[Record]:
    """What met in these rows."""
    return [record for row in rows for record in (row.meeting.a, row.meeting.b)]


def _row_payload(row: Row) -> dict[str, Any]:
    difference, related = row.difference, row.comparability
    width = difference.half_width if difference else None
    return {
        "metric": row.metric,
        "a": _record_payload(row.a, row.meeting.a),
        "b": _record_payload(row.b, row.meeting.b),
        "difference": difference.value if difference else None,
        "standard_error": difference.standard_error if difference else None,
        "interval_95": [difference.value - width, difference.value + width]
        if difference and width is not None
        else None,
        "paired": difference.paired if difference else None,
        "interval_holds_zero": difference.holds_zero if difference and related.ranked else None,
        "why": list(difference.why) if difference else [],
        "gap_percent": gap_percent(row),
        "statement": statement(row),
        "samples_share": str(row.sharing),
        "chosen": row.meeting.chosen,
        **comparability_payload(related),
    }


def comparability_payload(found: Comparability) -> dict[str, Any]:
    """Relations of two records, as `--json` has them."""
    return {
        "refused": bool(found.refusals),
        "ranked": found.ranked,
        "dagger": [relation.field for relation in found.unknown],
        "footnotes": footnotes(found),
        "caveats": [caveat_of(relation) for relation in found.caveats],
        "relations": [
            {**relation._asdict(), "kind": str(relation.kind)} for relation in found.relations
        ],
    }


def caveat_of(relation: Relation) -> str:
    """`label_rule differs (modulo, random:0): ...`."""
    return f"{relation.field} differs ({relation.a}, {relation.b}): {relation.effect}"


def _record_payload(entry: Entry, record: Record) -> dict[str, Any]:
    return {
        "input": entry.name,
        "display": record.display,
        "value": record.value,
        "standard_error": record.standard_error,
        "num_samples": record.protocol.num_samples,
        "protocol_id": record.protocol_id,
        "protocol_name": record.protocol_name,
        "declared": dict(record.declared),
        "record_sha256": record.record_sha256,
    }
