"""From options to the typed requests of the rooms below."""

import os
from typing import Any

from evalsuite.cli.options import PLAN_FIELDS, SAMPLING_FIELDS
from evalsuite.config import ExtractorSpec, load_spec
from evalsuite.errors import UsageError
from evalsuite.pipeline.conditions import TextRequest
from evalsuite.pipeline.extractor_weights import find_extractor_weights
from evalsuite.pipeline.lock import Lock, read_lock
from evalsuite.pipeline.plan import GuideRequest, PlanOptions, with_weights
from evalsuite.pipeline.weights import WeightsRequest

_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
"""Variables by which libraries are told to open no connection; they look when first imported."""


def go_offline() -> None:
    """Tell every library, in this process and in workers that it starts, to look nothing up."""
    os.environ.update(dict.fromkeys(_OFFLINE, "1"))


def plan_options_of(values: dict[str, Any]) -> PlanOptions:
    """The options that decide pixels; with `--offline` libraries are told so, too."""
    if values["offline"]:
        go_offline()
    sampling = {k: values[k] for k in SAMPLING_FIELDS if values.get(k) is not None}
    for key, value in values.get("settings") or ():
        if key in sampling:
            raise UsageError(f"--set {key}: the setting was given twice")
        sampling[key] = value
    fields = {k: values.get(k) for k in PLAN_FIELDS}
    return PlanOptions(
        model=values["model"],
        weights=WeightsRequest(
            values["weights"],
            values["ema"],
            values["offline"],
            lock_of(values),
        ),
        guide=_guide_of(values),
        text=TextRequest(
            values["prompts"],
            values["prompt"],
            values["negative_prompt"],
            values["text_encoder"],
            values["cut_prompts"],
            values["shared_seeds"],
        ),
        sampling=sampling,
        trust_code=values["trust_remote_code"],
        **fields,
    )


def lock_of(values: dict[str, Any]) -> Lock | None:
    """What `--lock` names, of a command that has it."""
    return read_lock(values["lock"]) if values.get("lock") else None


def extractor_of(
    name: str, weights: str | None, *, offline: bool = False, lock: Lock | None = None
) -> ExtractorSpec:
    """An extractor by name, with its own weights, or with those of a path or of a hub.

    Raises:
        UsageError: no such extractor.
        DataError: weights that are not there, or others than the published ones.
        EnvironmentProblem: a hub that cannot be reached.
    """
    spec = load_spec(ExtractorSpec, name)
    if weights is None:
        return spec
    return with_weights(spec, find_extractor_weights(weights, offline=offline, lock=lock))


def _guide_of(values: dict[str, Any]) -> GuideRequest | None:
    if values["guide_weights"] is None:
        for name in ("guide_model", "guide_ema", "guide_condition"):
            if values[name] is not None:
                flag = "--" + name.replace("_", "-")
                raise UsageError(f"{flag} needs --guide-weights")
        return None
    return GuideRequest(
        values["guide_weights"],
        values["guide_model"],
        values["guide_ema"],
        values["guide_condition"] or "same",
    )
