"""A run's images in the layouts of the published text-to-image scorers, as a stream.

Sample i is image i // P of prompt i % P, where P is the number of prompts: prefixes of a run are
balanced, and these layouts put the images of a prompt together again.
"""

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from evalsuite.artifacts.images import encode_png
from evalsuite.artifacts.run_directory import STORED_PIXELS, RunDirectory
from evalsuite.errors import DataError, StorageError, UsageError
from evalsuite.pipeline.exported import write_note
from evalsuite.t2i.geneval_prompts import GenevalPrompt, read_geneval_prompts
from evalsuite.t2i.grids import CELLS, join_cells
from evalsuite.t2i.items import read_items
from evalsuite.t2i.layouts import METADATA, SAMPLES, dpg_image, geneval_folder, geneval_image


def export_geneval(run: RunDirectory, num_samples: int, metadata: Path, folder: Path) -> int:
    """One folder for each prompt, with its metadata and images; gives the number of prompts.

    Args:
        run: of GenEval's prompts, in any order and wording.
        num_samples: how many, whole rounds of all prompts.
        metadata: GenEval's metadata, whose `prompt` is what the run was made of.
        folder: to be made; it appears when it is complete.

    Raises:
        DataError: metadata of other prompts.
        IncompleteError: pixels are missing, or were not kept.
        UsageError: another number of images, or the folder exists.
    """
    prompts = _prompts_of(run)
    per_prompt = _rounds(num_samples, len(prompts))
    records = match_prompts(prompts, read_geneval_prompts(metadata), metadata)
    run.slices(run.pixel_receipts(), 0, num_samples, STORED_PIXELS)
    with _complete_or_not_there(folder) as target:
        for place, record in enumerate(records):
            samples = target / geneval_folder(place) / SAMPLES
            samples.mkdir(parents=True)
            text = json.dumps(record.record, ensure_ascii=False) + "\n"
            (samples.parent / METADATA).write_text(text, encoding="utf-8")
        for index, image in run.read_images(0, per_prompt * len(prompts)):
            path = target / geneval_folder(index % len(prompts))
            (path / geneval_image(index // len(prompts))).write_bytes(encode_png(image))
    write_note(folder, run, "geneval", num_samples, len(prompts))
    return len(prompts)


def export_dpg(run: RunDirectory, num_samples: int, metadata: Path, folder: Path) -> int:
    """One grid of four images for each prompt, named by its item; gives the number of prompts.

    Args:
        run: of DPG-Bench's prompts, with four images of each.
        num_samples: 4 times the number of prompts.
        metadata: a csv or JSON lines with `item_id` and the prompt.
        folder: to be made; it appears when it is complete.

    Raises:
        DataError: metadata of other prompts.
        IncompleteError: pixels are missing, or were not kept.
        UsageError: another number of images, or the folder exists.
    """
    prompts = _prompts_of(run)
    count = len(prompts)
    if _rounds(num_samples, count) != CELLS:
        raise UsageError(
            f"{num_samples} samples of {count} prompts: a grid of DPG-Bench has {CELLS} images of"
            f" each prompt, so give --num-samples {CELLS * count}"
        )
    names = [dpg_image(item) for item in items_by_prompt(prompts, metadata)]
    run.slices(run.pixel_receipts(), 0, num_samples, STORED_PIXELS)
    rounds = [run.read_images(k * count, (k + 1) * count) for k in range(CELLS)]
    with _complete_or_not_there(folder) as target:
        for name, cells in zip(names, zip(*rounds, strict=True), strict=True):
            (target / name).write_bytes(encode_png(join_cells([image for _, image in cells])))
    write_note(folder, run, "dpg", num_samples, count)
    return count


def match_prompts(
    prompts: Sequence[str], records: Sequence[GenevalPrompt], where: Path
) -> list[GenevalPrompt]:
    """The record of each prompt of a run.

    Raises:
        DataError: a prompt has none, or records are left over.
    """
    by_text = {record.prompt: record for record in records}
    _check_same(prompts, by_text.keys(), where)
    return [by_text[prompt] for prompt in prompts]


def items_by_prompt(prompts: Sequence[str], where: Path) -> list[str]:
    """DPG-Bench's name of each prompt of a run.

    Raises:
        DataError: a prompt has none, or items are left over.
    """
    by_text = {prompt: item_id for item_id, prompt in read_items(where).items()}
    stripped = [prompt.strip() for prompt in prompts]
    _check_same(stripped, by_text.keys(), where)
    return [by_text[prompt] for prompt in stripped]


def _check_same(prompts: Sequence[str], known: Iterable[str], where: Path) -> None:
    texts = set(known)
    missing = [prompt for prompt in prompts if prompt not in texts]
    surplus = sorted(texts - set(prompts))
    if missing or surplus or len(set(prompts)) != len(prompts):
        example = (missing or surplus or [p for p in prompts if list(prompts).count(p) > 1])[0]
        what = "is not in it" if missing else ("is not in the run" if surplus else "is there twice")
        raise DataError(
            f"{where} is not of the run's prompts: {example[:80]!r} {what}; original and rewritten"
            " prompts are different sets"
        )


def _prompts_of(run: RunDirectory) -> tuple[str, ...]:
    if run.manifest.prompts is None:
        raise UsageError(f"{run.root} is a run of classes: it has no prompts to export by")
    return run.manifest.prompts


def _rounds(num_samples: int, num_prompts: int) -> int:
    per_prompt, left = divmod(num_samples, num_prompts)
    if left or not per_prompt:
        raise UsageError(
            f"{num_samples} samples of {num_prompts} prompts: every prompt needs the same number of"
            f" images, so give --num-samples {max(per_prompt, 1) * num_prompts}"
        )
    return per_prompt


@contextlib.contextmanager
def _complete_or_not_there(folder: Path) -> Iterator[Path]:
    """A folder to fill beside `folder`, which takes its name at the end, and is removed else."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is not an empty folder: give another --output")
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if folder.exists():
            folder.rmdir()
        temporary.replace(folder)
        _flush(folder.parent)
    except OSError as error:
        raise StorageError(f"cannot write {folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _flush(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
