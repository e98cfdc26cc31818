"""`evalsuite t2i geneval`: judge a run and a folder, test on a picture, go on, sum up, compare."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from harness import call_main
from judging_kit import CUP, Kit, PixelJudge, SmallSource, here, judged, records
from PIL import Image
from tiny_scorers import NAMES, write_lines

from evalsuite.artifacts.run_directory import RunDirectory
from evalsuite.cli.t2i_judging import benchmark_scoring
from evalsuite.config import BenchmarkSpec, load_spec
from evalsuite.errors import UsageError
from evalsuite.pipeline.dpg_run import open_dpg
from evalsuite.pipeline.export_t2i import export_geneval
from evalsuite.pipeline.geneval_run import open_geneval, summary_of
from evalsuite.pipeline.geneval_scorer import FolderSource, Networks
from evalsuite.pipeline.integrity import find_faults, garbage_files
from evalsuite.pipeline.judging import stage_of
from evalsuite.pipeline.row_file import read_rows
from evalsuite.t2i.dpg_questions import read_dpg_rows
from evalsuite.t2i.geneval import GenevalOptions

CPU = torch.device("cpu")
NO_DIFFERENCE = "no interval: it is the same for every prompt, up to rounding"


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


def test_a_run_of_classes_has_no_prompts(tmp_path: Path, kit: Kit) -> None:
    from run_builder import make_run

    run: RunDirectory = make_run(tmp_path / "classes", num_images=32)
    done = kit.geneval(run.root, "--metadata", kit.metadata, "--output", tmp_path / "v.jsonl")
    assert (done.code, "is a run of classes" in done.stderr) == (2, True)
