"""Exports in the official layouts: what is written, found again, and refused; shared seeds."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from harness import call_main
from PIL import Image

from evalsuite.artifacts.images import Images
from evalsuite.artifacts.run_directory import RunDirectory
from evalsuite.errors import DataError, UsageError
from evalsuite.pipeline.comparison import Sharing, sharing
from evalsuite.pipeline.geneval_run import open_geneval
from evalsuite.seeding import seeds_of
from evalsuite.t2i.geneval_prompts import read_geneval_prompts
from evalsuite.t2i.layouts import dpg_image, read_geneval_folder, scored_by_the_original

sys.path.insert(0, str(Path(__file__).parent))
from prompted_run import NUM, PROMPTS, make_prompted_run, text_plan


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """32 samples of 8 prompts, in batches of 16. Not to be changed."""
    return make_prompted_run(tmp_path_factory.mktemp("layouts") / "run")


@pytest.fixture
def metadata(tmp_path: Path) -> Path:
    """GenEval's, in another order than the run's prompts."""
    path = tmp_path / "evaluation_metadata.jsonl"
    records = [
        {"tag": "counting", "prompt": p, "include": [{"class": "cup", "count": n + 1}], "extra": n}
        for n, p in enumerate(PROMPTS)
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records[::-1]))
    return path


def pixels(path: Path) -> Images:
    with Image.open(path) as image:
        return np.asarray(image)


def test_geneval_gets_a_folder_for_each_prompt(
    run: RunDirectory, metadata: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = call_main(
        *("export", run.root, "--format", "geneval", "--metadata", metadata, "--output", out)
    )
    assert (done.code, done.stdout) == (0, f"{out}  32 images of 8 prompts\n"), done.stderr
    images = dict(run.read_images(0, NUM))
    found = read_geneval_folder(out)
    assert [folder.prompt.prompt for folder in found] == list(PROMPTS)
    assert sorted(p for folder in found for p in folder.images) == scored_by_the_original(out)
    for place, folder in enumerate(found):
        assert folder.prompt.record["extra"] == place
        assert len((out / folder.name / "metadata.jsonl").read_text().splitlines()) == 1
        assert [path.name for path in folder.images] == [f"{k:05d}.png" for k in range(4)]
        for k, path in enumerate(folder.images):
            np.testing.assert_array_equal(pixels(path), images[place + 8 * k])
    assert not list(tmp_path.glob(".out*"))


def test_dpg_gets_a_grid_for_each_prompt(run: RunDirectory, tmp_path: Path) -> None:
    items, out = tmp_path / "items.jsonl", tmp_path / "grids"
    lines = [{"item_id": f"x{n}", "prompt": f" {p}"} for n, p in enumerate(PROMPTS)]
    items.write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = call_main("export", run.root, "--format", "dpg", "--metadata", items, "--output", out)
    assert done.code == 0, done.stderr
    images = dict(run.read_images(0, NUM))
    assert sorted(path.name for path in out.iterdir()) == [f"x{n}.png" for n in range(8)]
    for n in range(8):
        grid = pixels(out / f"x{n}.png")
        assert grid.shape == (32, 32, 3)
        for k, (y, x) in enumerate([(0, 0), (0, 16), (16, 0), (16, 16)]):
            np.testing.assert_array_equal(grid[y : y + 16, x : x + 16], images[n + 8 * k])


REFUSED = [
    (("--format", "geneval"), 2, "--format geneval needs --metadata FILE"),
    (("--format", "png", "--metadata", "M"), 2, "--metadata: --format png has no prompts"),
    (("--format", "geneval", "--metadata", "M", "--num-samples", 20), 2, "give --num-samples 16"),
    (("--format", "dpg", "--metadata", "I", "--num-samples", 16), 2, "give --num-samples 32"),
    (("--format", "geneval", "--metadata", "M", "--num-samples", 40), 4, "samples 32..39 are miss"),
    (("--format", "geneval", "--metadata", "FEW"), 3, "a photo of 0 cups' is not in it"),
    (("--format", "geneval", "--metadata", "MORE"), 3, "one more' is not in the run"),
    (("--format", "dpg", "--metadata", "DOTS"), 3, "item 'x.0' cannot name a file"),
]


@pytest.mark.parametrize(("options", "code", "line"), REFUSED)
def test_what_cannot_be_exported_is_said_and_leaves_nothing(
    run: RunDirectory,
    metadata: Path,
    tmp_path: Path,
    options: tuple[object, ...],
    code: int,
    line: str,
) -> None:
    names = {"M": metadata, "FEW": tmp_path / "few.jsonl", "MORE": tmp_path / "more.jsonl"}
    names |= {"I": tmp_path / "items.jsonl", "DOTS": tmp_path / "dots.jsonl"}
    records = metadata.read_text().splitlines(keepends=True)
    names["FEW"].write_text("".join(records[:-1]))
    extra = {"tag": "x", "prompt": "one more", "include": [{"class": "cup", "count": 1}]}
    names["MORE"].write_text("".join(records) + json.dumps(extra) + "\n")
    for name, dot in (("I", ""), ("DOTS", ".")):
        lines = [{"item_id": f"x{dot}{n}", "prompt": p} for n, p in enumerate(PROMPTS)]
        names[name].write_text("".join(json.dumps(one) + "\n" for one in lines))
    out = tmp_path / "out"
    given = [names.get(str(option), option) for option in options]
    done = call_main("export", run.root, *given, "--output", out)
    assert done.code == code
    assert line in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.glob("*out*"))


def test_names_that_the_scorer_would_cut_are_refused() -> None:
    assert dpg_image("partiprompts97") == "partiprompts97.png"
    for name in ("a.b", "", "../x", "a/b"):
        with pytest.raises(DataError, match="cannot name a file"):
            dpg_image(name)


def test_shared_seeds_repeat_over_prompts_and_are_part_of_the_plan() -> None:
    """Image k of every prompt has seed first_seed + k; absent, plans keep the ids they had."""
    own, shared = text_plan(), text_plan("shared")
    assert seeds_of(own, 0, 12) == list(range(1000, 1012))
    assert seeds_of(shared, 0, 17) == [1000] * 8 + [1001] * 8 + [1002]
    assert seeds_of(shared, 7, 9) == [1000, 1001]
    assert own.plan_id != shared.plan_id
    assert b"seeds" not in own.canonical
    assert sharing(own, shared, 32, 32) is Sharing.OVERLAP
    assert sharing(shared, shared, 32, 32) is Sharing.PAIRED


def test_images_with_other_prompts_are_another_source(tmp_path: Path) -> None:
    """Else a folder whose metadata were corrected would be given its old verdicts."""
    sources = []
    for order in ((0, 1), (1, 0)):
        for place, which in enumerate(order):
            write_folder(tmp_path / "images" / f"{place:05d}", asked(which), [40 * place])
        metadata = write_metadata(tmp_path, 2)
        sources.append(open_geneval(tmp_path / "images", metadata, None).images.source)
    assert len(set(sources)) == 2


def asked(which: int, **more: object) -> dict[str, object]:
    """A record of GenEval's metadata."""
    include = [{"class": "cup", "count": which + 1}]
    return {"tag": "counting", "prompt": f"{which} cups", "include": include, **more}


def write_folder(folder: Path, record: dict[str, object], greys: list[int]) -> None:
    """One folder of the layout, with an image for each grey."""
    (folder / "samples").mkdir(parents=True, exist_ok=True)
    (folder / "metadata.jsonl").write_text(json.dumps(record))
    for place, grey in enumerate(greys):
        picture = Image.fromarray(np.full((8, 8, 3), grey, np.uint8))
        picture.save(folder / "samples" / f"{place:05d}.png")


def write_metadata(folder: Path, count: int) -> Path:
    path = folder / "metadata.jsonl"
    path.write_text("".join(json.dumps(asked(which)) + "\n" for which in range(count)))
    return path


def test_one_folder_for_each_image_is_the_same_set_of_prompts(tmp_path: Path) -> None:
    """As PixNerd and PixelGen write them: a record has a seed and a file's name, too."""
    metadata = write_metadata(tmp_path, 3)
    for which in range(3):
        write_folder(tmp_path / "a" / f"{which}", asked(which), [which, which + 10])
        for k in range(2):
            own = asked(which, seed=k, filename=f"{which}_{k}.png")
            write_folder(tmp_path / "b" / f"{2 * which + k}", own, [which + 10 * k])
    one, other = (open_geneval(tmp_path / name, metadata, None) for name in "ab")
    assert one.prompts_sha256 == other.prompts_sha256
    assert (one.images.num_images, other.images.num_images) == (6, 6)
    assert len({prompt.key for prompt in other.prompts}) == 6
    write_folder(tmp_path / "b" / "9", asked(1, seed=2, filename="1_2.png"), [9])
    with pytest.raises(DataError, match="has 2 images of '0 cups' and 3 of '1 cups'"):
        open_geneval(tmp_path / "b", metadata, None)


def test_metadata_of_a_folder_may_begin_with_a_mark_but_must_be_json(tmp_path: Path) -> None:
    folder = tmp_path / "images" / "0"
    write_folder(folder, asked(0), [1])
    path, metadata = folder / "metadata.jsonl", write_metadata(tmp_path, 1)
    path.write_text("\ufeff" + path.read_text())
    assert open_geneval(tmp_path / "images", metadata, None).images.num_images == 1
    path.write_text("[" * 9000)
    with pytest.raises(DataError, match="cannot be read as one JSON object: brackets are more"):
        open_geneval(tmp_path / "images", metadata, None)
    metadata.write_text("[" * 9000)
    with pytest.raises(UsageError, match="line 1 is not JSON: brackets are more than 64 deep"):
        read_geneval_prompts(metadata)


def test_what_is_said_of_a_grey_picture_can_be_done(tmp_path: Path) -> None:
    """No command of t2i converts pictures."""
    write_folder(tmp_path / "images" / "0", asked(0), [1])
    (path,) = (tmp_path / "images" / "0" / "samples").iterdir()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(path)
    with pytest.raises(DataError, match=r"is greyscale .*: convert it to 8-bit RGB, or leave"):
        open_geneval(tmp_path / "images", write_metadata(tmp_path, 1), None)


def test_a_lossy_picture_named_png_is_not_judged(tmp_path: Path) -> None:
    write_folder(tmp_path / "images" / "0", asked(0), [1])
    (path,) = (tmp_path / "images" / "0" / "samples").iterdir()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path, format="JPEG")
    with pytest.raises(DataError, match="is a JPEG picture, though it is named"):
        open_geneval(tmp_path / "images", write_metadata(tmp_path, 1), None)


FAULTS = [
    ({}, "has 0 images of '1 cups' and 2 of '0 cups'"),
    ({"1": asked(0)}, "1 repeats the metadata of 0: remove one"),
    ({"1": asked(1, prompt="a cup, or two")}, "is of 'a cup, or two', which .* does not ask for"),
    ({"1": asked(1, include=[{"class": "cup", "count": 9}])}, "is of '1 cups', which .* not ask"),
    ({"1": asked(1, prompt="1 \x1b cups")}, "1/metadata.jsonl: character 2 .* control character"),
]


@pytest.mark.parametrize(("second", "line"), FAULTS)
def test_a_folder_of_other_prompts_than_are_asked_for_is_refused(
    tmp_path: Path, second: dict[str, dict[str, object]], line: str
) -> None:
    for name, record in {"0": asked(0), **second}.items():
        write_folder(tmp_path / "images" / name, record, [1, 2])
    with pytest.raises((DataError, UsageError), match=line):
        open_geneval(tmp_path / "images", write_metadata(tmp_path, 2), None)
