"""What a detector finds: masks that are kept, and detectors that see nothing, little or late."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from judging_kit import CUP, Kit, here, judged
from prompted_run import make_drawn_run
from tiny_scorers import write_lines

from evalsuite.errors import DataError
from evalsuite.pipeline.geneval_run import open_geneval, summary_of
from evalsuite.pipeline.geneval_scorer import Networks, run_lengths, verdict_row
from evalsuite.pipeline.integrity import garbage_files
from evalsuite.pipeline.row_file import read_rows, write_rows
from evalsuite.runtime.judging import judge_into
from evalsuite.t2i.detections import Detection, Detections, NoColors
from evalsuite.t2i.geneval import GenevalOptions, judge, judge_image
from evalsuite.t2i.geneval_prompts import parse_geneval_prompt


def test_masks_of_what_a_prompt_names_are_kept_whether_it_counts_or_not() -> None:
    mask = np.ones((4, 4), dtype=bool)
    found = Detections(
        tuple(
            Detection(name, (0, 0, 4, 4), score, mask)
            for name, score in (("cup", 0.95), ("cup", 0.85), ("bird", 0.2), ("dog", 0.2))
        )
    )
    asked = {"tag": "counting", "prompt": "two cups", "include": [{"class": "cup", "count": 2}]}
    prompt = parse_geneval_prompt({**asked, "exclude": [{"class": "dog", "count": 1}]}, "a test")
    image = np.zeros((4, 4, 3), dtype=np.uint8)
    judged = judge_image(image, found, prompt, NoColors(), GenevalOptions())
    row = verdict_row(prompt, 0, image, found, judged)
    assert (row["kept"]["cup"], row["correct"]) == ([0], False)
    assert [one["mask"] is not None for one in row["detections"]] == [True, True, False, True]


def test_masks_are_kept_as_runs() -> None:
    rng = np.random.default_rng(0)
    masks = [rng.random((5, 7)) < share for share in (0.0, 0.2, 0.5, 1.0)]
    for mask in masks:
        lengths = run_lengths(mask)
        assert lengths is not None
        values = np.repeat(np.arange(len(lengths)) % 2, lengths).astype(bool)
        np.testing.assert_array_equal(values.reshape(5, 7), mask)
    assert run_lengths(None) is None


@dataclass(frozen=True)
class Blind:
    """A detector that finds nothing."""

    name: str = "blind"
    portion: int = 16
    tested_by: None = None

    @property
    def protocols(self) -> tuple[dict[str, Any], None]:
        return {"kind": "blind"}, None

    def load(self, device: torch.device) -> Networks:
        return Networks(self, NoColors())

    def detect(self, images: Any) -> list[Detections]:
        return [Detections() for _ in images]


class Mended(Blind):
    """The same detector, once what broke it is mended."""

    def detect(self, images: Any) -> list[Detections]:
        return [Detections((Detection("dog", (0, 0, 4, 4), 0.9),)) for _ in images]


def test_a_detector_that_finds_nothing_gives_no_score(kit: Kit, tmp_path: Path) -> None:
    """And keeps no rows: the same command judges anew once the detector is mended."""
    with pytest.raises(DataError, match="found nothing in any of 32 images"):
        judged(kit, kit.run.root, tmp_path / "v.jsonl", Blind())
    assert not (tmp_path / "v.jsonl").exists()
    assert garbage_files(kit.run) == []
    assert not list(kit.run.root.glob("detections/blind-*/*"))
    assert len(judged(kit, kit.run.root, tmp_path / "mended.jsonl", Mended())) == 32
    rows = judged(kit, kit.run.root, tmp_path / "seeing.jsonl")
    blind = [{**row, "kept": {}, "colors": {}, "detections": []} for row in rows]
    for row in blind:
        prompt = parse_geneval_prompt(row["prompt"], "its prompt")
        reasons = judge(Detections(), {}, prompt, {}, GenevalOptions()).reasons
        row.update(correct=False, reasons=list(reasons))
    write_rows(tmp_path / "v.jsonl", read_rows(tmp_path / "seeing.jsonl")[0], blind)
    with pytest.raises(DataError, match="found nothing in any of 32 images"):
        summary_of(tmp_path / "v.jsonl")


@dataclass(frozen=True)
class Unsure(Blind):
    """A detector that sees in the last image alone, and there less than any threshold."""

    def detect(self, images: Any) -> list[Detections]:
        found = Detections((Detection("cup", (0, 0, 4, 4), 0.1),))
        return [found if (image == LAST).all() else Detections() for image in images]


LAST = 7
"""Grey of the last image."""


def test_a_detector_that_sees_little_and_late_gives_a_score(tmp_path: Path) -> None:
    """However many images without a find one worker has before; portions are padded, too."""
    prompts = [f"{n} cups" for n in range(8)]
    grey = np.full((96, 16, 16, 3), 200, dtype=np.uint8)
    grey[-1] = LAST
    run = make_drawn_run(tmp_path / "run", prompts, grey)
    asked = [{"tag": "counting", "prompt": p, "include": [CUP]} for p in prompts]
    given = open_geneval(run.root, write_lines(tmp_path / "m.jsonl", asked), None)
    scorer = given.scorer(Unsure(), GenevalOptions())
    judge_into(here(), given.images, scorer, tmp_path / "v.jsonl")
    summary = summary_of(tmp_path / "v.jsonl")
    assert (summary["overall"], summary["total_images"]) == (0, 96)
