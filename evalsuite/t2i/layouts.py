"""The folders that the published scorers read: their names, and what they find in them.

GenEval: ROOT/<digits>/metadata.jsonl with one object, ROOT/<digits>/samples/<digits>.png.
DPG-Bench: ROOT/<item_id>.png, a grid of 2 x 2 cells.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from evalsuite.config import parse_json
from evalsuite.errors import DataError
from evalsuite.t2i.geneval_prompts import GenevalPrompt, parse_geneval_prompt

METADATA = "metadata.jsonl"
SAMPLES = "samples"
_FOLDER = re.compile(r"\d+", re.ASCII)
_FILE = re.compile(r"\d+\.png", re.ASCII)
_ITEM_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*", re.ASCII)


class PromptFolder(NamedTuple):
    """One prompt of a GenEval folder and its images."""

    name: str
    prompt: GenevalPrompt
    images: tuple[Path, ...]


def geneval_folder(prompt: int) -> str:
    """Name of a prompt's folder."""
    return f"{prompt:05d}"


def geneval_image(image: int) -> str:
    """Name of a prompt's image below its folder."""
    return f"{SAMPLES}/{image:05d}.png"


def dpg_image(item_id: str) -> str:
    """Name of a prompt's grid.

    Raises:
        DataError: an item whose name the scorer would cut, at its first dot, or that is no name.
    """
    if not _ITEM_ID.fullmatch(item_id):
        raise DataError(f"item {item_id!r} cannot name a file that DPG-Bench's scorer finds again")
    return f"{item_id}.png"


def scored_by_the_original(root: Path) -> list[Path]:
    """The files that GenEval's own program would score, by its rule.

    Folders whose name is all digits; in their `samples` files whose name *begins* like `0001.png`.
    """
    found = []
    for folder in sorted(root.iterdir()):
        samples = folder / SAMPLES
        if folder.is_dir() and _FOLDER.fullmatch(folder.name) and samples.is_dir():
            files = (path for path in sorted(samples.iterdir()) if path.is_file())
            found += [path for path in files if _FILE.match(path.name)]
    return found


def read_geneval_folder(root: Path) -> list[PromptFolder]:
    """Prompts and images of a folder in GenEval's layout, in the order of their numbers.

    Stricter than the original: what it would ignore, or score by accident, is an error.

    Raises:
        DataError: there is no prompt, or a folder lacks its metadata or images, or holds others.
    """
    folders = [path for path in root.iterdir() if path.is_dir() and _FOLDER.fullmatch(path.name)]
    if not folders:
        raise DataError(f"{root} holds no folder whose name is a number, as GenEval's layout has")
    return [_prompt_folder(path) for path in sorted(folders, key=lambda p: (int(p.name), p.name))]


def check_complete(
    root: Path, folders: Sequence[PromptFolder], wanted: Sequence[GenevalPrompt], where: Path
) -> None:
    """Raise DataError unless folders hold exactly the prompts that are wanted, with images alike.

    A gap would look like a normal score. A prompt may have several folders, which PixNerd and
    PixelGen write: their records differ in what decides nothing.

    Args:
        root: of the folders.
        folders: from `read_geneval_folder`.
        wanted: the prompts, each once.
        where: they stand, for the line.
    """
    _check_numbers(root, folders)
    records: dict[str, str] = {}
    images = dict.fromkeys((prompt.meaning for prompt in wanted), 0)
    for folder in folders:
        first = records.setdefault(folder.prompt.key, folder.name)
        if first != folder.name:
            raise DataError(f"{root / folder.name} repeats the metadata of {first}: remove one")
        if folder.prompt.meaning not in images:
            raise DataError(
                f"{root / folder.name} is of {folder.prompt.prompt[:80]!r}, which {where} does not"
                " ask for in these words and classes: original and rewritten prompts are different"
                " sets, give --metadata of these"
            )
        images[folder.prompt.meaning] += len(folder.images)
    counts = [images[prompt.meaning] for prompt in wanted]
    if min(counts) < max(counts):
        few, many = (wanted[counts.index(n)].prompt[:80] for n in (min(counts), max(counts)))
        raise DataError(
            f"{root} has {min(counts)} images of {few!r} and {max(counts)} of {many!r}, both of"
            f" {where}: images are missing or there twice, which would change the score without a"
            " sign"
        )


def _check_numbers(root: Path, folders: Sequence[PromptFolder]) -> None:
    most = max(len(folder.images) for folder in folders)
    for folder in folders:
        if len(folder.images) < most:
            raise DataError(
                f"{root / folder.name} has {len(folder.images)} images, others {most}: a missing"
                " image would change the score without a sign"
            )


def _prompt_folder(folder: Path) -> PromptFolder:
    try:
        record = parse_json((folder / METADATA).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{folder / METADATA} cannot be read as one JSON object: {error}"
        ) from error
    prompt = parse_geneval_prompt(record, str(folder / METADATA))
    samples = folder / SAMPLES
    paths = sorted(samples.iterdir()) if samples.is_dir() else []
    strange = [path.name for path in paths if not (_FILE.fullmatch(path.name) and path.is_file())]
    if strange:
        raise DataError(
            f"{samples} holds {strange[0]!r}, which is no name such as 0000.png: the original would"
            " ignore it or score it by accident"
        )
    if not paths:
        raise DataError(f"{samples} holds no image")
    return PromptFolder(folder.name, prompt, tuple(sorted(paths, key=lambda p: int(p.stem))))
