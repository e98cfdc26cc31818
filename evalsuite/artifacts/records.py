"""Records: one metric's number with the protocol that says what it may be compared with."""

import hashlib
import html
import math
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from pydantic import Field, Strict, field_validator

from evalsuite.config import Frozen, canonical_json

RECORD_SCHEMA = 1
Detail = str | int | float | bool | None
Spent = Annotated[int, Strict()] | Annotated[float, Strict()] | None
"""Hours, seconds, joules or money; None where nobody measured."""
_TEXTS = ("run", "plan_id", "model", "path", "pixels_digest")
"""What `samples` says in text, where it says it."""
UNSEALED = "no record_sha256, so an edit of it is not seen: score it again"
"""What a record lacks that was written without its hash, or lost it."""


class Protocol(Frozen):
    """Everything besides the pixels that decides one metric's number.

    Measurement fields must be equal when two records meet; sampling fields may be unknown (None).
    """

    metric: str
    num_samples: int
    extractor: str
    extractor_sha256: str
    resize: str
    precision: str
    backend: str
    reference_sha256: str | None
    """Of the reference's moments or images, whichever the metric uses; None when it uses none."""
    details: dict[str, Detail]
    """The metric's own fields: splits, order, k, arithmetic."""
    label_rule: str | None
    uint8_rule: str | None
    codec: str | None
    sample_resize: str | None = None
    """Rule by which samples were resized before anything else; None when they were not."""

    @property
    def protocol_id(self) -> str:
        """First 16 hexadecimal digits of the SHA-256 of its JSON, absent rules left out."""
        fields = self.model_dump(mode="json")
        if self.sample_resize is None:
            del fields["sample_resize"]
        return hashlib.sha256(canonical_json(fields)).hexdigest()[:16]


class Record(Frozen):
    """One result with its protocol, its error, its provenance and its cost."""

    schema_version: int = RECORD_SCHEMA
    metric: str
    display: str
    """As it stands in tables: `digits-FID-2K`."""
    better: str
    value: float | None
    """None when the metric is undefined (NaN); `notes` says why."""
    standard_error: float | None
    extrapolated: float | None
    notes: tuple[str, ...]
    protocol: Protocol
    protocol_id: str
    protocol_name: str | None = None
    """Named protocol that it was computed by; the numbers depend on `protocol` alone."""
    also_of: tuple[str, ...] = ()
    """Other named protocols that were asked for the same number."""
    declared: dict[str, str] = Field(default_factory=dict)
    """Sampling fields that nobody knows and the user stated: kept, not verified, in no id."""
    reference: str | None
    reference_warnings: tuple[str, ...] = ()
    """Traps of the reference, and what its numbers do not compare with, as its registry says."""
    samples: dict[str, Any]
    """What was scored: run, plan_id, model and settings, or the path of outside samples."""
    provenance: dict[str, Any]
    cost: dict[str, Spent]
    created_at: str
    record_sha256: str | None = None
    """Of everything else in it, so that an edited file is found; None of older records. It guards
    against slips, not against someone who computes it again: it is a hash, not a signature."""

    @field_validator("samples")
    @classmethod
    def _named_in_text(cls, samples: dict[str, Any]) -> dict[str, Any]:
        for key in _TEXTS:
            if not isinstance(samples.get(key), str | None):
                raise ValueError(f"samples.{key} must be text")
        return samples

    def sealed(self) -> "Record":
        """The same record with its hash."""
        digest = record_digest(self.model_dump(mode="json"))
        return self.model_copy(update={"record_sha256": digest})

    @property
    def is_sealed(self) -> bool:
        """Whether it has its hash, so that an edit is found."""
        return self.record_sha256 is not None

    @property
    def protocol_names(self) -> tuple[str | None, ...]:
        """All named protocols whose number this is."""
        return (self.protocol_name, *self.also_of)

    @property
    def numerics_ids(self) -> tuple[str, ...]:
        """Kinds of machine whose bits its samples are; empty where nobody recorded them."""
        found = self.samples.get("numerics_ids")
        return tuple(map(str, found)) if isinstance(found, list) else ()

    @property
    def mixed_numerics(self) -> bool | None:
        """Whether several kinds of machine made its samples; None where nobody recorded it."""
        stated = self.samples.get("mixed_numerics")
        if stated is True or len(self.numerics_ids) > 1:
            return True
        return False if stated is False or self.numerics_ids else None

    @property
    def path(self) -> str:
        """Place in a run directory."""
        return f"results/{self.metric}-{self.protocol_id}.json"

    @property
    def influence_path(self) -> str:
        """Place of its influence values for paired comparisons; not every record has them."""
        return f"results/{self.metric}-{self.protocol_id}.npy"

    def _repr_html_(self) -> str:
        """For notebooks: the number and what it may be compared by, escaped."""
        error = "" if self.standard_error is None else f" ± {self.standard_error:.4f}"
        facts = {
            self.display: "undefined" if self.value is None else f"{self.value:.4f}{error}",
            "samples": f"{self.protocol.num_samples:,}",
            "protocol": f"{self.protocol_name or ''} {self.protocol_id}".strip(),
            "reference": self.reference or "none",
            "of": str(self.samples.get("run") or self.samples.get("path") or "unknown"),
            "declared, not verified": ", ".join(map(" ".join, self.declared.items())),
            "notes": "; ".join(self.notes),
        }
        rows = "".join(
            f"<tr><th>{html.escape(name)}</th><td>{html.escape(text)}</td></tr>"
            for name, text in facts.items()
            if text
        )
        return f"<table>{rows}</table>"


def record_digest(content: Mapping[str, Any]) -> str:
    """SHA-256 of a record's canonical JSON, its own hash left out."""
    fields = {key: value for key, value in content.items() if key != "record_sha256"}
    return hashlib.sha256(canonical_json(fields)).hexdigest()


def warnings_by_reference(records: Iterable[Record]) -> dict[str, list[str]]:
    """What the registry warns of, once for each reference of these records."""
    used = {r.reference: r.reference_warnings for r in records if r.reference is not None}
    return {name: list(said) for name, said in sorted(used.items())}


def same_number(a: float | None, b: float | None) -> bool:
    """Whether two computations of one number agree as far as is promised: 1e-9 relative."""
    return a == b if a is None or b is None else math.isclose(a, b, rel_tol=1e-9)


def contradiction(first: Record, second: Record) -> str | None:
    """The first number in which two scorings of the same samples by one protocol disagree.

    Values agree as far as is promised. Standard errors rest on roots of covariances, of which the
    last digits depend on the machine, and need fewer. What one version gave beside a value and
    another does not is no contradiction; what was spent may be anything.

    Returns:
        `standard_error (0.01, 0.0)`, or None where they agree.
    """
    for name, tolerance in (("value", 1e-9), ("standard_error", 1e-6), ("extrapolated", 1e-6)):
        a, b = getattr(first, name), getattr(second, name)
        if None in (a, b):
            if name == "value" and a is not b:
                return f"{name} ({a}, {b})"
        elif not math.isclose(a, b, rel_tol=tolerance):
            return f"{name} ({a}, {b})"
    return None


def finite_or_none(value: float | None) -> float | None:
    """The value, or None for NaN and infinities, which JSON cannot hold."""
    return value if value is not None and math.isfinite(value) else None


def short_count(count: int) -> str:
    """`50K` for 50000, `2K` for 2000, `1536` for 1536."""
    return f"{count // 1000}K" if count >= 1000 and count % 1000 == 0 else str(count)
