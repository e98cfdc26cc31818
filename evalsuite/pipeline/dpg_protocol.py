"""In what a score of DPG-Bench departs from the published protocol; none that does is its equal.

The judge is no departure: it stands in the score's name, and published scores are mPLUG's.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from evalsuite.artifacts.digests import git_blob_of
from evalsuite.config import BenchmarkSpec, canonical_json, load_spec
from evalsuite.pipeline.row_file import CSV_BLOB

_OTHER_QUESTIONS = "other questions than its dpg_bench.csv"
_WORD = re.compile(r"[a-z0-9]+")
_QUOTE = re.compile("[\"'`\u00ab\u00b4\u00bb\u2018-\u201f\u2032-\u2037\u2039\u203a]")
"""Straight, curly and angle ones, primes, and accents that stand for one."""


def departures_of(header: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """What a file of answers was made by, as far as it is not what published scores are made by.

    Args:
        header: of the file.
        rows: all of it; the first image of each prompt says what it is.
    """
    spec, found = load_spec(BenchmarkSpec, "dpg"), []
    prompts = [(row["item_id"], row["prompt"]) for row in rows if row["number"] == 0]
    if prompts_sha256(prompts) != spec.prompts_sha256:
        found.append(f"other prompts than its {spec.num_prompts}")
    asked = header.get(CSV_BLOB)
    if asked is None:  # a file of an earlier version
        found.append("questions that were not checked to be of its dpg_bench.csv")
    elif not _is_published(spec, asked):
        found.append(_OTHER_QUESTIONS)
    if len(rows) != len(prompts) * spec.images_per_prompt:
        each = f"{len(rows) / len(prompts):g}, not {spec.images_per_prompt}"
        found.append(f"images of each prompt {each}")
    return tuple(found)


def questions_notice(csv: Path) -> str:
    """What a person should know of a csv before it is asked for hours; "" of the published one."""
    if _is_published(load_spec(BenchmarkSpec, "dpg"), git_blob_of(csv)):
        return ""
    return (
        f"{csv} has {_OTHER_QUESTIONS}, and the score's name will say so: `evalsuite t2i fetch dpg"
        " --allow-unverified` brings the published ones"
    )


def _is_published(spec: BenchmarkSpec, git_blob: str) -> bool:
    (published,) = (file.git_blob for file in spec.files if file.role == "dpg-csv")
    return git_blob == published


def prompts_sha256(prompts: Iterable[tuple[str, str]]) -> str:
    """SHA-256 of items with their prompts' words, whatever their order.

    Copies of the prompts differ in blanks, quotes and accents, so these do not count: `Zoë's` is
    `zoes`.
    """
    words = sorted((item, " ".join(_WORD.findall(_plain(text)))) for item, text in prompts)
    return hashlib.sha256(canonical_json(words)).hexdigest()


def _plain(text: str) -> str:
    parts = unicodedata.normalize("NFKD", _QUOTE.sub("", text))
    return _QUOTE.sub("", "".join(c for c in parts if not unicodedata.combining(c))).lower()


def display_of(header: Mapping[str, Any], departures: tuple[str, ...], name: str = "DPG") -> str:
    """What a score is called wherever it stands.

    Args:
        header: of its file.
        departures: from `departures_of`.
        name: `DPG, corrected` for the corrected score alone.
    """
    return f"{name} ({'; '.join((header['judge']['name'], *departures))})"
