"""Detectors that come with evalsuite, and the scoring of a run by one of them."""

import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from evalsuite.artifacts.run_directory import RunDirectory
from evalsuite.artifacts.storage import Place
from evalsuite.config import BenchmarkSpec, load_spec
from evalsuite.pipeline.geneval_run import (
    PORTION,
    geneval_of_run,
    judge_all,
    summary_of,
    verdict_header,
)
from evalsuite.pipeline.row_file import RowFile
from evalsuite.t2i.detections import ColorClassifier, Detector
from evalsuite.t2i.geneval import GenevalOptions
from evalsuite.t2i.shapes import OPTIONS, SHAPES, ShapeColors, ShapeDetector

BUILT_IN = ("shapes",)
VERDICTS = "verdicts"
"""Folder of a run."""


class BuiltIn(NamedTuple):
    """A detector with what goes with it: its protocol, colours, class names and thresholds."""

    detector: Detector
    protocol: dict[str, Any]
    colors: ColorClassifier
    colors_protocol: dict[str, Any]
    names: tuple[str, ...]
    options: GenevalOptions


class JudgedRun(NamedTuple):
    """Scores with intervals, and where the verdicts behind them are."""

    summary: dict[str, Any]
    verdicts: Place


def built_in(name: str) -> BuiltIn:
    """The detector of a name in `BUILT_IN`."""
    assert name in BUILT_IN
    colors = {"kind": "nearest colour of the palette", "version": 1}
    return BuiltIn(
        ShapeDetector(), dict(ShapeDetector.protocol), ShapeColors(), colors, SHAPES, OPTIONS
    )


def metadata_of(name: str) -> Path:
    """The metadata that come with the benchmark of this name."""
    spec = load_spec(BenchmarkSpec, name)
    assert spec.prompts_file.file is not None
    return spec.path.parent / spec.prompts_file.file


def judge_run(run: RunDirectory, name: str, metadata: Path, num_samples: int) -> JudgedRun:
    """Judge all images of a run and keep the verdicts in it, whatever store it is in.

    Raises:
        UsageError: not every prompt has the same number of images.
        DataError: metadata of other prompts, or nothing was found in any image.
        IncompleteError: pixels are missing.
    """
    given, own = geneval_of_run(run, metadata, num_samples), built_in(name)
    header = verdict_header(given, own.options, own.protocol, own.colors_protocol)
    place = f"{VERDICTS}/{name}-{num_samples}.jsonl"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "verdicts.jsonl"
        file = RowFile(path, header, portion=PORTION, total=given.num_images)
        judge_all(given, own.detector, own.colors, own.options, file)
        run.storage.replace(place, path.read_bytes())
        return JudgedRun(summary_of(path), run.storage.path(place))
