"""What commands judge: a run of prompts, small networks and judges, and the product's only way."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from harness import Outcome, call_main
from prompted_run import PROMPTS, make_prompted_run
from tiny_scorers import NAMES, save_clip, save_detector, save_taught_blip, write_lines, write_names

from evalsuite.pipeline.geneval_run import open_geneval
from evalsuite.pipeline.geneval_scorer import Networks
from evalsuite.pipeline.row_file import read_rows
from evalsuite.pipeline.t2i_networks import load_colors, load_detector
from evalsuite.runtime.judging import Judging, judge_into
from evalsuite.runtime.workforce import Workforce
from evalsuite.t2i.detections import Detections
from evalsuite.t2i.geneval import GenevalOptions

CUP = {"class": "cup", "count": 1}


class Kit:
    """A run of 8 prompts, small networks, and what GenEval and DPG-Bench ask of the prompts.

    A network is made when a test first asks for it.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.run = root, make_prompted_run(root / "run")
        self.names = write_names(root / "names.txt")
        self.metadata = write_lines(root / "evaluation_metadata.jsonl", records())
        head = "item_id,text,proposition_id,dependency,tuple,question_natural_language\n"
        rows = [
            f"i{n},{p},1,0,entity - whole (cup),is there a cup ?\n"
            f'i{n},{p},2,1,"attribute - color (cup, red)",is there red cup ?\n'
            for n, p in enumerate(PROMPTS)
        ]
        self.csv = root / "dpg_bench.csv"
        self.csv.write_text(head + "".join(rows))

    @cached_property
    def detector(self) -> Path:
        return save_detector(self.root / "m2f")

    @cached_property
    def clip(self) -> Path:
        return save_clip(self.root / "clip")

    @cached_property
    def blip(self) -> Path:
        return save_taught_blip(self.root / "blip")

    def geneval(self, images: object, *options: object) -> Outcome:
        networks: tuple[object, ...] = ("--detector", self.detector, "--clip", self.clip)
        networks += ("--object-names", self.names, "--known-picture", "none")  # random weights
        return call_main("t2i", "geneval", images, *networks, "--device", "cpu", *options)


def records() -> list[dict[str, Any]]:
    """Two prompts of a tag, asking for what a random detector finds now and then."""
    tags = ("single_object", "colors", "counting", "position")
    found: list[dict[str, Any]] = []
    for n, prompt in enumerate(PROMPTS):
        one: dict[str, Any] = {"class": NAMES[n % 5], "count": 1}
        record = {"tag": tags[n % 4], "prompt": prompt, "include": [one]}
        if record["tag"] == "colors":
            one["color"] = ("red", "blue")[n // 4]
        if record["tag"] == "position":
            record["include"] = [one, {"class": NAMES[0], "count": 1, "position": ["above", 0]}]
        found.append(record)
    return found


@dataclass(frozen=True)
class SmallSource:
    """The detector at a small size, which is quick; it may be told to stop like a person."""

    kit: Kit
    kind: str = "tiny"
    stops_after: int | None = None
    tested_by: dict[str, Any] | None = None
    name: str = "tiny"
    portion: int = 4

    @property
    def protocols(self) -> tuple[dict[str, Any], None]:
        return {"kind": self.kind}, None

    def load(self, device: torch.device) -> Networks:
        loaded = load_detector(self.kit.detector, NAMES, device).network
        network: Any = replace(loaded, long_edge=96, short_edge=64)
        if self.stops_after is not None:
            network = Stopping(network, self.stops_after)
        return Networks(network, load_colors(self.kit.clip, device).network)


class Stopping:
    """A detector that is stopped after so many portions."""

    def __init__(self, detector: Any, after: int) -> None:
        self.detector, self.left = detector, after

    def detect(self, images: Any) -> list[Detections]:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        found: list[Detections] = self.detector.detect(images)
        return found


def here() -> Judging:
    """One worker, in this process."""
    return Judging(Workforce(1, None, "cpu"), lambda progress: None, lambda text: None)


def judged(
    kit: Kit, images: Path, output: Path, source: Any = None, by: Judging | None = None
) -> list[dict[str, Any]]:
    """Verdicts by the small detector, through the product's only way."""
    given = open_geneval(images, kit.metadata, None)
    scorer = given.scorer(source or SmallSource(kit), GenevalOptions(threshold=0.3))
    judge_into(by or here(), given.images, scorer, output)
    return read_rows(output)[1]


@dataclass(frozen=True)
class PixelJudge:
    """Answers by the pixels and the question alone."""

    @property
    def protocol(self) -> dict[str, Any]:
        return {"name": "pixels"}

    def load(self, device: torch.device) -> "PixelJudge":
        return self

    def answer(self, image: Any, questions: Any) -> list[str]:
        return [("Yes.", "no")[(int(image.sum()) + len(text)) % 2] for text in questions]
