"""Results as text: table rows, and the one line that goes into a paper or a chat."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from evalsuite.artifacts.records import UNSEALED, Record, warnings_by_reference
from evalsuite.config import Plan
from evalsuite.sampling.describe import (
    describe_conditions,
    describe_dtype,
    describe_sampler,
)
from evalsuite.seeding import seeds_of


class MetricRow(NamedTuple):
    """One row of the table of metrics."""

    name: str
    value: str
    error: str
    extrapolated: str
    notes: tuple[str, ...]


def metric_rows(records: Sequence[Record]) -> list[MetricRow]:
    """Rows for people, in the order of the records."""
    return [
        MetricRow(
            name=record.display,
            value=number(record.value),
            error="" if record.standard_error is None else number(record.standard_error),
            extrapolated="" if record.extrapolated is None else number(record.extrapolated),
            notes=record.notes,
        )
        for record in records
    ]


def reference_lines(records: Iterable[Record]) -> list[str]:
    """One line for each reference: its traps, and what it does not compare with."""
    found = warnings_by_reference(records)
    return [f"reference {name}: {'; '.join(said)}" for name, said in found.items() if said]


def by_protocol(records: Sequence[Record]) -> list[list[Record]]:
    """Records that one named protocol gave, together; names like FID may stand in each."""
    names = dict.fromkeys(name for record in records for name in record.protocol_names)
    return [
        [r.model_copy(update={"protocol_name": name}) for r in records if name in r.protocol_names]
        for name in names
    ]


def number(value: float | None) -> str:
    """Four decimals; `undefined` for None."""
    return "undefined" if value is None else f"{value:.4f}"


def describe_run(plan: Plan, num_samples: int) -> list[str]:
    """What made the first `num_samples` images of a run, in short parts."""
    parts = [
        describe_conditions(plan),
        f"{plan.size[0]}x{plan.size[1]}",
        *describe_sampler(plan),
        f"weights {plan.ema} {plan.weights_sha256[:8]}",
        describe_dtype(plan),
        f"seeds {plan.first_seed}..{seeds_of(plan, num_samples - 1, num_samples)[0]}",
        f"plan {plan.plan_id[:12]}",
    ]
    return [part for part in parts if part]


def paste_line(plan: Plan, model: str, num_samples: int, records: Sequence[Record]) -> str:
    """One line with everything that a reader needs to compare the numbers."""
    values = ", ".join(
        f"{r.display} {number(r.value)}"
        + (f" ± {r.standard_error:.4f}" if r.standard_error else "")
        for r in records
    )
    references = sorted({r.reference for r in records if r.reference})
    protocols = dict.fromkeys(r.protocol_name for r in records if r.protocol_name)
    parts = [
        f"{model}: {values}",
        f"reference {', '.join(references) or 'none'}",
        *(f"protocol {name}" for name in protocols),
        *describe_run(plan, num_samples),
    ]
    if any(record.mixed_numerics for record in records):
        parts.append("samples of MIXED numerics")
    # of records that were read; one that was just computed gets its hash when it is written
    lacking = [record.display for record in records if UNSEALED in record.notes]
    if lacking:
        parts.append(f"{', '.join(lacking)} WITHOUT HASH")
    return "; ".join(part for part in parts if part)
