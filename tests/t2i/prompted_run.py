"""A real run directory of prompts, with random pixels."""

import sys
from pathlib import Path

import numpy as np

from evalsuite.artifacts.manifest import Manifest
from evalsuite.artifacts.run_directory import RunDirectory
from evalsuite.config import Plan, PromptList, TextConditions

sys.path.insert(0, str(Path(__file__).parents[1] / "report"))
from run_builder import BATCH, add_attempt, add_shard, make_plan

PROMPTS = tuple(f"a photo of {n} cups" for n in range(8))
NUM = 4 * len(PROMPTS)


def text_plan(
    seeds: str | None = None, count: int = len(PROMPTS), size: tuple[int, int] = (16, 16)
) -> Plan:
    """A plan of prompts, whose network is never built."""
    conditions = TextConditions(
        prompts=PromptList(count=count, sha256="cd" * 32), negative_prompt="", seeds=seeds
    )
    content = make_plan(size=size).model_dump() | {
        "num_classes": None,
        "text": conditions.model_dump(),
    }
    return Plan.model_validate(content)


def manifest_of(plan: Plan, prompts: tuple[str, ...]) -> Manifest:
    """Of a run of a text model."""
    return Manifest(
        model="tiny",
        plan_id=plan.plan_id,
        plan=plan,
        prompts=prompts,
        formats={"receipt": 1, "images": "parquet", "features": "safetensors"},
        created_at="2026-01-31T12:00:00+00:00",
    )


def make_prompted_run(root: Path) -> RunDirectory:
    """32 samples of 8 prompts, in batches of 16."""
    made = RunDirectory.create_or_open(root, manifest_of(text_plan(), PROMPTS))
    add_shard(made, 0, 2 * BATCH, "all")
    add_attempt(made, resolved={"num_samples": NUM})
    return made


def make_drawn_run(root: Path, prompts: list[str], images: np.ndarray) -> RunDirectory:
    """A run whose pixels are given, whole batches of uint8 [N,32,32,3]."""
    plan = text_plan(count=len(prompts), size=images.shape[1:3])
    made = RunDirectory.create_or_open(root, manifest_of(plan, tuple(prompts)))
    add_shard(made, 0, len(images), "all", given=images)
    add_attempt(made, resolved={"num_samples": len(images)})
    return made
