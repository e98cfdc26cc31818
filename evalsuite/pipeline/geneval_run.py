"""GenEval over a run or a folder: detect, ask, judge, keep every verdict, and sum up.

The verdicts are enough to sum up again; no network is needed for it.
"""

import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from evalsuite.artifacts.images import Images
from evalsuite.artifacts.run_directory import STORED_PIXELS, RunDirectory
from evalsuite.artifacts.samples.folder import read_file
from evalsuite.artifacts.samples.pictures import PictureReader
from evalsuite.config import canonical_json
from evalsuite.errors import DataError, UsageError
from evalsuite.pipeline.export_t2i import match_prompts
from evalsuite.pipeline.row_file import RowFile, read_both, read_rows
from evalsuite.t2i.clustered import (
    Cluster,
    Estimate,
    difference,
    difference_of_tags,
    mean_of_tags,
    share,
)
from evalsuite.t2i.detections import ColorClassifier, Detections, Detector
from evalsuite.t2i.geneval import GenevalOptions, Judged, judge_image
from evalsuite.t2i.geneval_prompts import GenevalPrompt, read_geneval_prompts
from evalsuite.t2i.geneval_summary import ImageResult, summarise
from evalsuite.t2i.layouts import read_geneval_folder

PORTION = 16
"""Images that are judged together, aligned to their number."""
BLIND_AFTER = 64
"""Images without a single detection after which a detector is taken for broken."""


class PromptImage(NamedTuple):
    """One image, its prompt and its number among the images of that prompt."""

    prompt: GenevalPrompt
    number: int
    image: Images


@dataclass(frozen=True)
class GenevalInput:
    """Images to judge, in an order that is the same each time."""

    source: str
    prompts: tuple[GenevalPrompt, ...]
    num_images: int
    run: RunDirectory | None = None
    files: tuple[tuple[int, int, Path], ...] = ()

    @property
    def prompts_sha256(self) -> str:
        """Of all metadata, whatever their order."""
        records = sorted(canonical_json(prompt.record) for prompt in self.prompts)
        return hashlib.sha256(b"\n".join(records)).hexdigest()

    def read(self, start: int) -> Iterator[PromptImage]:
        """Images from number `start` on."""
        if self.run is not None:
            count = len(self.prompts)
            for index, image in self.run.read_images(start, self.num_images):
                yield PromptImage(self.prompts[index % count], index // count, image)
        reader = PictureReader()
        for place, number, path in self.files[start:]:
            image = reader.decode(read_file(path), str(path))
            yield PromptImage(self.prompts[place], number, image)


def open_geneval(path: Path, metadata: Path | None, num_samples: int | None) -> GenevalInput:
    """A run with `metadata` of its prompts, or a folder in GenEval's layout, which has its own.

    Raises:
        UsageError: metadata is missing or surplus, or not every prompt has the same number.
        DataError: metadata of other prompts, or a folder that is not in the layout.
        IncompleteError: pixels are missing.
    """
    if not (path / "manifest.json").is_file():
        return _open_folder(path, metadata, num_samples)
    if metadata is None:
        raise UsageError(f"{path} is a run: give --metadata, GenEval's evaluation_metadata.jsonl")
    return geneval_of_run(RunDirectory.open(path), metadata, num_samples)


def geneval_of_run(run: RunDirectory, metadata: Path, num_samples: int | None) -> GenevalInput:
    """The images of a run with `metadata` of its prompts; errors are those of `open_geneval`."""
    if run.manifest.prompts is None:
        raise UsageError(f"{run.root} is a run of classes: GenEval needs prompts")
    prompts = match_prompts(run.manifest.prompts, read_geneval_prompts(metadata), metadata)
    count = num_samples or run.num_asked()
    if count % len(prompts):
        raise UsageError(f"{count} samples are no whole rounds of {len(prompts)} prompts")
    run.slices(run.pixel_receipts(), 0, count, STORED_PIXELS)
    return GenevalInput(run.manifest.plan_id, tuple(prompts), count, run)


def _open_folder(path: Path, metadata: Path | None, num_samples: int | None) -> GenevalInput:
    if metadata is not None or num_samples is not None:
        raise UsageError(f"{path} is no run: its folders bring their metadata and their images")
    if not path.is_dir():
        raise UsageError(f"{path} is neither a run nor a folder in GenEval's layout")
    folders = read_geneval_folder(path)
    counts = {len(folder.images) for folder in folders}
    if len(counts) > 1:
        few = min(folders, key=lambda folder: len(folder.images))
        raise DataError(
            f"{path / few.name} has {len(few.images)} images, others {max(counts)}: a missing image"
            " would change the score without a sign"
        )
    files = [(p, k, image) for p, f in enumerate(folders) for k, image in enumerate(f.images)]
    digest = hashlib.sha256()
    for _, _, file in files:
        digest.update(read_file(file))
    prompts = tuple(folder.prompt for folder in folders)
    return GenevalInput(digest.hexdigest(), prompts, len(files), None, tuple(files))


def verdict_header(
    given: GenevalInput,
    options: GenevalOptions,
    detector: Mapping[str, Any],
    colors: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """What decides the verdicts: images, prompts, thresholds, and what names the networks."""
    return {
        "benchmark": "geneval",
        "source": given.source,
        "prompts_sha256": given.prompts_sha256,
        "num_images": given.num_images,
        "options": options.model_dump(mode="json"),
        "detector": detector,
        "colors": colors,
    }


def judge_all(
    given: GenevalInput,
    detector: Detector,
    classifier: ColorClassifier,
    options: GenevalOptions,
    file: RowFile,
) -> None:
    """Judge what has no verdict yet; each portion of verdicts is kept once it is there.

    Raises:
        DataError: the detector is broken: NaN, or nothing found in many images.
    """
    images = given.read(len(file.rows))
    while portion := list(itertools.islice(images, PORTION)):
        found = detector.detect([one.image for one in portion])
        rows = []
        for one, detections in zip(portion, found, strict=True):
            where = f"image {one.number} of {one.prompt.prompt[:60]!r}"
            judged = judge_image(
                one.image, detections.checked(where), one.prompt, classifier, options
            )
            rows.append(verdict_row(one, detections, judged))
        file.extend(rows)
        if len(file.rows) >= min(BLIND_AFTER, given.num_images):
            check_rows_not_blind(file.rows)


def check_rows_not_blind(rows: Sequence[Mapping[str, Any]]) -> None:
    """Raise DataError when no image has any detection that counts."""
    if not any(row["kept"] for row in rows):
        raise DataError(
            f"the detector found nothing in any of {len(rows)} images: it is broken, or its weights"
            " are others; no score is given"
        )


def verdict_row(one: PromptImage, found: Detections, judged: Judged) -> dict[str, Any]:
    """All about one image: what a page shows and a second summary needs."""
    return {
        "prompt": one.prompt.record,
        "number": one.number,
        "tag": one.prompt.tag,
        "correct": judged.verdict.correct,
        "reasons": list(judged.verdict.reasons),
        "kept": {name: list(places) for name, places in sorted(judged.kept.items())},
        "colors": {str(clause): list(words) for clause, words in judged.colors.items()},
        "detections": [
            {
                "class": detection.class_name,
                "box": list(detection.box),
                "score": round(float(np.float32(detection.score)), 6),
                "mask": run_lengths(detection.mask) if _is_kept(place, judged) else None,
            }
            for place, detection in enumerate(found.found)
        ],
    }


def _is_kept(place: int, judged: Judged) -> bool:
    return any(place in places for places in judged.kept.values())


def run_lengths(mask_HW: Any) -> list[int] | None:  # noqa: ANN401 - an array or None
    """Lengths of runs of 0 and 1 in turns, row by row, beginning with 0; None without a mask."""
    if mask_HW is None:
        return None
    flat = np.concatenate([[False], np.asarray(mask_HW, dtype=bool).ravel(), [False]])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    edges = edges[edges < flat.size - 2]
    return [int(n) for n in np.diff(np.concatenate([[0], edges, [flat.size - 2]]))]


def summary_of(path: Path) -> dict[str, Any]:
    """Scores with intervals from a finished file of verdicts.

    Raises:
        DataError: verdicts are missing.
    """
    header, rows = read_rows(path, "num_images")
    check_rows_not_blind(rows)
    results = [ImageResult(_key(row), row["tag"], row["correct"]) for row in rows]
    summary, clusters = summarise(results), clusters_of(rows)
    return {
        "benchmark": "geneval",
        "display": f"GenEval ({header['detector']['kind']})",
        "overall": summary.overall,
        "overall_estimate": _shown(mean_of_tags(clusters)),
        "tags": {
            tag: {**score._asdict(), "score": score.score, **_shown(share(clusters[tag]))}
            for tag, score in summary.tags.items()
        },
        "total_images": summary.total_images,
        "total_prompts": summary.total_prompts,
        "fraction_correct_images": summary.fraction_correct_images,
        "fraction_correct_prompts": summary.fraction_correct_prompts,
        "protocol": {k: v for k, v in header.items() if k not in {"schema", "source"}},
        "source": header["source"],
    }


def compare_verdicts(a: Path, b: Path) -> dict[str, Any]:
    """Overall of a less that of b, on the same prompts, paired prompt by prompt.

    Raises:
        DataError: the prompts are not the same, or the protocols differ.
    """
    one, two = (clusters_of(rows) for rows in read_both(a, b))
    found = difference_of_tags(one, two)
    tags = {tag: difference(one[tag], two[tag]) for tag in one}
    return {
        "difference": found.value,
        **_shown(found),
        "tags": {tag: {"difference": e.value, **_shown(e)} for tag, e in tags.items()},
    }


def clusters_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Cluster]]:
    """Prompts of each tag with how many of their images are correct."""
    totals: dict[str, dict[str, list[bool]]] = {}
    for row in rows:
        totals.setdefault(row["tag"], {}).setdefault(_key(row), []).append(row["correct"])
    return {
        tag: [Cluster(key, float(sum(right)), len(right)) for key, right in prompts.items()]
        for tag, prompts in totals.items()
    }


def _key(row: Mapping[str, Any]) -> str:
    return canonical_json(row["prompt"]).decode()


def _shown(estimate: Estimate) -> dict[str, Any]:
    return {
        "standard_error": estimate.standard_error,
        "interval": None if estimate.interval is None else list(estimate.interval),
        "num_prompts": estimate.num_prompts,
    }
