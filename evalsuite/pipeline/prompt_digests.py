"""What names the prompts of a file of rows, whatever their order: told again when one is read."""

import hashlib
from collections.abc import Iterable

from evalsuite.config import canonical_json
from evalsuite.t2i.geneval_prompts import GenevalPrompt


def geneval_prompts_sha256(prompts: Iterable[GenevalPrompt]) -> str:
    """Of what decides verdicts in all metadata, each once, whatever their folders."""
    meanings = sorted({prompt.meaning for prompt in prompts})
    return hashlib.sha256("\n".join(meanings).encode()).hexdigest()


def scored_prompts_sha256(prompts: Iterable[tuple[str, str | None]]) -> str:
    """Of prompts with their categories, None where they have none; a prompt may be there twice."""
    pairs = sorted((text, text if category is None else category) for text, category in prompts)
    return hashlib.sha256(canonical_json(pairs)).hexdigest()
