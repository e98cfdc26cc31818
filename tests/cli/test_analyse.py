"""`evalsuite classes` and `evalsuite neighbours` as a person types them."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from harness import FinishedRun, Outcome
from PIL import Image

from evalsuite.cli.analyse import _extreme
from evalsuite.errors import DataError
from evalsuite.report.neighbour_grid import neighbour_grid

pytestmark = pytest.mark.ray
USAGE, DATA, STORAGE = 2, 3, 5
REPOSITORY = Path(__file__).parents[2]
Call = Callable[..., Outcome]


def test_classes_of_a_run(call: Call, tmp_path: Path, digits_run: FinishedRun) -> None:
    """The highest three, the lowest three, and a sum that is the FID of the run."""
    outcome = call("classes", digits_run.path, "--top", 3, "--json", "c.json")
    assert outcome.code == 0, outcome.stderr
    content = json.loads((tmp_path / "c.json").read_text())
    by_influence = sorted(content["classes"], key=lambda c: -c["influence"])
    shown = [f"{c['label']} {c['name']}" for c in by_influence[:3]]
    hidden = [f"{c['label']} {c['name']}" for c in by_influence[3:7]]
    lines = [line.strip() for line in outcome.stdout.splitlines()]
    assert [line.rpartition(" 20 ")[0].strip() for line in lines[1:4]] == shown
    assert lines[4] == "..."
    assert not any(name in outcome.stdout for name in hidden)
    total = sum(c["contribution"] for c in content["classes"])
    assert total == pytest.approx(content["value"])
    assert content["value"] == digits_run.json["metrics"]["fid"]["value"]
    assert f"contributions of all 10 classes sum to {total:.4f}" in outcome.stdout
    everything = call("classes", digits_run.path, "--top", 5).stdout
    assert "..." not in everything
    assert all(f"{c['label']} {c['name']}" in everything for c in content["classes"])


def test_how_far_chance_alone_goes() -> None:
    """The median of the largest deviation of so many normal variables."""
    rng = np.random.default_rng(0)
    for count in (2, 10, 1000):
        largest = np.abs(rng.standard_normal((4000, count))).max(axis=1)
        assert _extreme(count) == pytest.approx(np.median(largest), rel=0.02)


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--metric", "fidd"], USAGE, "did you mean 'fid'"),
        (["--metric", "kid"], USAGE, "--metrics kid"),
        (["--metric", "recall"], DATA, "has no influence values"),
        (["--reference", "other"], USAGE, "no such record of fid, it has: digits-FID-200"),
        (["--top", 0], USAGE, "--top"),
        (["--json", "none/c.json"], STORAGE, "cannot be written"),
    ],
)
def test_classes_that_cannot_be_told(
    call: Call, digits_run: FinishedRun, options: list[object], code: int, words: str
) -> None:
    outcome = call("classes", digits_run.path, *options)
    assert (outcome.code, outcome.stdout) == (code, "")
    (line,) = outcome.stderr.splitlines()
    assert words in line


def test_classes_are_of_runs_alone(call: Call, tmp_path: Path) -> None:
    np.savez(tmp_path / "s.npz", arr_0=np.zeros((4, 16, 16, 3), np.uint8))
    outcome = call("classes", "s.npz")
    assert outcome.code == USAGE
    assert "s.npz is not a run directory" in outcome.stderr


def test_neighbours_of_a_run(call: Call, tmp_path: Path, digits_run: FinishedRun) -> None:
    """The reference is the preset's; the picture has a row for each sample, sample first."""
    outcome = call(
        *("neighbours", digits_run.path, "--index", "7,150", "--num-nearest", 2),
        *("--output", "near.png", "--json", "n.json"),
    )
    assert outcome.code == 0, outcome.stderr
    content = json.loads((tmp_path / "n.json").read_text())
    assert [row["index"] for row in content["neighbours"]] == [7, 150]
    assert (content["num_samples"], content["num_reference"]) == (2, 1257)
    for row in content["neighbours"]:
        first, second = row["nearest"]
        assert 0 < first["distance"] <= second["distance"]
        assert f"{first['index']} ({first['distance']:.4g})" in outcome.stdout
    text = f"AuthPct {content['auth_pct']:.1f} (2 samples against 1257 images of digits-16-train)"
    assert text in outcome.stdout
    assert "it compares only with AuthPct of as many samples" in outcome.stdout
    with np.load(REPOSITORY / "reference_stats/digits-16-train.npz") as archive:
        real = archive["arr_0"]
    with Image.open(tmp_path / "near.png") as picture:
        pixels = np.asarray(picture)
    assert pixels.shape == (2 * 64 + 2, 3 * 64 + 12 + 2, 3)
    for row, places in enumerate(content["neighbours"]):
        for column, near in enumerate(places["nearest"]):
            top, left = row * 66, 64 + 12 + column * 66
            tile = pixels[top : top + 64 : 4, left : left + 64 : 4]
            np.testing.assert_array_equal(tile, real[near["index"]])


def test_neighbours_of_outside_samples(call: Call, tmp_path: Path, digits_run: FinishedRun) -> None:
    """Copies of real images are found by name, and a folder takes one picture each."""
    with np.load(REPOSITORY / "reference_stats/digits-16-train.npz") as archive:
        real = archive["arr_0"][:40]
    (tmp_path / "real").mkdir()
    for i, image in enumerate(real):
        Image.fromarray(image).save(tmp_path / f"real/{i:02}.png")
    np.savez(tmp_path / "s.npz", arr_0=real[::-1])
    options = ("--reference", "real", "--extractor", "digits-convnet", "--first", 25)
    outcome = call("neighbours", "s.npz", *options, "--output", "out", "--json", "n.json")
    assert outcome.code == 0, outcome.stderr
    content = json.loads((tmp_path / "n.json").read_text())
    assert content["auth_pct"] == 0
    assert content["num_copies"] == 25
    nearest = [row["nearest"][0] for row in content["neighbours"]]
    assert [near["name"] for near in nearest] == [f"{i:02}.png" for i in range(39, 14, -1)]
    assert [near["distance"] for near in nearest] == [0.0] * 25
    assert "25 of the samples are at distance 0 of a reference image" in outcome.stdout
    assert "and 5 samples more: --json writes them all" in outcome.stdout
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        f"{i:08}.png" for i in range(25)
    ]


def test_a_run_without_pixels_has_distances_and_no_picture(
    call: Call, tmp_path: Path, digits_run: FinishedRun
) -> None:
    """Its features say what is near."""
    run = Path(shutil.copytree(digits_run.path, tmp_path / "made"))
    for path in (run / "receipts/images").iterdir():
        receipt = json.loads(path.read_text())
        path.write_text(json.dumps(receipt | {"kept": "none"}))
    assert call("neighbours", run, "--first", 2).code == 0
    outcome = call("neighbours", run, "--first", 2, "--output", "g.png")
    assert outcome.code == 4
    assert "stored pixels of samples 0..1 are missing" in outcome.stderr
    assert not (tmp_path / "g.png").exists()


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ([], USAGE, "give either --index LIST or --first N"),
        (["--first", 1, "--index", "0"], USAGE, "give either --index LIST or --first N"),
        (["--index", "1,x"], USAGE, "is not a list of indices such as 0,5,17"),
        (["--index", "1,1"], USAGE, "names an index twice"),
        (["--first", 9, "--extractor", "digits-convnet"], DATA, "holds images 0..7, there is no 8"),
        (["--first", 1], USAGE, "--extractor is needed"),
        (["--first", 1, "--output", "none/g.png"], STORAGE, "its folder must exist"),
        (["--first", 1, "--output", "s.npz"], USAGE, "neither a .png nor a folder"),
        (["--first", 1, "--reference", "m.npz"], DATA, "holds no images, only statistics"),
        (
            ["--first", 1, "--num-nearest", 9, "--extractor", "digits-convnet"],
            DATA,
            "9 neighbours were asked for, the reference has 8 images",
        ),
    ],
)
def test_neighbours_that_cannot_be_found(
    call: Call, tmp_path: Path, options: list[object], code: int, words: str
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3)).astype(np.uint8)
    np.savez(tmp_path / "s.npz", arr_0=images)
    np.savez(tmp_path / "m.npz", mu=np.zeros(64), sigma=np.eye(64))
    if "--reference" in options:
        options = [*options, "--extractor", "digits-convnet"]
    else:
        options = [*options, "--reference", "s.npz"]
    outcome = call("neighbours", "s.npz", *options)
    assert (outcome.code, outcome.stdout) == (code, ""), outcome
    (line,) = outcome.stderr.splitlines()
    assert words in line


def test_a_picture_of_unequal_sizes_and_one_that_is_too_large() -> None:
    """Neighbours are shown at the sample's size; a giant picture is refused with the way out."""
    samples = np.full((2, 100, 80, 3), 7, np.uint8)
    near = [np.full((1, 50, 50, 3), 9, np.uint8)] * 2
    content = neighbour_grid(samples, near)
    with Image.open(io.BytesIO(content)) as picture:
        assert picture.size == (80 + 12 + 80, 100 + 2 + 100)
        assert picture.getpixel((0, 0)) == (7, 7, 7)
        assert picture.getpixel((171, 201)) == (9, 9, 9)
    giant = np.broadcast_to(samples[:1], (20000, 100, 80, 3))
    with pytest.raises(DataError, match="20000 rows of 2 pictures make 320 megapixels"):
        neighbour_grid(giant, near * 10000)
