"""`evalsuite t2i`: judge a run and a folder, go on, sum up again, compare, other scorers."""

import hashlib
import json
import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from harness import Outcome, call_main, is_running, wait_for
from PIL import Image

from evalsuite.artifacts.digests import git_blob_of
from evalsuite.artifacts.run_directory import RunDirectory
from evalsuite.cli.t2i_judging import benchmark_scoring
from evalsuite.config import BenchmarkSpec, load_spec
from evalsuite.errors import CorruptionError, DataError, EnvironmentProblem, UsageError
from evalsuite.pipeline.dpg_protocol import prompts_sha256
from evalsuite.pipeline.dpg_run import open_dpg
from evalsuite.pipeline.dpg_run import summary_of as dpg_summary
from evalsuite.pipeline.export_t2i import export_geneval
from evalsuite.pipeline.exported import open_exported
from evalsuite.pipeline.external_scorer import parse_scores, run_scorer
from evalsuite.pipeline.geneval_run import open_geneval, summary_of
from evalsuite.pipeline.geneval_scorer import (
    FolderSource,
    Networks,
    run_lengths,
    verdict_row,
)
from evalsuite.pipeline.integrity import find_faults, garbage_files
from evalsuite.pipeline.judging import stage_of
from evalsuite.pipeline.row_file import is_written, read_rows, write_rows
from evalsuite.pipeline.scorer_command import parse_command
from evalsuite.pipeline.t2i_networks import load_colors, load_detector
from evalsuite.report.verdicts import verdict_sets
from evalsuite.runtime.judging import Judging, judge_into
from evalsuite.runtime.workforce import Workforce
from evalsuite.t2i.detections import Detection, Detections, NoColors
from evalsuite.t2i.dpg_questions import read_dpg_rows
from evalsuite.t2i.geneval import GenevalOptions, judge, judge_image
from evalsuite.t2i.geneval_prompts import parse_geneval_prompt

sys.path.insert(0, str(Path(__file__).parent))
from prompted_run import PROMPTS, make_drawn_run, make_prompted_run
from tiny_scorers import (
    NAMES,
    save_clip,
    save_detector,
    save_taught_blip,
    write_lines,
    write_names,
)

CPU = torch.device("cpu")
NO_DIFFERENCE = "no interval: it is the same for every prompt"
CUP = {"class": "cup", "count": 1}


class Kit:
    """A run of 8 prompts, small networks, and what GenEval and DPG-Bench ask of the prompts."""

    def __init__(self, root: Path) -> None:
        self.root, self.run = root, make_prompted_run(root / "run")
        self.detector, self.clip = save_detector(root / "m2f"), save_clip(root / "clip")
        self.blip, self.names = save_taught_blip(root / "blip"), write_names(root / "names.txt")
        self.metadata = write_lines(root / "evaluation_metadata.jsonl", records())
        head = "item_id,text,proposition_id,dependency,tuple,question_natural_language\n"
        rows = [
            f"i{n},{p},1,0,entity - whole (cup),is there a cup ?\n"
            f'i{n},{p},2,1,"attribute - color (cup, red)",is there red cup ?\n'
            for n, p in enumerate(PROMPTS)
        ]
        self.csv = root / "dpg_bench.csv"
        self.csv.write_text(head + "".join(rows))

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


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Kit:
    """Not to be changed."""
    return Kit(tmp_path_factory.mktemp("t2i"))


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


def test_a_run_is_judged_by_the_command_and_summed_up_again(kit: Kit, tmp_path: Path) -> None:
    """The full input size, on eight images; the second call finds all verdicts."""
    verdicts, first = tmp_path / "verdicts.jsonl", tmp_path / "first.json"
    options = ("--metadata", kit.metadata, "--num-samples", 8, "--output", verdicts)
    done = kit.geneval(kit.run.root, *options, "--json", first)
    assert done.code == 0, done.stderr
    assert "8 of 8 images are to be judged" in done.stderr
    assert list((kit.run.root / "receipts" / "detections").glob("mask2former-*"))
    departures = ["not tested on a photograph", "other object names, or in another order"]
    departures += ["a detector that is not Mask2Former Swin-S", "a CLIP that is not ViT-L/14"]
    departures += ["other prompts than its 553", "images of each prompt 1, not 4"]
    name = f"GenEval (HF detector; {'; '.join(departures)})"
    assert f"{name}: 8 images of 8 prompts" in done.stdout
    again = kit.geneval(kit.run.root, *options)
    assert (again.stdout, again.stderr) == (done.stdout, "")
    summed = call_main("t2i", "summary", verdicts, "--json", tmp_path / "again.json")
    assert summed.stdout == done.stdout
    found = json.loads(first.read_text())
    assert found == json.loads((tmp_path / "again.json").read_text())
    assert found["departures"] == departures
    names = found["protocol"]["detector"]["names_sha256"]
    assert names == hashlib.sha256(kit.names.read_bytes()).hexdigest()
    assert found["protocol"]["options"] == GenevalOptions().model_dump()
    assert len(found["protocol"]["detector"]["weights_sha256"]) == 64
    assert found["overall"] == np.mean([tag["score"] for tag in found["tags"].values()])
    other = kit.geneval(kit.run.root, *options, "--threshold", 0.5)
    assert other.code == 2
    assert "holds rows of another scoring, by other options" in other.stderr


def test_a_run_and_its_export_get_the_same_verdicts(kit: Kit, tmp_path: Path) -> None:
    """Whatever the order."""
    export_geneval(kit.run, 32, kit.metadata, tmp_path / "images")
    of_run = judged(kit, kit.run.root, tmp_path / "run.jsonl")
    of_folder = judged(kit, tmp_path / "images", tmp_path / "folder.jsonl")
    assert len(of_run) == len(of_folder) == 32
    assert 0 < sum(row["correct"] for row in of_run) < 32

    def key(row: dict[str, Any]) -> tuple[str, int]:
        return row["prompt"]["prompt"], row["number"]

    for a, b in zip(sorted(of_run, key=key), sorted(of_folder, key=key), strict=True):
        assert {k: a[k] for k in ("prompt", "correct", "reasons", "kept", "colors")} == {
            k: b[k] for k in ("prompt", "correct", "reasons", "kept", "colors")
        }
    compared = call_main("t2i", "compare", tmp_path / "run.jsonl", tmp_path / "run.jsonl")
    last = compared.stdout.splitlines()[-1]
    assert last.split(None, 2) == ["difference", "+0.0000", NO_DIFFERENCE]
    assert len(compared.stdout.splitlines()) == 5  # four tags
    judged(kit, kit.run.root, tmp_path / "other.jsonl", SmallSource(kit, "another"))
    refused = call_main("t2i", "compare", tmp_path / "run.jsonl", tmp_path / "other.jsonl")
    assert refused.code == 3
    assert "judged by other detector: no comparison" in refused.stderr


@pytest.mark.parametrize("layout", ["run", "folder"])
def test_what_was_judged_stays_when_it_is_stopped(kit: Kit, tmp_path: Path, layout: str) -> None:
    """The file that one that was stopped and went on writes has the bytes of an undisturbed one."""
    images = kit.run.root
    if layout == "folder":
        images = tmp_path / "images"
        export_geneval(kit.run, 32, kit.metadata, images)
    kind = f"stopped {layout}"
    with pytest.raises(KeyboardInterrupt):
        judged(kit, images, tmp_path / "a.jsonl", SmallSource(kit, kind, stops_after=5))
    assert not (tmp_path / "a.jsonl").exists()
    again = here()
    judged(kit, images, tmp_path / "a.jsonl", SmallSource(kit, kind), again)
    # one portion of four, four more, then shards of eight, whose second was stopped in its middle
    assert (again.report.images_kept, again.report.images_judged) == (16, 16)
    judged(kit, images, tmp_path / "b.jsonl", SmallSource(kit, f"{kind}, not"))
    ours, theirs = (read_rows(tmp_path / name)[1] for name in ("a.jsonl", "b.jsonl"))
    assert ours == theirs
    nothing = here()
    judged(kit, images, tmp_path / "a.jsonl", SmallSource(kit, kind), nothing)
    assert nothing.report.images_judged == 0


def test_another_version_of_the_rules_is_another_scorer(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that older rules gave are not gone on with, and no longer compared."""
    rows, names = read_dpg_rows(kit.csv), ("geneval_scorer", "dpg_run")
    images = open_geneval(kit.run.root, kit.metadata, None)
    asked = open_dpg(kit.run.root, kit.csv, rows, None, None)
    scorers: list[Any] = [images.scorer(SmallSource(kit), GenevalOptions())]
    scorers.append(asked.scorer(rows, kit.csv, PixelJudge()))
    before = [stage_of(scorer) for scorer in scorers]
    for name in names:
        monkeypatch.setattr(f"evalsuite.pipeline.{name}.RULES_VERSION", 0)
    assert not {stage_of(scorer) for scorer in scorers} & set(before)


def test_a_damaged_shard_and_one_of_other_pixels_are_judged_again(kit: Kit, tmp_path: Path) -> None:
    source, before = SmallSource(kit, "damaged"), set(kit.run.root.glob("detections/*"))
    first = judged(kit, kit.run.root, tmp_path / "a.jsonl", source)
    (folder,) = set(kit.run.root.glob("detections/*")) - before
    shards = sorted(folder.iterdir())
    shards[0].write_bytes(shards[0].read_bytes()[:-9])
    receipts = sorted((kit.run.root / "receipts" / "detections" / folder.name).iterdir())
    other = json.loads(receipts[1].read_text())
    receipts[1].write_text(json.dumps({**other, "pixels_digest": "0" * 64}))
    faults = [fault.text for fault in find_faults(kit.run)]
    assert len(faults) == 2
    assert "was made of other pixels" in " ".join(faults)
    again = here()
    assert judged(kit, kit.run.root, tmp_path / "a.jsonl", source, again) == first
    made = other["stop"] - other["start"]
    assert (again.report.images_judged, find_faults(kit.run)) == (4 + made, [])
    assert garbage_files(kit.run) == []
    last = json.loads(receipts[-1].read_text())
    receipts[-1].write_text(json.dumps({**last, "stage_version": last["stage_version"] + 1}))
    third = here()
    assert judged(kit, kit.run.root, tmp_path / "a.jsonl", source, third) == first
    assert third.report.images_judged == last["stop"] - last["start"]


def test_run_refuses_networks_that_score_nothing(kit: Kit) -> None:
    """Before an image is made."""
    asked = dict.fromkeys(("detector", "judge", "object_names", "clip", "known_picture"))
    geneval, dpg = (load_spec(BenchmarkSpec, name) for name in ("geneval", "dpg"))
    for spec, given, words in [
        (None, {"detector": str(kit.detector)}, "--detector scores a benchmark"),
        (dpg, {"detector": str(kit.detector)}, "--detector scores a benchmark"),
        (geneval, {"judge": kit.blip}, "--judge scores a benchmark"),
        (geneval, {"clip": kit.clip}, "--clip needs --detector"),
    ]:
        with pytest.raises(UsageError, match=words):
            benchmark_scoring(spec, {**asked, **given})
    assert benchmark_scoring(geneval, asked) is None
    shapes = load_spec(BenchmarkSpec, "shapes")
    others = {"detector": str(kit.detector), "object_names": kit.names}
    with pytest.raises(UsageError, match="the object 'square', which this scorer does not"):
        benchmark_scoring(shapes, {**asked, **others})


def test_a_picture_of_ones_own_is_looked_at_also_of_what_is_judged(
    kit: Kit, tmp_path: Path
) -> None:
    picture = tmp_path / "known.png"
    Image.fromarray(next(iter(kit.run.read_images(0, 1)))[1]).save(picture)
    source = FolderSource(kit.detector, NAMES, kit.clip)
    (found,) = source.load(CPU).detector.detect([np.asarray(Image.open(picture))])
    best = max(found.found, key=lambda one: one.score).class_name
    other = next(name for name in NAMES if name != best)
    asked = ("--metadata", kit.metadata, "--num-samples", 8)
    untested = kit.geneval(kit.run.root, *asked)
    assert untested.code == 0, untested.stderr
    assert untested.stdout.splitlines()[-1].startswith("the detector was not tested on a photo")
    # all is judged now, and the picture is looked at all the same
    refused = kit.geneval(kit.run.root, *asked, "--known-picture", f"{picture}={other}")
    assert (refused.code, refused.stdout) == (6, "")
    assert f"on a picture of {other} (known.png) it finds {best} (" in refused.stderr
    tested = kit.geneval(kit.run.root, *asked, "--known-picture", f"{picture}={best}")
    assert (tested.code, tested.stderr) == (0, "")
    said = untested.stdout.replace("(HF detector; not tested on a photograph; ", "(HF detector; ")
    assert tested.stdout.splitlines() == said.splitlines()[:-1]
    digest = hashlib.sha256(picture.read_bytes()).hexdigest()
    expected = {"picture": "known.png", "sha256": digest, "found": [best], "threshold": 0.3}
    kept = [
        header["tested_by"]
        for path in (kit.run.root / "verdicts").glob("mask2former-*-8.jsonl")
        for header in [read_rows(path)[0]]
    ]
    assert kept == [expected]
    again = kit.geneval(kit.run.root, *asked)  # what was once passed stays said
    assert again.stdout == tested.stdout


@pytest.mark.parametrize("layout", ["run", "folder"])
def test_what_is_judged_is_tested_once_when_a_picture_is_given(
    kit: Kit, tmp_path: Path, layout: str
) -> None:
    """And the file of verdicts says so; its rows stay."""
    images, output, kind = kit.run.root, tmp_path / "v.jsonl", f"tested {layout}"
    if layout == "folder":
        images = tmp_path / "images"
        export_geneval(kit.run, 8, kit.metadata, images)
    loads = []

    class Tested(SmallSource):
        def load(self, device: torch.device) -> Networks:
            loads.append(device)
            return super().load(device)

    about = {"picture": "x.png", "sha256": "0" * 64, "found": ["cup"]}
    rows = judged(kit, images, output, SmallSource(kit, kind))
    for _ in range(2):
        assert judged(kit, images, output, Tested(kit, kind, tested_by=about)) == rows
    assert len(loads) == 1
    assert read_rows(output)[0]["tested_by"] == summary_of(output)["tested_by"] == about


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


def test_what_cannot_be_judged_is_said(
    kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVALSUITE_CACHE", str(tmp_path / "cache"))  # GenEval is not fetched there
    run, output = kit.run.root, ("--output", tmp_path / "v.jsonl")
    asked = ("--metadata", kit.metadata)
    few = write_lines(tmp_path / "few.jsonl", records()[:-1])
    unicorn, teal, tag = (
        write_lines(tmp_path / f"{key}.jsonl", [{**one, **own}, *records()[1:]])
        for key, own in [
            ("unicorn", {"include": [{"class": "unicorn", "count": 1}]}),
            ("teal", {"include": [{**CUP, "color": "bleu"}]}),
            ("tag", {"tag": "countign"}),
        ]
        for one in records()[:1]
    )
    export_geneval(kit.run, 32, kit.metadata, tmp_path / "images")
    shutil.copytree(tmp_path / "images", tmp_path / "grey")
    last = tmp_path / "grey" / "00007" / "samples" / "00000.png"
    Image.open(last).convert("L").save(last)  # found before any worker begins
    (tmp_path / "images" / "00003" / "samples" / "00002.png").unlink()
    for images, options, code, line in [
        (run, (), 2, "what do the prompts of"),
        (run, ("--metadata", few), 3, "is not of the run's prompts"),
        (run, (*asked, "--output", tmp_path), 5, "is a folder: give a file for what is found"),
        (run, (*asked, "--num-samples", 12), 2, "no whole rounds of 8"),
        (run, ("--metadata", unicorn), 2, "has the object 'unicorn', which this scorer does not"),
        (run, ("--metadata", teal), 2, "has the colour 'bleu', which this scorer does not know; "),
        (run, ("--metadata", tag), 2, "the tag 'countign', which this scorer does not know; did"),
        (run, (*asked, "--threshold", 0.04), 2, "leaves out what scores less than 0.05"),
        (tmp_path / "images", (), 2, "what do the prompts of"),
        (tmp_path / "images", asked, 3, "has 3 images, others 4"),
        (tmp_path / "images", (*asked, "--num-samples", 8), 2, "--num-samples is of a run"),
        (tmp_path / "none", asked, 2, "neither a run nor a folder"),
        (kit.detector, asked, 3, "holds no folder whose name is a number"),
        (tmp_path / "grey", asked, 3, "00000.png is greyscale (mode L), not RGB"),
    ]:
        done = kit.geneval(images, *output, *options)
        assert (done.code, done.stderr.count("\n")) == (code, 1), done.stderr
        assert line in done.stderr
    assert not (tmp_path / "v.jsonl").exists()


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


@dataclass(frozen=True)
class Babbling(PixelJudge):
    """A judge of other questions."""

    @property
    def protocol(self) -> dict[str, Any]:
        return {"name": "babbling"}

    def answer(self, image: Any, questions: Any) -> list[str]:
        return ["two cups" for _ in questions]


def test_a_judge_that_says_neither_yes_nor_no_gives_no_score(kit: Kit, tmp_path: Path) -> None:
    rows, path = read_dpg_rows(kit.csv), tmp_path / "a.jsonl"
    given = open_dpg(kit.run.root, kit.csv, rows, None, None)
    with pytest.raises(DataError, match="64 of 64 answers are neither yes nor no, such as 'two"):
        judge_into(here(), given.images, given.scorer(rows, kit.csv, Babbling()), path)
    assert not path.exists()


def test_dpg_asks_a_run_and_its_grids_the_same(
    kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grids = tmp_path / "grids"
    metadata = ("--metadata", kit.csv)
    done = call_main("export", kit.run.root, "--format", "dpg", *metadata, "--output", grids)
    assert done.code == 0, done.stderr
    rows, found = read_dpg_rows(kit.csv), []
    for place, (images, side) in enumerate(((kit.run.root, None), (grids, 16))):
        given = open_dpg(images, kit.csv, rows, None, side)
        path = tmp_path / f"{place}.jsonl"
        judge_into(here(), given.images, given.scorer(rows, kit.csv, PixelJudge()), path)
        found.append(dpg_summary(path, kit.csv))
    sources = [one.pop("source") for one in found]
    assert len(set(sources)) == 2
    assert found[0] == found[1]
    csv = ("--dpg-csv", kit.csv)
    compared = call_main("t2i", "compare", tmp_path / "0.jsonl", tmp_path / "1.jsonl", *csv)
    assert compared.stdout.split()[:2] == ["difference", "+0.0000"], compared.stderr
    other = tmp_path / "other.csv"
    other.write_text(
        kit.csv.read_text().replace("i3,a photo of 3 cups,2,1", "i3,a photo of 3 cups,2,0")
    )
    for command in (("summary",), ("compare", tmp_path / "1.jsonl")):
        refused = call_main("t2i", *command, tmp_path / "0.jsonl", "--dpg-csv", other)
        assert (refused.code, "holds answers to the questions of" in refused.stderr) == (2, True)
    assert found[0]["corrected"]["num_answers"] == 64
    assert 0 < found[0]["corrected"]["overall"] < 100
    assert found[0]["official"]["dropped"].keys() == {"i0"}  # its first row is skipped
    assert found[0]["official"]["overall"] == 0  # "Yes." is not exactly yes
    departures = ["other prompts than its 1065", "other questions than its dpg_bench.csv"]
    assert found[0]["departures"] == departures
    assert found[0]["display"] == f"DPG (pixels; {'; '.join(departures)})"
    (shown,) = [one for one in verdict_sets(kit.run, "verdicts") if "pixels" in one.title]
    assert shown.title == f"DPG, corrected (pixels; {'; '.join(departures)})"
    assert [bar.name for bar in shown.bars] == ["entity", "attribute", "overall"]
    assert shown.bars[-1].value == found[0]["corrected"]["overall"]
    intervals = found[0]["corrected"]["category_intervals"]
    assert [bar.interval for bar in shown.bars[:2]] == [
        tuple(intervals[name]) for name in ("entity", "attribute")
    ]
    assert intervals["entity"][0] < shown.bars[0].value < intervals["entity"][1]
    assert (shown.published, departures[0] in shown.notes[1]) == ((), True)
    ours = prompts_sha256((row.item_id, row.prompt.upper() + " ") for row in rows[::2])
    spec = load_spec(BenchmarkSpec, "dpg")
    file = spec.files[0].model_copy(update={"git_blob": git_blob_of(kit.csv)})
    whole = spec.model_copy(update={"prompts_sha256": ours, "files": (file,)})
    with monkeypatch.context() as patch:
        patch.setattr("evalsuite.pipeline.dpg_protocol.load_spec", lambda kind, name: whole)
        (shown,) = [one for one in verdict_sets(kit.run, "verdicts") if "pixels" in one.title]
    assert shown.title == "DPG, corrected (pixels)"
    models = [tick.model for tick in shown.bars[-1].ticks]
    assert models == [row.model for row in shown.published]
    assert "PixNerd-XXL/16" in models
    lowest, highest = ([card.lines for card in group.cards] for group in shown.groups)
    assert (lowest[0][0], highest[0][0]) == ("0 of 100", "100 of 100")
    assert len(lowest[0]) == 3  # the score and two questions
    with pytest.raises(DataError, match=r"i0\.png of 32x32 has no 2 x 2 cells of 8x8"):
        open_dpg(grids, kit.csv, rows, None, 8)
    (grids / "i3.png").rename(grids / "i3.JPG")
    with pytest.raises(DataError, match=r"holds 1 JPEGs such as i3\.JPG: PNG is wanted"):
        open_dpg(grids, kit.csv, rows, None, 16)
    (grids / "i3.JPG").rename(grids / "i3.png")
    (grids / "i3.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"i3\.png cannot be read as an image"):
        open_dpg(grids, kit.csv, rows, None, 16)
    (grids / "i3.png").unlink()
    with pytest.raises(DataError, match=r"lacks 1 files such as i3\.png"):
        open_dpg(grids, kit.csv, rows, None, 16)


def test_a_run_is_asked_by_the_command(kit: Kit, tmp_path: Path) -> None:
    answers, options = tmp_path / "a.jsonl", ("--dpg-csv", kit.csv, "--num-samples", 8)
    judge = ("--judge", kit.blip, "--device", "cpu", "--output", answers)
    done = call_main("t2i", "dpg", kit.run.root, *options, *judge)
    assert done.code == 0, done.stderr
    departures = (
        "other prompts than its 1065; other questions than its dpg_bench.csv;"
        " images of each prompt 1, not 4"
    )
    assert f"DPG (blip-vqa; {departures}): of official, published category scores" in done.stdout
    header, rows = read_rows(answers)
    assert (len(rows), len(header["judge"]["weights_sha256"])) == (8, 64)
    assert {word for row in rows for word in row["answers"].values()} == {"yes", "no"}
    assert call_main("t2i", "summary", answers, "--dpg-csv", kit.csv).stdout == done.stdout


SCORER = """import json, sys
images, output, mode = sys.argv[1:]
if mode == "fail":
    sys.exit("no kernel image is available")
if mode == "garbage":
    print("Overall: about 0.7")
elif mode == "nan":
    print('{"overall": NaN}')
elif mode == "names":
    print('{"\\\\u009b31m": 1}')
elif mode == "line":
    print("hello"); print(json.dumps({"overall": 0.25}))
else:
    json.dump({"overall": 0.5, "counting": 1, "total_images": 2212}, open(output, "w"))
"""


def test_an_external_scorers_numbers_are_taken_with_their_provenance(tmp_path: Path) -> None:
    script, images = tmp_path / "score.py", tmp_path / "images"
    script.write_text(SCORER)
    images.mkdir()
    (images / "x.png").write_bytes(b"x")
    command = f"command:{sys.executable} {script} {{images}} {{output}}"
    out = tmp_path / "scores.json"
    base = ("t2i", "external", images, "--layout", "geneval")
    odd = call_main(*base, "--scorer", f"{command} names")
    assert (odd.code, odd.stdout.split()) == (0, ["\\x9b31m", "1"])
    done = call_main(*base, "--scorer", f"{command} file", "--json", out)
    assert done.code == 0, done.stderr
    assert done.stdout.split() == ["overall", "0.5", "counting", "1", "total_images", "2212"]
    assert "images is of is not known" in done.stderr
    provenance = json.loads(out.read_text())["provenance"]
    assert provenance["command"][1] == str(script)
    digest = hashlib.sha256(script.read_bytes()).hexdigest()
    assert provenance["files_sha256"][str(script)] == digest
    assert (provenance["of"]["images"], provenance["of"]["num_files"]) == (str(images), 1)
    other = open_exported(images, "geneval").digest
    assert provenance["of"]["files_sha256"] == other.sha256
    (images / "x.png").write_bytes(b"y")
    assert open_exported(images, "geneval").digest != other
    parsed = parse_command(f"{command} line", tmp_path)
    line = run_scorer(parsed, open_exported(images, "geneval"), "geneval")
    assert (line["scores"], line["provenance"]["scores_from"]) == ({"overall": 0.25}, "last line")
    for mode, code, words in [
        ("fail", 6, "ended with 1: no kernel image is available"),
        ("garbage", 3, "gave no JSON in its last line: 'Overall: about 0.7'"),
        ("nan", 3, "NaN is no number in JSON"),
    ]:
        done = call_main(*base, "--scorer", f"{command} {mode}")
        assert (done.code, done.stderr.count("\n")) == (code, 2)  # of no run, and the error
        assert words in done.stderr


def test_an_external_scorers_numbers_enter_the_run_and_its_page(kit: Kit, tmp_path: Path) -> None:
    """The run is the one that the images were exported from, to the byte."""
    images, script = tmp_path / "images", tmp_path / "score.py"
    script.write_text(SCORER)
    export_geneval(kit.run, 32, kit.metadata, images)
    assert not list(images.glob("*.json"))  # official scorers read all that is in there
    scorer = ("--scorer", f"command:{sys.executable} {script} {{images}} {{output}} file")
    base = ("t2i", "external", images, "--layout")
    done = call_main(*base, "geneval", *scorer)
    assert (done.code, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1].startswith(f"kept in {kit.run.root}/verdicts/external-gen")
    (shown,) = [one for one in verdict_sets(kit.run, "verdicts") if "external" in one.title]
    assert [(bar.name, bar.value) for bar in shown.bars] == [("counting", 1.0), ("overall", 0.5)]
    assert (shown.num_images, str(script) in shown.notes[0]) == (32, True)
    assert (shown.most, shown.notes[1]) == (1.0, "total_images 2212.")  # no bar, and no scale
    kept = kit.run.root / "verdicts" / shown.name
    sound = kept.read_text()
    damaged = ["[" * 9000, "[]", '{"scores": []}', sound.replace("0.5", "9" * 5000)]
    damaged += [sound.replace("0.5", value) for value in ("NaN", '"x"', "1e999", "true", "[1]")]
    for text in damaged:
        kept.write_text(text)
        with pytest.raises(CorruptionError, match="cannot be read: remove it"):
            verdict_sets(kit.run, "verdicts")
    kept.write_text(sound)
    again = call_main(*base, "geneval", *scorer, "--run", kit.run.root)
    assert again.stdout == done.stdout
    assert call_main(*base, "dpg", *scorer).stderr.endswith("was exported as geneval, not dpg\n")
    other = make_drawn_run(tmp_path / "other", list(PROMPTS), np.zeros((96, 32, 32, 3), np.uint8))
    refused = call_main(*base, "geneval", *scorer, "--run", other.root)
    assert (refused.code, "was not exported from" in refused.stderr) == (3, True)
    next(images.rglob("*.png")).write_bytes(b"another")
    refused = call_main(*base, "geneval", *scorer)
    assert (refused.code, "holds other files than" in refused.stderr) == (3, True)
    (tmp_path / "images.export.json").unlink()
    refused = call_main(*base, "geneval", *scorer, "--run", kit.run.root)
    assert (refused.code, "nothing says that the images are" in refused.stderr) == (2, True)


def test_what_a_scorer_started_ends_with_it(tmp_path: Path) -> None:
    """Whether it ends well, and before the limit or not; what it left running holds nobody up."""
    script, images = tmp_path / "score.py", tmp_path / "images"
    images.mkdir()
    (images / "x.png").write_bytes(b"x")
    script.write_text(
        "import subprocess, sys, time\n"
        "child = subprocess.Popen(['sleep', '600'])\n"
        "open(sys.argv[2], 'w').write(str(child.pid))\n"
        "print('{\"overall\": 1}', flush=True)\n"
        "time.sleep(float(sys.argv[3]))\n"
    )
    exported = open_exported(images, "dpg")
    for seconds, limit_s in ((0, 60.0), (600, 1.0)):
        text = f"command:{sys.executable} {script} {{images}} {tmp_path / 'pid'} {seconds}"
        command = parse_command(text, tmp_path)
        if seconds:
            with pytest.raises(EnvironmentProblem, match="was stopped after 1 s: give another --t"):
                run_scorer(command, exported, "dpg", limit_s)
        else:
            assert run_scorer(command, exported, "dpg", limit_s)["scores"] == {"overall": 1}
        pid = int((tmp_path / "pid").read_text())
        wait_for(lambda pid=pid: not is_running(pid))


def test_commands_and_scores_that_are_none(tmp_path: Path) -> None:
    for text in ("python x", "command:", "command:x", "command:'x {images}"):
        with pytest.raises(UsageError, match="--scorer"):
            parse_command(text, tmp_path)
    garbage = ("[" * 9000, '{"a": ' + "9" * 400 + "}", '{"a": ' + "9" * 5000 + "}")
    large = ('{"a": -1.7e308}', '{"a": ' + "9" * 290 + "}")
    for text in ("[]", "{}", '{"a": "0.5"}', '{"a": true}', "0.5", *garbage, *large):
        with pytest.raises(DataError, match="the scorer gave"):
            parse_scores(text, "x")
    for program in ("/nowhere/x", "./x.sh", "no-such-program"):
        with pytest.raises(EnvironmentProblem, match=f"cannot start {program}"):
            parse_command(f"command:{program} {{images}}", tmp_path)


def test_row_files_of_other_things_are_refused(tmp_path: Path) -> None:
    for content, error in [
        ("not json\n", CorruptionError),
        ("{}\n", CorruptionError),
        ("", CorruptionError),
        ('{"schema": 99}\n', DataError),
    ]:
        path = tmp_path / "rows.jsonl"
        path.write_text(content)
        with pytest.raises(error):
            is_written(path, {"benchmark": "geneval"})
    write_rows(path, {"benchmark": "geneval", "num_images": 2}, [{"a": 1}])
    with pytest.raises(DataError, match="holds 1 rows of 2"):
        read_rows(path)


def test_a_run_of_classes_has_no_prompts(tmp_path: Path, kit: Kit) -> None:
    from run_builder import make_run

    run: RunDirectory = make_run(tmp_path / "classes", num_images=32)
    done = kit.geneval(run.root, "--metadata", kit.metadata, "--output", tmp_path / "v.jsonl")
    assert (done.code, "is a run of classes" in done.stderr) == (2, True)


RECIPES = Path(__file__).parents[2] / "docs" / "recipes"
OFFICIAL = {
    "evaluation/evaluate_images.py": "import sys\nopen(sys.argv[3], 'w').write('x')\n",
    "evaluation/summary_scores.py": "print('Total images: 2212')\n"
    "print('colors           = 81.91% (308 / 376)')\n"
    "print('Overall score (avg. over tasks): 0.73456')\n",
    "accelerate/__init__.py": "",
    "accelerate/commands/__init__.py": "",
    "accelerate/commands/launch.py": "print('Failed filename: partiprompts97.png 1')\n"
    "print('L1 category scores:\\n\\tentity: 91.5\\n\\tglobal: 80.0\\nL2 category scores:')\n"
    "print('\\tentity - whole: 92.0\\nDPG-Bench score: 80.9')\n",
}
"""What the official programs print, without their networks."""


def test_the_recipes_read_what_the_official_programs_print(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in OFFICIAL.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    for name in ("GENEVAL", "ELLA", "PYTHONPATH", "GENEVAL_DETECTOR"):
        monkeypatch.setenv(name, str(tmp_path))
    for name in ("GENEVAL_PYTHON", "ELLA_PYTHON"):
        monkeypatch.setenv(name, sys.executable)
    monkeypatch.chdir(tmp_path.parent)
    for name in ("GENEVAL", "ELLA", "GENEVAL_DETECTOR"):
        monkeypatch.setenv(name, tmp_path.name)
    geneval = parse_command(
        f"command:{RECIPES / 'geneval.sh'} {{images}} {{output}}", tmp_path.parent
    )
    images = open_exported(tmp_path, "geneval")
    scores = run_scorer(geneval, images, "geneval")["scores"]
    expected = {"colors": 0.8191, "overall": 0.73456}
    assert scores == pytest.approx(expected)
    dpg = parse_command(f"command:{RECIPES / 'dpg.sh'} {{images}} {{output}} 512", tmp_path.parent)
    assert run_scorer(dpg, images, "dpg")["scores"] == {
        "overall": 80.9,
        "dropped_files": 1,
        "unreliable_entity": 91.5,
        "unreliable_global": 80.0,
    }
    launch = tmp_path / "evaluation" / "evaluate_images.py"
    launch.write_text("print('CUDA error: no kernel image is available')\n")
    with pytest.raises(EnvironmentProblem, match="mmcv was not built for this GPU"):
        run_scorer(geneval, images, "geneval")
