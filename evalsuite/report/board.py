"""A leaderboard's rows as CSV, Parquet and tables; page and figures show the same rows."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from evalsuite.pipeline.claims import Reproduction, Settings, guidance_text, shown
from evalsuite.pipeline.leaderboard import ClaimGroup, ClaimRow, Section, stands_beside
from evalsuite.pipeline.places import BoardRow, Group, Replicates
from evalsuite.report.summary import number
from evalsuite.report.tables import TextTable

RESULT, CLAIM = "result", "claim"
_TEXT, _NUMBER, _COUNT, _FLAG = pa.string(), pa.float64(), pa.int64(), pa.bool_()
SCHEMA = {
    "section": _TEXT,
    "group": _TEXT,
    "kind": _TEXT,
    "metric": _TEXT,
    "model": _TEXT,
    "value": _NUMBER,
    "standard_error": _NUMBER,
    "num_samples": _COUNT,
    "best_place": _COUNT,
    "worst_place": _COUNT,
    "ties": _TEXT,
    "replicates": _COUNT,
    "mean": _NUMBER,
    "mean_error": _NUMBER,
    "unknown": _TEXT,
    "declared": _TEXT,
    "mixed_numerics": _FLAG,
    "protocol": _TEXT,
    "protocol_id": _TEXT,
    "reference": _TEXT,
    "resolution": _COUNT,
    "params_m": _NUMBER,
    "nfe": _COUNT,
    "guidance": _TEXT,
    "guidance_scale": _NUMBER,
    "timeshift": _NUMBER,
    "solver": _TEXT,
    "compute": _NUMBER,
    "gpu_hours": _NUMBER,
    "plan_id": _TEXT,
    "first_seed": _COUNT,
    "weights_sha256": _TEXT,
    "numerics": _TEXT,
    "record_sha256": _TEXT,
    "source": _TEXT,
    "created_at": _TEXT,
}
"""Columns of `leaderboard.csv` and `leaderboard.parquet`, described in `docs/leaderboard.md`."""
REPRODUCTION_COLUMNS = (
    "section",
    "group",
    "metric",
    "model",
    "plan_id",
    "value",
    "standard_error",
    "claimed",
    "difference",
    "in_errors",
    "band",
    "verdict",
    "no_verdict_because",
    "settings_that_differ",
    "settings_not_stated",
    "claim",
    "source",
)


class Beside(NamedTuple):
    """A result beside a claim of its model, as a board shows them."""

    section: Section
    group: Group
    row: BoardRow
    found: Reproduction


class Remark(NamedTuple):
    """What stands below a table of a row, and the sign by which the row's name points to it."""

    sign: str
    words: str


def flat_rows(sections: Sequence[Section]) -> list[dict[str, Any]]:
    """One mapping for each result and claim, with the keys of `SCHEMA`, in the order of a board."""
    return [one.row for one in plotted(sections)]


class Plotted(NamedTuple):
    """A row, and the titles of the figures that it stands in."""

    row: dict[str, Any]
    figures: tuple[str, ...]


def plotted(sections: Sequence[Section]) -> list[Plotted]:
    """The rows of a board with their figures.

    A figure is of one group: of results, with the claims that stand beside it, or of claims beside
    which there are no results.
    """
    rows = []
    for section in sections:
        for group in section.groups:
            rows += [Plotted(_of_result(section, group, row), (group.title,)) for row in group.rows]
        for claims in section.claims:
            beside = tuple(one.title for one in section.groups if stands_beside(one, claims))
            figures = beside or (claims_title(section, claims),)
            rows += [Plotted(_of_claim(section, claims, row), figures) for row in claims.rows]
    return rows


def claims_title(section: Section, claims: ClaimGroup) -> str:
    """Of a table of claims."""
    return f"{section.title}: claims ({claims.words})"


def reproductions(sections: Sequence[Section]) -> list[Beside]:
    """Results of shipped models beside what was claimed of them, the nearest settings first."""
    return [
        Beside(section, group, row, found)
        for section in sections
        for group in section.groups
        for row in group.rows
        for found in sorted(row.beside, key=_distance)
    ]


def _distance(found: Reproduction) -> tuple[int, int, int]:
    return len(found.obstacles), len(found.differing), len(found.unstated)


def to_csv(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """CSV with one row a line, floats at their shortest, empty where nothing is known."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def to_parquet(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """The same rows with types."""
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows), pa.schema(SCHEMA.items())), sink)
    return sink.getvalue()


def reproduction_rows(found: Sequence[Beside]) -> list[dict[str, Any]]:
    """Mappings with the keys of `REPRODUCTION_COLUMNS`."""
    return [
        {
            "section": one.section.title,
            "group": one.group.id,
            "metric": one.row.record.metric,
            "model": one.row.name,
            "plan_id": one.row.id,
            "value": one.row.record.value,
            "standard_error": one.row.record.standard_error,
            "claimed": one.found.claimed,
            "difference": one.found.difference,
            "in_errors": one.found.in_errors,
            "band": one.found.band,
            "verdict": one.found.verdict,
            "no_verdict_because": "; ".join(one.found.obstacles),
            "settings_that_differ": "; ".join(one.found.differing),
            "settings_not_stated": "; ".join(one.found.unstated),
            "claim": one.found.claim.model,
            "source": one.found.claim.source,
        }
        for one in found
    ]


def board_tables(sections: Sequence[Section]) -> list[TextTable]:
    """A table for each group of results and one for the claims beside it; none mixes the two."""
    tables = []
    headings = (
        *("model", "plan", "solver", "seeds from", "guidance"),
        *("place", "value", "± error", "NFE", "M params", "GPU-hours"),
    )
    for section in sections:
        for group in section.groups:
            cells = [_result_cells(row) for row in group.rows]
            tables.append(TextTable(group.title, headings, cells, 5, _notes(group.rows)))
        for claims in section.claims:
            title = f"{claims_title(section, claims)}, not ranked"
            claimed = [_claim_cells(row) for row in claims.rows]
            columns = ("model", "guidance", "source", "value", "NFE", "M params")
            tables.append(TextTable(title, columns, claimed, 3))
    return tables


def place_text(row: BoardRow) -> str:
    """`1`, `2–4` of rows that cannot be told apart, `†` without a place."""
    if row.dagger:
        return "†"
    if row.places is None:
        return ""
    best, worst = row.places
    return str(best) if best == worst else f"{best}–{worst}"


def _notes(rows: Sequence[BoardRow]) -> list[str]:
    notes = [
        "places such as 1–3 are ties: the gaps are under their intervals, or under 1.3 % of FID"
    ]
    for row in rows:
        what = f"{row.name}, plan {row.id}" if row.entry.plan else row.name
        notes += [f"{one.sign} {what}: {one.words}" for one in remarks(row)]
    found = dict.fromkeys(row.replicates for row in rows if row.replicates is not None)
    return [*notes, *map(replicates_text, found)]


def remarks(row: BoardRow) -> list[Remark]:
    """Everything that a reader must know of a result before its place means what others' do."""
    found = []
    if row.dagger:
        why = "" if row.record.is_sealed else "; without it an edit is not seen: score it again"
        found.append(Remark("†", f"no place, because unknown: {', '.join(row.dagger)}{why}"))
    if row.declared:
        found.append(Remark("‡", f"declared, not verified: {', '.join(row.declared)}"))
    if row.record.mixed_numerics:
        words = "samples of mixed numerics: kinds of machine made them whose last bits may differ"
        found.append(Remark("§", words))
    return found


def signed_name(row: BoardRow) -> str:
    """Its name with the signs of its remarks: `samples.npz ‡`."""
    return " ".join([row.name, *(one.sign for one in remarks(row))])


def replicates_text(found: Replicates) -> str:
    """What is known of one configuration on several ranges of seeds."""
    error = "" if found.standard_error is None else f" ± {number(found.standard_error)}"
    return (
        f"{' and '.join(found.ids)} are one configuration on other seeds: their mean is"
        f" {number(found.mean)}{error}"
    )


def _result_cells(row: BoardRow) -> tuple[str, ...]:
    record, settings = row.record, row.settings
    return (
        signed_name(row),
        row.id if row.entry.plan else "",
        settings_text(row),
        _plain(row.first_seed),
        guidance_text(settings),
        place_text(row),
        number(record.value),
        "" if record.standard_error is None else number(record.standard_error),
        _plain(settings.nfe),
        _plain(settings.params_m),
        _plain(row.gpu_hours),
    )


def _claim_cells(row: ClaimRow) -> tuple[str, ...]:
    guidance = guidance_text(row.settings, row.claim)
    settings = (_plain(row.settings.nfe), _plain(row.settings.params_m))
    return (row.claim.model, guidance, row.claim.source, f"{row.value:g}", *settings)


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _of_result(section: Section, group: Group, row: BoardRow) -> dict[str, Any]:
    record, plan, alike = row.record, row.entry.plan, row.replicates
    best, worst = row.places or (None, None)
    return {
        **_shared(section, group.id, RESULT, row.settings),
        "model": row.name,
        "value": record.value,
        "standard_error": record.standard_error,
        "num_samples": record.protocol.num_samples,
        "best_place": best,
        "worst_place": worst,
        "ties": "; ".join(row.ties),
        "replicates": len(alike.ids) if alike else 1,
        "mean": alike.mean if alike else None,
        "mean_error": alike.standard_error if alike else None,
        "unknown": "; ".join(row.dagger),
        "declared": "; ".join(row.declared),
        "mixed_numerics": record.mixed_numerics,
        "protocol": record.protocol_name,
        "protocol_id": record.protocol_id,
        "reference": record.reference,
        "guidance": guidance_text(row.settings),
        "gpu_hours": row.gpu_hours,
        "plan_id": row.id,
        "first_seed": row.first_seed,
        "weights_sha256": plan.weights_sha256 if plan else None,
        "numerics": "; ".join(record.numerics_ids),
        "record_sha256": record.record_sha256,
        "source": None,
        "created_at": record.created_at,
    }


def _of_claim(section: Section, claims: ClaimGroup, row: ClaimRow) -> dict[str, Any]:
    claim = row.claim
    empty = dict.fromkeys(SCHEMA)
    return empty | {
        **_shared(section, f"claims: {claims.words}", CLAIM, row.settings),
        "model": claim.model,
        "value": row.value,
        "num_samples": claim.num_samples,
        "ties": "; ".join(row.near),
        "protocol": claim.protocol,
        "guidance": guidance_text(row.settings, claim),
        "source": claim.source,
    }


def _shared(section: Section, group: str, kind: str, settings: Settings) -> dict[str, Any]:
    return {
        "section": section.title,
        "group": group,
        "kind": kind,
        "metric": section.metric,
        "resolution": settings.resolution,
        "params_m": settings.params_m,
        "nfe": settings.nfe,
        "guidance_scale": settings.guidance_scale,
        "timeshift": settings.timeshift,
        "solver": settings.solver,
        "compute": compute_of(settings),
    }


def compute_of(settings: Settings) -> float | None:
    """Thousands of millions of parameters times evaluations: a stand-in for compute of one image.

    A guided pair counts once, as papers count, because few claims say where guidance acts.
    """
    if settings.nfe is None or settings.params_m is None:
        return None
    return settings.nfe * settings.params_m / 1000


def settings_text(row: BoardRow) -> str:
    """Solver and time shift in a few words, and what tells it from other rows of its id."""
    shift = row.settings.timeshift
    words = None if shift in {None, 1.0} else f"time shift {shown(shift)}"
    parts = (row.settings.solver, words, row.apart)
    return ", ".join(part for part in parts if part)
