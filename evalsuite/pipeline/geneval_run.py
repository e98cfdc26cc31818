"""GenEval over a run or a folder: whose prompts its images show, and what verdicts sum up to.

No network is needed to sum up.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evalsuite.artifacts.run_directory import RunDirectory, is_run
from evalsuite.artifacts.storage import Place
from evalsuite.conditioning.prompts import check_prompt
from evalsuite.config import canonical_json
from evalsuite.errors import UsageError
from evalsuite.pipeline.export_t2i import match_prompts
from evalsuite.pipeline.geneval_protocol import departures_of, display_of
from evalsuite.pipeline.geneval_scorer import (
    DetectorSource,
    GenevalScorer,
    check_rows_not_blind,
)
from evalsuite.pipeline.judged_images import (
    FolderImages,
    JudgedImages,
    digest_of_pictures,
    images_of_run,
)
from evalsuite.pipeline.prompt_digests import geneval_prompts_sha256
from evalsuite.pipeline.row_file import TESTED_BY, protocol_of, read_both, read_rows
from evalsuite.t2i.clustered import (
    Cluster,
    Estimate,
    difference,
    difference_of_tags,
    mean_of_tags,
    share,
)
from evalsuite.t2i.geneval import GenevalOptions
from evalsuite.t2i.geneval_prompts import (
    GenevalPrompt,
    parse_geneval_prompt,
    read_geneval_prompts,
)
from evalsuite.t2i.geneval_summary import ImageResult, summarise
from evalsuite.t2i.layouts import check_complete, read_geneval_folder


@dataclass(frozen=True)
class GenevalInput:
    """Images to judge, and what each prompt asks for."""

    images: JudgedImages
    prompts: tuple[GenevalPrompt, ...]

    @property
    def prompts_sha256(self) -> str:
        """Of what decides verdicts in all metadata, whatever their order and their folders."""
        return geneval_prompts_sha256(self.prompts)

    def scorer(self, source: DetectorSource, options: GenevalOptions) -> GenevalScorer:
        """GenEval's on these prompts."""
        return GenevalScorer(self.prompts, self.prompts_sha256, options, source)


def open_geneval(place: Place, metadata: Path, num_samples: int | None) -> GenevalInput:
    """A run, or a folder in GenEval's layout, of exactly the prompts of `metadata`.

    Raises:
        UsageError: `num_samples` of a folder, or not every prompt has the same number.
        DataError: prompts are missing, surplus or there twice, a folder is not in the layout, or
            an image is none that can be judged.
        IncompleteError: pixels are missing.
    """
    if not is_run(place):
        return _open_folder(place, metadata, num_samples)
    return geneval_of_run(RunDirectory.open(place), metadata, num_samples)


def geneval_of_run(run: RunDirectory, metadata: Path, num_samples: int | None) -> GenevalInput:
    """The images of a run with `metadata` of its prompts; errors are those of `open_geneval`."""
    images = images_of_run(run, num_samples, "GenEval")
    prompts = match_prompts(run.manifest.prompts or (), read_geneval_prompts(metadata), metadata)
    return GenevalInput(images, tuple(prompts))


def _open_folder(place: Place, metadata: Path, num_samples: int | None) -> GenevalInput:
    if num_samples is not None:
        raise UsageError(f"{place} is no run: --num-samples is of a run, folders bring their own")
    if not isinstance(place, Path) or not place.is_dir():
        raise UsageError(f"{place} is neither a run nor a folder in GenEval's layout")
    folders = read_geneval_folder(place)
    for folder in folders:
        where = f"{place / folder.name}/metadata.jsonl"
        check_prompt(folder.prompt.prompt, where)
    check_complete(place, folders, read_geneval_prompts(metadata), metadata)
    files = tuple(str(image.absolute()) for folder in folders for image in folder.images)
    per_folder = len(folders[0].images)
    source = _source_of(files, [folder.prompt for folder in folders], per_folder)
    images = FolderImages(str(place.absolute()), source, per_folder, files)
    return GenevalInput(images, tuple(folder.prompt for folder in folders))


def _source_of(files: Sequence[str], prompts: Sequence[GenevalPrompt], per_prompt: int) -> str:
    """SHA-256 of the images and of the prompt that each was made of: metadata can be corrected."""
    records = [prompt.record for prompt in prompts]
    said = {"images": digest_of_pictures(files), "prompts": records, "per_prompt": per_prompt}
    return hashlib.sha256(canonical_json(said)).hexdigest()


def summary_of(path: Place) -> dict[str, Any]:
    """Scores with intervals from a finished file of verdicts.

    Raises:
        DataError: verdicts are missing.
    """
    header, rows = read_rows(path)
    check_rows_not_blind(rows)
    summary, clusters = summarise(results_of(rows)), clusters_of(rows)
    overall = mean_of_tags(clusters)
    departures = departures_of(header, overall.num_prompts, summary.total_images)
    return {
        "benchmark": "geneval",
        "display": display_of(header, departures),
        "departures": list(departures),
        "tested_by": header.get(TESTED_BY),
        "overall": summary.overall,
        "overall_estimate": _shown(overall),
        "tags": {
            tag: {**score._asdict(), "score": score.score, **_shown(share(clusters[tag]))}
            for tag, score in summary.tags.items()
        },
        "total_images": summary.total_images,
        "total_prompts": summary.total_prompts,
        "fraction_correct_images": summary.fraction_correct_images,
        "fraction_correct_prompts": summary.fraction_correct_prompts,
        "protocol": protocol_of(header),
        "source": header["source"],
    }


def compare_verdicts(a: Place, b: Place) -> dict[str, Any]:
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


def results_of(rows: Sequence[Mapping[str, Any]]) -> list[ImageResult]:
    """Verdicts as the official summary takes them: images of one whole record are one prompt's."""
    return [ImageResult(_prompt_of(row).key, row["tag"], row["correct"]) for row in rows]


def clusters_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Cluster]]:
    """Prompts of each tag with how many of their images are correct.

    Images are of one prompt when the same is asked of them, in one folder or in several.
    """
    totals: dict[str, dict[str, list[bool]]] = {}
    for row in rows:
        key = _prompt_of(row).meaning
        totals.setdefault(row["tag"], {}).setdefault(key, []).append(row["correct"])
    return {
        tag: [Cluster(key, float(sum(right)), len(right)) for key, right in prompts.items()]
        for tag, prompts in totals.items()
    }


def _prompt_of(row: Mapping[str, Any]) -> GenevalPrompt:
    return parse_geneval_prompt(row["prompt"], "the row of a verdict")


def _shown(estimate: Estimate) -> dict[str, Any]:
    return {
        "standard_error": estimate.standard_error,
        "interval": None if estimate.interval is None else list(estimate.interval),
        "num_prompts": estimate.num_prompts,
    }
