"""Results as text: table rows, and the one line that goes into a paper or a chat."""

from collections.abc import Sequence
from typing import NamedTuple

from evalsuite.artifacts.records import Record
from evalsuite.config import Plan
from evalsuite.sampling.sampler import count_nfe


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


def number(value: float | None) -> str:
    """Four decimals; `undefined` for None."""
    return "undefined" if value is None else f"{value:.4f}"


def paste_line(plan: Plan, model: str, num_samples: int, records: Sequence[Record]) -> str:
    """One line with everything that a reader needs to compare the numbers."""
    sampling = plan.sampling
    values = ", ".join(
        f"{r.display} {number(r.value)}"
        + (f" ± {r.standard_error:.4f}" if r.standard_error else "")
        for r in records
    )
    references = sorted({r.reference for r in records if r.reference})
    order = f"-{sampling.order}" if sampling.order else ""
    low, high = sampling.guidance_interval
    bracket = "({:g}, {:g})" if sampling.interval_ends == "open" else "[{:g}, {:g}]"
    guidance = f"guidance {sampling.guidance_scale:g} on t in {bracket.format(low, high)}"
    parts = [
        f"{model}: {values}",
        f"reference {', '.join(references) or 'none'}",
        f"labels {plan.labels.describe()}"
        + ("" if plan.classes is None else f" of {plan.classes}"),
        f"{plan.size[0]}x{plan.size[1]}",
        f"{sampling.solver}{order} {sampling.num_steps} steps, NFE {count_nfe(sampling)}",
        guidance,
        f"time shift {sampling.timeshift:g}",
        f"weights {plan.ema} {plan.weights_sha256[:8]}",
        sampling.dtype,
        f"seeds {plan.first_seed}..{plan.first_seed + num_samples - 1}",
        f"plan {plan.plan_id[:12]}",
    ]
    parts += [f"{name} {value}" for name, value in unusual_settings(plan).items()]
    if any(record.samples.get("mixed_numerics") for record in records):
        parts.append("samples of MIXED numerics")
    return "; ".join(parts)


def unusual_settings(plan: Plan) -> dict[str, str]:
    """Settings that most plans leave alone, where this one does not."""
    sampling = plan.sampling
    unusual = {
        "noise scale": f"{sampling.noise_scale:g}" if sampling.noise_scale != 1 else "",
        "last step": f"{sampling.last_step:g}" if sampling.last_step is not None else "",
        "step": sampling.step if sampling.step != "ode" else "",
        "unguided passes": "" if sampling.skip_unguided else "doubled",
    }
    return {name: value for name, value in unusual.items() if value}
