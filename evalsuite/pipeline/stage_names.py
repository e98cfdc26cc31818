"""Names of the stages in which images are judged: a kind of row and the scorer's id."""

import hashlib
from collections.abc import Mapping
from typing import Any

from evalsuite.artifacts.run_directory import RunDirectory
from evalsuite.config import canonical_json

DETECTIONS, ANSWERS, SCORES = "detections", "answers", "scores"
JUDGED = (DETECTIONS, ANSWERS, SCORES)
"""Folders of a run that hold rows about its images."""
VERDICTS = "verdicts"
"""Folder of a run that holds finished files of rows."""
_DIGITS = 12


def judged_stage(kind: str, name: str, decides: Mapping[str, Any]) -> str:
    """`detections/mask2former-0123456789ab`.

    Args:
        kind: one of `JUDGED`.
        name: of the scorer, for people.
        decides: all that decides rows but the images.
    """
    assert kind in JUDGED
    return f"{kind}/{name}-{hashlib.sha256(canonical_json(decides)).hexdigest()[:_DIGITS]}"


def judged_stages(run: RunDirectory) -> list[str]:
    """The stages of a run in which images were judged."""
    return [f"{kind}/{name}" for kind in JUDGED for name in run.storage.folders(f"receipts/{kind}")]


def verdicts_name(stage: str, num_images: int) -> str:
    """Place in a run of the finished file of a stage's rows."""
    return f"{VERDICTS}/{stage.partition('/')[2]}-{num_images}.jsonl"
