"""GenEval's scorer: a detector and a classifier of colours, tested, before the rules.

A row has the verdict, its reasons and the detections behind them: enough to sum up again, and for a
page on which a person can check the detector.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from evalsuite.artifacts.images import Images
from evalsuite.errors import DataError
from evalsuite.pipeline.judged_images import Shown
from evalsuite.pipeline.judgements import Row
from evalsuite.pipeline.known_pictures import KnownPicture
from evalsuite.pipeline.stage_names import DETECTIONS
from evalsuite.pipeline.t2i_networks import (
    colors_protocol,
    detector_protocol,
    load_colors,
    load_detector,
)
from evalsuite.t2i.detections import ColorClassifier, Detections, Detector, NoColors
from evalsuite.t2i.detector_checks import (
    check_against_cpu,
    check_alive,
    check_colors_alive,
    check_shapes,
)
from evalsuite.t2i.geneval import RULES_VERSION, GenevalOptions, Judged, judge_image
from evalsuite.t2i.geneval_prompts import GenevalPrompt
from evalsuite.t2i.mask2former import Mask2FormerDetector
from evalsuite.t2i.shapes import ShapeColors, ShapeDetector, known_picture

SHAPES_PORTION = 16


class Networks(NamedTuple):
    """What judges, loaded and tested."""

    detector: Detector
    colors: ColorClassifier


class DetectorSource(Protocol):
    """Where a detector and its colours come from; it travels to workers."""

    @property
    def name(self) -> str:
        """A short one."""
        ...

    @property
    def portion(self) -> int:
        """Images that are detected together."""
        ...

    @property
    def protocols(self) -> tuple[Mapping[str, Any], Mapping[str, Any] | None]:
        """Of the detector, and of the classifier of colours."""
        ...

    @property
    def tested_by(self) -> Mapping[str, Any] | None:
        """The picture whose objects the detector must name; None where it is asked of none."""
        ...

    def load(self, device: torch.device) -> Networks:
        """Both, once they have passed their self-tests."""
        ...


@dataclass(frozen=True)
class ShapesSource:
    """The shapes' own detector, which comes with evalsuite."""

    name: str = "shapes"
    portion: int = SHAPES_PORTION

    @property
    def protocols(self) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """See `DetectorSource`."""
        colors = {"kind": "nearest colour of the palette", "version": 1}
        return dict(ShapeDetector.protocol), colors

    @property
    def tested_by(self) -> Mapping[str, Any]:
        """See `DetectorSource`: a rendered picture."""
        return {"picture": "rendered", "found": sorted(known_picture()[1])}

    def load(self, device: torch.device) -> Networks:  # noqa: ARG002 - it computes with numpy
        """See `DetectorSource`; the known picture is a rendered one."""
        detector, colors = ShapeDetector(), ShapeColors()
        check_shapes(detector, colors)
        return Networks(detector, colors)


@dataclass(frozen=True)
class FolderSource:
    """Mask2Former and CLIP from folders that every node sees."""

    folder: Path
    names: tuple[str, ...]
    clip: Path | None
    known: KnownPicture | None = None
    name: str = "mask2former"
    portion: int = Mask2FormerDetector.batch_size
    protocols: tuple[Mapping[str, Any], Mapping[str, Any] | None] = field(init=False)

    def __post_init__(self) -> None:
        """Hash the weights once, here.

        Raises:
            DataError: other networks, or files are missing.
        """
        colors = None if self.clip is None else colors_protocol(self.clip)
        object.__setattr__(self, "protocols", (detector_protocol(self.folder, self.names), colors))

    @property
    def tested_by(self) -> Mapping[str, Any] | None:
        """See `DetectorSource`: a photograph, unless it was declined."""
        return None if self.known is None else self.known.about

    def load(self, device: torch.device) -> Networks:
        """See `DetectorSource`."""
        detector = load_detector(self.folder, self.names, device)
        colors = load_colors(self.clip, device) if self.clip is not None else None
        found = (detector.protocol, None if colors is None else colors.protocol)
        if found != self.protocols:
            raise DataError(f"{self.folder} or {self.clip} holds other weights on this machine")
        check_alive(detector.network)
        check_against_cpu(detector.network)
        if colors is not None:
            check_colors_alive(colors.network)
        if self.known is not None:
            self.known.check(detector.network)
        return Networks(
            detector.network, colors.network if colors else NoColors("--clip was not given")
        )


@dataclass(frozen=True)
class GenevalScorer:
    """GenEval on prompts in the order of their places."""

    prompts: tuple[GenevalPrompt, ...]
    prompts_sha256: str
    options: GenevalOptions
    source: DetectorSource
    kind: str = DETECTIONS
    portion_s: float = 0.0
    pads: bool = True

    @property
    def name(self) -> str:
        """The detector's."""
        return self.source.name

    @property
    def portion(self) -> int:
        """The detector's."""
        return self.source.portion

    @property
    def decides(self) -> dict[str, Any]:
        """Prompts, rules, thresholds, and what names the networks."""
        detector, colors = self.source.protocols
        return {
            "benchmark": "geneval",
            "rules_version": RULES_VERSION,
            "prompts_sha256": self.prompts_sha256,
            "options": self.options.model_dump(mode="json"),
            "detector": dict(detector),
            "colors": None if colors is None else dict(colors),
        }

    @property
    def says(self) -> dict[str, Any]:
        """Nothing else."""
        return {}

    @property
    def tested_by(self) -> Mapping[str, Any] | None:
        """The detector's."""
        return self.source.tested_by

    def check(self, rows: Sequence[Row]) -> None:
        """See `Scorer`: a detector that finds nothing in any image."""
        check_rows_not_blind(rows)

    def load(self, device: torch.device) -> "GenevalJudge":
        """See `Scorer`."""
        networks = self.source.load(device)
        return GenevalJudge(self.prompts, self.options, networks.detector, networks.colors)


class GenevalJudge:
    """Detects, asks for colours and judges."""

    def __init__(
        self,
        prompts: Sequence[GenevalPrompt],
        options: GenevalOptions,
        detector: Detector,
        colors: ColorClassifier,
    ) -> None:
        self._prompts, self._options = prompts, options
        self._detector, self._colors = detector, colors

    def rows(self, shown: Sequence[Shown], images: Sequence[Images]) -> list[Row]:
        """See `Judge`.

        Raises:
            DataError: the detector gave NaN, or no masks.
        """
        rows: list[Row] = []
        for one, image, found in zip(shown, images, self._detector.detect(images), strict=True):
            prompt = self._prompts[one.place]
            found.checked(f"image {one.number} of {prompt.prompt[:60]!r}", image.shape[:2])
            judged = judge_image(image, found, prompt, self._colors, self._options)
            rows.append(verdict_row(prompt, one.number, image, found, judged))
        return rows


def check_rows_not_blind(rows: Sequence[Row]) -> None:
    """Raise DataError when no image has any detection, whether its score is enough or not.

    It is asked of all images at once: of some, the answer would depend on which worker has which.
    """
    if not any(row["detections"] for row in rows):
        raise DataError(
            f"the detector found nothing in any of {len(rows)} images: it is broken, or its"
            " weights are others; no score is given"
        )


def verdict_row(
    prompt: GenevalPrompt, number: int, image: Images, found: Detections, judged: Judged
) -> dict[str, Any]:
    """All about one image: what a page shows and a second summary needs.

    Masks are of what was kept, and of all that was found of a class that the prompt names: the
    one that was too uncertain is what explains a wrong count.
    """
    kept = {place for places in judged.kept.values() for place in places}
    named = {clause.class_name for clause in prompt.include}
    named |= {exclusion.class_name for exclusion in prompt.exclude}
    shown = kept | {n for n, one in enumerate(found.found) if one.class_name in named}
    return {
        "prompt": prompt.record,
        "number": number,
        "size": list(image.shape[:2]),
        "tag": prompt.tag,
        "correct": judged.verdict.correct,
        "reasons": list(judged.verdict.reasons),
        "kept": {name: list(places) for name, places in sorted(judged.kept.items())},
        "colors": {str(clause): list(words) for clause, words in judged.colors.items()},
        "detections": [
            {
                "class": detection.class_name,
                "box": list(detection.box),
                "score": round(float(np.float32(detection.score)), 6),
                "mask": run_lengths(detection.mask) if place in shown else None,
            }
            for place, detection in enumerate(found.found)
        ],
    }


def run_lengths(mask_HW: Any) -> list[int] | None:  # noqa: ANN401 - an array or None
    """Lengths of runs of 0 and 1 in turns, row by row, beginning with 0; None without a mask."""
    if mask_HW is None:
        return None
    flat = np.concatenate([[False], np.asarray(mask_HW, dtype=bool).ravel(), [False]])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    edges = edges[edges < flat.size - 2]
    return [int(n) for n in np.diff(np.concatenate([[0], edges, [flat.size - 2]]))]
