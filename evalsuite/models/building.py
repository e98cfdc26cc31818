"""A loaded model from the fields of a plan: ours, or a stranger's."""

from pathlib import Path

import torch

from evalsuite.config import DtypeName, Plan
from evalsuite.models.foreign import build_foreign, users_code
from evalsuite.models.native import NativeModel, TextFeatures
from evalsuite.models.protocol import SampledModel


def load_model(
    plan: Plan,
    weights: Path | None,
    device: torch.device,
    guide: Path | None = None,
    features: TextFeatures | None = None,
    code_folder: Path | None = None,
) -> SampledModel:
    """The plan's model on `device`.

    Args:
        plan: what decides pixels.
        weights: a checkpoint, checked against the plan's digest; None for random weights.
        device: where it computes.
        guide: the checkpoint of autoguidance.
        features: of the prompts, for a text model of ours.
        code_folder: where a `python:` model is imported from.

    Raises:
        DataError: weights or code that are not the plan's or do not fit.
    """
    if plan.sampling is None:
        negative = plan.text.negative_prompt if plan.text else ""
        foreign = build_foreign(
            plan.family, code_folder, plan.source_sha256, plan.network, negative
        )
        with users_code(plan.family, code_folder, "load()"):
            foreign.load(weights, plan.ema, device, _dtype_of(plan))
        return foreign
    model = NativeModel(plan.family, plan.network, plan.sampling.t_eps, features)
    model.load(weights, plan.ema, device, plan.sampling.dtype)
    if plan.guide is not None:
        model.load_guide(plan.guide, guide)
    return model


def _dtype_of(plan: Plan) -> DtypeName:
    """Of a stranger's model: its own setting `dtype`, float32 when it has none."""
    return "bfloat16" if (plan.settings or {}).get("dtype") == "bfloat16" else "float32"
