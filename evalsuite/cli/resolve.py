"""From options to the typed requests of the rooms below."""

from pathlib import Path
from typing import Any

from evalsuite.cli.options import PLAN_FIELDS, SAMPLING_FIELDS
from evalsuite.config import ExtractorSpec, load_spec
from evalsuite.pipeline.plan import PlanOptions, with_weights


def plan_options_of(values: dict[str, Any]) -> PlanOptions:
    """The options that decide pixels."""
    sampling = {k: values[k] for k in SAMPLING_FIELDS if values.get(k) is not None}
    fields = {k: values.get(k) for k in PLAN_FIELDS}
    return PlanOptions(model=values["model"], sampling=sampling, **fields)


def extractor_of(name: str, weights: Path | None) -> ExtractorSpec:
    """An extractor by name, with its own or other weights."""
    return with_weights(load_spec(ExtractorSpec, name), weights)
