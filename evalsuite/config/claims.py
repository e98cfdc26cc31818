"""Published figures: claims of papers and repositories, each with its source.

They stand in `configs/leaderboard/published.csv`. Contradicting claims are separate rows.
"""

import csv
import io
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from evalsuite.config.base import Frozen
from evalsuite.config.loading import data_root, explain, names_of
from evalsuite.config.presets import ModelPreset, PublishedResult
from evalsuite.config.protocols import ProtocolSpec
from evalsuite.errors import ConfigError, UsageError, nearest

_COLUMNS = {"is": "inception_score"}
"""Names of columns that are not those of their fields."""
NUM_SAMPLES = 50_000
"""Of a claim that does not say otherwise: what all protocols of the field count."""
_OPTIONAL = frozenset({"preset", "checkpoint", "num_samples"})
"""Columns that a table of claims may lack."""
_PROTOCOLS = {"adm-tf": "adm"}
"""Named protocols by the first word of a claim's own, where it is another."""
FIGURES = ("fid", "sfid", "inception_score", "precision", "recall")
"""Metrics that a claim may give."""


class Claim(Frozen):
    """One row of published figures; None where its source does not say."""

    preset: str | None
    """The shipped model whose weights or settings it is about."""
    checkpoint: Literal["released", "other", "unreleased"] | None = None
    """Of which weights: those that were released of the preset, others of the same network, or of a
    model of which none were; None where no source says."""
    model: str = Field(min_length=1)
    """As its source names it, with the training and the sampler."""
    dataset: str
    resolution: int = Field(ge=1)
    params_m: float | None = Field(gt=0)
    """Parameters in millions."""
    nfe: int | None = Field(ge=1)
    """Evaluations along the solver, a guided pair counted once."""
    num_samples: int = Field(default=NUM_SAMPLES, ge=1)
    guidance: str | None
    """The scale, or what stands for one: classifier, swept, autoguidance."""
    guidance_interval: str | None
    timeshift: float | None = Field(gt=0)
    fid: float | None = Field(ge=0)
    sfid: float | None = Field(ge=0)
    inception_score: float | None = Field(ge=1)
    precision: float | None = Field(ge=0, le=1)
    recall: float | None = Field(ge=0, le=1)
    protocol: str = Field(min_length=1)
    """In words: evaluator, reference, labels where they are stated."""
    source: str = Field(min_length=1)

    def protocol_of(self, metric: str) -> str | None:
        """The named protocol that its words mean for a metric.

        None for quotes and programs of their own, and where it says that another program gave it.
        """
        if metric == "inception_score" and "IS by" in self.protocol:
            return None
        word = next(iter(self.protocol.replace(";", " ").split()), "")
        name = _PROTOCOLS.get(word, word)
        return name if name in names_of(ProtocolSpec) else None

    @property
    def label_rule(self) -> str | None:
        """`random` or `balanced` where the claim says so."""
        for rule in ("random", "balanced"):
            if f"{rule} labels" in self.protocol:
                return rule
        return "balanced" if "50 per class" in self.protocol else None

    @property
    def guidance_scale(self) -> float | None:
        """The scale, where it is a number."""
        try:
            scale = float(self.guidance or "")
        except ValueError:
            return None
        return scale if math.isfinite(scale) else None

    def figure(self, metric: str) -> float | None:
        """What it claims for a metric."""
        return getattr(self, metric) if metric in FIGURES else None


def load_claims(path: Path | None = None) -> tuple[Claim, ...]:
    """All claims of a CSV file, in its order; of the shipped one by default.

    Raises:
        UsageError: there is no such file.
        ConfigError: no rows, a wrong column, or a value that cannot be; the line names it.
    """
    path = path or data_root() / "configs" / "leaderboard" / "published.csv"
    if not path.is_file():
        raise UsageError(f"{path} does not exist: give a CSV of claims, or leave it out")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: give a CSV of claims") from error
    reader = csv.DictReader(io.StringIO(text, newline=""), restkey="", restval=None)
    known = {name: name for name in Claim.model_fields} | {v: k for k, v in _COLUMNS.items()}
    columns = [_COLUMNS.get(name, name) for name in reader.fieldnames or ()]
    for wanted, shown in known.items():
        if wanted not in columns and wanted not in _OPTIONAL:
            raise ConfigError(f"{path} has no column {shown!r}")
    for found in columns:
        if found not in known:
            raise ConfigError(f"{path}: unknown column {found!r}: {nearest(found, known)}")
    try:
        claims = tuple(_claim(row, f"{path}:{reader.line_num}") for row in reader)
    except csv.Error as error:
        raise ConfigError(f"{path}:{reader.line_num} is no CSV: {error}") from error
    if not claims:
        raise ConfigError(f"{path} holds no claims: give a CSV with rows, or --published none")
    return claims


def _claim(row: dict[str, Any], where: str) -> Claim:
    if "" in row:
        raise ConfigError(f"{where} has more cells than the heading")
    cells = {_COLUMNS.get(name, name): (text or "").strip() or None for name, text in row.items()}
    if cells.get("num_samples", "") is None:
        del cells["num_samples"]
    try:
        return Claim.model_validate({"preset": None, **cells})
    except ValidationError as error:
        raise ConfigError(f"{where}: {explain(error, Claim)}") from error


def claims_of(preset: ModelPreset, claims: Iterable[Claim]) -> list[Claim]:
    """What is claimed of a model, in its preset's order, the nearest to the released weights first.

    A preset's own figures that are in no row, as those of a user's file, become claims too.
    """
    rows = [claim for claim in claims if claim.preset == preset.name]
    found = []
    for result in preset.published:
        figures = {name: getattr(result, name) for name in FIGURES}
        if any(value is not None for value in figures.values()):
            same = (r for r in rows if {name: r.figure(name) for name in FIGURES} == figures)
            found.append(next(same, None) or _claim_of(preset, result, figures))
    return found


def _claim_of(
    preset: ModelPreset, result: PublishedResult, figures: dict[str, float | None]
) -> Claim:
    about = "; ".join(part for part in (result.setting, result.note) if part)
    return Claim(
        preset=preset.name,
        model=f"{preset.title} ({about})" if about else preset.title,
        dataset="",
        resolution=preset.size[0],
        params_m=None if preset.parameters is None else preset.parameters / 1e6,
        nfe=None,
        num_samples=preset.evaluation.num_samples,
        guidance=None,
        guidance_interval=None,
        timeshift=None,
        protocol=result.protocol or "not stated",
        source=result.source,
        **figures,
    )
