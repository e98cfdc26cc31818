"""References made ready: images are embedded once for all that decides their features."""

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from run_maker import SPEC, measure

from evalsuite.artifacts.references import open_reference
from evalsuite.artifacts.samples import open_samples
from evalsuite.config import data_root
from evalsuite.errors import DataError
from evalsuite.features.base import FeatureBatch
from evalsuite.features.digits import DigitsExtractor
from evalsuite.pipeline.evaluation import score_samples
from evalsuite.pipeline.measure import Measure
from evalsuite.pipeline.reference_building import build_reference
from evalsuite.pipeline.reference_data import DiskMemo, content_identity, prepare_reference
from evalsuite.pipeline.reference_request import BuildRequest, Part

HELD_OUT = data_root() / "reference_stats" / "digits-16-heldout.npz"
REAL, MADE = 60, 40
METRIC_NAMES = ["fid", "sfid", "precision", "recall"]


class Passes:
    """Counts the images that the real digits extractor was given, padding included."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.images = 0
        real = DigitsExtractor.__call__

        def counted(extractor: DigitsExtractor, images_NHWC: NDArray[np.uint8]) -> FeatureBatch:
            self.images += len(images_NHWC)
            return real(extractor, images_NHWC)

        monkeypatch.setattr(DigitsExtractor, "__call__", counted)

    def taken(self) -> int:
        """Batches since the last question."""
        batches, self.images = self.images // SPEC.batch_size, 0
        return batches


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Passes:
    return Passes(monkeypatch)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this test's references are remembered."""
    monkeypatch.setenv("EVALSUITE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "references"


@pytest.fixture(params=["npz", "folder"])
def reference(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Sixty real digits: images and nothing else."""
    images = pictures()[:REAL]
    if request.param == "npz":
        np.savez(tmp_path / "real.npz", arr_0=images)
        return tmp_path / "real.npz"
    folder = tmp_path / "real"
    folder.mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i:03d}.png")
    return folder


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """Forty other digits, to be compared with the real ones."""
    np.savez(tmp_path / "made.npz", arr_0=pictures()[REAL : REAL + MADE])
    return tmp_path / "made.npz"


def pictures() -> NDArray[np.uint8]:
    images: NDArray[np.uint8] = np.load(HELD_OUT)["arr_0"]
    return images


def asked(reference: Path) -> Measure:
    return measure(str(reference), METRIC_NAMES)


def values(made: Path, reference: Path) -> dict[str, float | None]:
    found = score_samples(open_samples(made), [asked(reference)])
    return {one.record.metric: one.record.value for one in found}


def batches_of(num_images: int) -> int:
    return -(-num_images // SPEC.batch_size)


def test_a_second_evaluation_embeds_no_image_of_the_reference(
    made: Path, reference: Path, passes: Passes
) -> None:
    """Only the samples; and the numbers are the same to the bit."""
    first = values(made, reference)
    assert passes.taken() == batches_of(MADE) + batches_of(REAL)
    assert values(made, reference) == first
    assert passes.taken() == batches_of(MADE)


def test_what_decides_features_embeds_again(reference: Path, passes: Passes) -> None:
    """Another content, resize or extractor; another name or metric does not."""
    prepare_reference(asked(reference))
    assert passes.taken() == batches_of(REAL)
    moved = reference.rename(reference.with_name(f"moved{reference.suffix}"))
    prepare_reference(asked(moved)._replace(metrics=["precision"]))
    assert passes.taken() == 0
    resized = open_samples(moved, resize="bicubic:16")
    other_rule = replace(open_reference(str(moved)), images=resized)
    prepare_reference(asked(moved)._replace(reference=other_rule))
    assert passes.taken() == batches_of(REAL)
    smaller = SPEC.model_copy(update={"batch_size": 30})
    prepare_reference(asked(moved)._replace(spec=smaller))
    assert passes.taken() == 60 // SPEC.batch_size  # counted in batches of the other one
    change_one_pixel(moved)
    prepare_reference(asked(moved))
    assert passes.taken() == batches_of(REAL)
    prepare_reference(asked(moved))
    assert passes.taken() == 0


def change_one_pixel(path: Path) -> None:
    if path.is_dir():
        file = path / "007.png"
        with Image.open(file) as opened:
            image = np.array(opened)
        image[3, 3, 0] ^= 1
        Image.fromarray(image).save(file)
        return
    images = np.load(path)["arr_0"]
    images[7, 3, 3, 0] ^= 1
    np.savez(path, arr_0=images)


def test_another_decoder_embeds_decoded_pictures_again(
    reference: Path, passes: Passes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pixels of an NPZ are no library's choice."""
    prepare_reference(asked(reference))
    passes.taken()
    monkeypatch.setattr("evalsuite.pipeline.reference_data.decoding_version", lambda: "pillow 0")
    prepare_reference(asked(reference))
    assert passes.taken() == (batches_of(REAL) if reference.is_dir() else 0)


def shortened(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def exchanged(path: Path) -> None:
    """For the other file of its folder, which is whole."""
    other = next(one for one in path.parent.iterdir() if one != path)
    shutil.copy(other, path)


@pytest.mark.parametrize("damage", [shortened, flipped, emptied, exchanged, os.unlink])
def test_a_damaged_cache_is_remade(
    made: Path, reference: Path, passes: Passes, cache: Path, damage: Any
) -> None:
    """Features or radii: the numbers stay, and the file is as it was."""
    first = values(made, reference)
    (features,), (radii,) = cache.glob("*/features.bin"), cache.glob("*/radii-*.bin")
    for path, embedded in ((features, batches_of(REAL)), (radii, 0)):
        content = path.read_bytes()
        damage(path)
        passes.taken()
        assert values(made, reference) == first
        assert passes.taken() == batches_of(MADE) + embedded
        assert path.read_bytes() == content


def test_an_array_of_other_rows_is_made_again(tmp_path: Path) -> None:
    """Even one that is whole, and one of the wrong folder."""
    folder = tmp_path / "memo"
    DiskMemo(folder, 4).recall("radii", lambda: np.arange(4.0))
    assert len(DiskMemo(folder, 3).recall("radii", lambda: np.arange(3.0))) == 3
    kept = DiskMemo(folder, 3).recall("radii", lambda: np.zeros(3))
    np.testing.assert_array_equal(kept, np.arange(3.0))
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    made = DiskMemo(other, 3).recall("radii", lambda: np.zeros(3))
    np.testing.assert_array_equal(made, np.zeros(3))


def test_the_identity_is_of_the_files_that_are_read(tmp_path: Path) -> None:
    """Neither notes nor hidden files nor a link to nothing belong to it."""
    folder = tmp_path / "real"
    (folder / "a").mkdir(parents=True)
    for name in ("a/0.png", "1.png"):
        Image.fromarray(pictures()[0]).save(folder / name)
    before = content_identity(folder)
    (folder / "notes.txt").write_text("x")
    (folder / ".hidden.png").write_bytes(b"x")
    (folder / "gone").symlink_to(tmp_path / "nothing")
    assert content_identity(folder) == before
    (folder / "1.png").rename(folder / "2.png")
    assert content_identity(folder) != before


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """The held-out digits with moments, features and images."""
    parts: frozenset[Part] = frozenset({"images", "features", "moments"})
    asked = BuildRequest(HELD_OUT, "mine", tmp_path / "refs", parts=parts, extractor=SPEC)
    return build_reference(asked).npz


def test_stored_features_serve_as_if_images_were_embedded(built: Path, passes: Passes) -> None:
    """The same bits and the same digests, without a pass."""
    passes.taken()
    stored = prepare_reference(asked(built))
    assert passes.taken() == 0
    embedded = prepare_reference(asked(HELD_OUT))
    assert passes.taken() == batches_of(540)
    assert stored is not None
    assert embedded is not None
    np.testing.assert_array_equal(stored.data.features_MD, embedded.data.features_MD)
    assert stored.digests["reference_features"] == embedded.digests["reference_features"]


def test_stored_features_are_enough_without_images(
    tmp_path: Path, made: Path, built: Path, passes: Passes
) -> None:
    """Precision and recall of them; TensorFlow, which did not make them, is refused in a line."""
    parts: frozenset[Part] = frozenset({"features", "moments"})
    request = BuildRequest(HELD_OUT, "bare", tmp_path / "refs", parts=parts, extractor=SPEC)
    bare = build_reference(request).npz
    assert "arr_0" not in np.load(bare).files
    passes.taken()
    assert values(made, bare) == values(made, built)
    assert passes.taken() == 2 * batches_of(MADE)
    with pytest.raises(DataError, match="holds no images for tensorflow"):
        prepare_reference(asked(bare)._replace(backend="tensorflow"))


def test_reference_images_that_repeat_are_counted(tmp_path: Path) -> None:
    """Beside the metrics of its images; the moments of a stored reference are not of them."""
    images = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)
    np.savez(tmp_path / "twice.npz", arr_0=np.concatenate([images, images[:15]]))
    found = prepare_reference(measure(str(tmp_path / "twice.npz"), ["precision"]))
    assert found is not None
    assert found.notes == ("15 reference images have exactly the features of another",)
