"""Samples that someone else made: each kind reads in order, and each fault is one line."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from artifact_builder import make_plan, pictures
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from evalsuite.artifacts.images import ImageRows, Keep, ParquetImageWriter, pixel_sha256
from evalsuite.artifacts.samples import PORTION, SampleSet, open_samples
from evalsuite.artifacts.storage import HashingWriter
from evalsuite.errors import DataError

COUNT = 2 * PORTION + 3
PICTURES = pictures(COUNT)


def images_of(samples: SampleSet, stop: int) -> NDArray[np.uint8]:
    """All portions, joined."""
    return np.concatenate(list(samples.portions(stop)))


def line_of(path: Path, stop: int | None = None) -> str:
    """The line that refuses `path`, when it is opened or when it is read."""

    def attempt() -> None:
        samples = open_samples(path)
        images_of(samples, stop or samples.num_images)

    with pytest.raises(DataError) as caught:
        attempt()
    assert "\n" not in str(caught.value)
    assert path.name in str(caught.value)
    return str(caught.value)


def write_parquet(path: Path, start: int, stop: int, keep: Keep = "all") -> None:
    """A shard as `generate` writes it."""
    buffer = io.BytesIO()
    writer = ParquetImageWriter(
        HashingWriter(buffer, Path("memory")), keep, make_plan(num_classes=3)
    )
    images = PICTURES[start:stop]
    zeros = [0] * (stop - start)
    writer.write(ImageRows(start, zeros, zeros, images), [pixel_sha256(i) for i in images])
    writer.close()
    path.write_bytes(buffer.getvalue())


def write_folder(folder: Path, count: int = 5, suffix: str = "png") -> Path:
    """Images named so that their names order them."""
    folder.mkdir(exist_ok=True)
    for i in range(count):
        Image.fromarray(PICTURES[i]).save(folder / f"{i:03d}.{suffix}")
    return folder


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed], ids=["stored", "deflated"])
@pytest.mark.parametrize("stop", [1, PORTION, PORTION + 1, COUNT])
def test_npz_streams_the_same_stored_or_deflated(tmp_path: Path, save: object, stop: int) -> None:
    """In ADM's layout, arr_0 and arr_1."""
    path = tmp_path / "samples.npz"
    labels = np.arange(COUNT) % 10
    save(path, PICTURES, labels)
    samples = open_samples(path)
    assert (samples.num_images, samples.size, samples.codec) == (COUNT, (5, 7), None)
    np.testing.assert_array_equal(samples.labels_N, labels)
    np.testing.assert_array_equal(images_of(samples, stop), PICTURES[:stop])
    np.testing.assert_array_equal(images_of(samples, stop), PICTURES[:stop])  # a second time


def test_npz_without_labels_and_with_other_arrays(tmp_path: Path) -> None:
    path = tmp_path / "samples.npz"
    np.savez(path, arr_0=PICTURES, other=np.zeros(3))
    assert open_samples(path).labels_N is None


@pytest.mark.parametrize(
    ("images", "text"),
    [
        (PICTURES.astype(np.float32) / 255, "must be uint8 of shape (N, H, W, 3)"),
        (PICTURES.astype(np.int64), "must be uint8"),
        (PICTURES[0], "not uint8 (5, 7, 3)"),
        (PICTURES.transpose(0, 3, 1, 2), "in C order"),
        (PICTURES[..., :1], "not uint8"),
        (PICTURES[:0], "not uint8 (0, 5, 7, 3)"),
        (np.array([object()], dtype=object), "pickled objects, which are never loaded"),
        (np.asfortranarray(PICTURES), "in C order"),
    ],
    ids=["float", "int64", "one image", "channels first", "grey", "none", "object", "fortran"],
)
def test_npz_of_another_kind(tmp_path: Path, images: NDArray[np.generic], text: str) -> None:
    path = tmp_path / "samples.npz"
    np.savez(path, arr_0=images)
    assert text in line_of(path)


@pytest.mark.parametrize("labels", [np.zeros(3, int), np.zeros(COUNT), np.zeros((COUNT, 2), int)])
def test_npz_with_wrong_labels(tmp_path: Path, labels: NDArray[np.generic]) -> None:
    """Too few, no whole numbers, or a table."""
    path = tmp_path / "samples.npz"
    np.savez(path, PICTURES, labels)
    assert "arr_1" in line_of(path)


def test_npz_with_pickled_labels(tmp_path: Path) -> None:
    path = tmp_path / "samples.npz"
    np.savez(path, PICTURES, np.array([{}] * COUNT, dtype=object))
    assert "arr_1" in line_of(path)


def test_npz_without_images(tmp_path: Path) -> None:
    """The line says what is in it."""
    path = tmp_path / "samples.npz"
    np.savez(path, images=PICTURES)
    assert "has no arr_0 (images); it holds images.npy" in line_of(path)
    with zipfile.ZipFile(path, "w"):
        pass
    assert "it holds nothing" in line_of(path)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(share=st.floats(0, 0.9999), deflated=st.booleans())
def test_npz_truncated_anywhere(tmp_path: Path, share: float, deflated: bool) -> None:
    """A copy that broke off is never a smaller set."""
    path = tmp_path / "samples.npz"
    (np.savez_compressed if deflated else np.savez)(path, PICTURES[:20])
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert "samples.npz" in line_of(path)


@pytest.mark.parametrize("deflated", [False, True])
def test_npz_whose_images_are_damaged_inside(tmp_path: Path, deflated: bool) -> None:
    """The zip's own checksum finds it, at the latest with the last image."""
    path = tmp_path / "samples.npz"
    (np.savez_compressed if deflated else np.savez)(path, PICTURES)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x55
    path.write_bytes(content)
    assert "samples.npz" in line_of(path)


@pytest.mark.parametrize("header", [b"no numpy at all", b"\x93NUMPY\x01\x00\x10\x00{broken", b""])
def test_npz_with_a_broken_header(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "samples.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("arr_0.npy", header)
    assert "arr_0.npy" in line_of(path)


def test_npz_whose_header_promises_more_images_than_there_are(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    header = {"descr": "|u1", "fortran_order": False, "shape": (10**6, 5, 7, 3)}
    np.lib.format.write_array_header_1_0(buffer, header)
    path = tmp_path / "samples.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("arr_0.npy", buffer.getvalue() + PICTURES.tobytes())
    assert "truncated near image" in line_of(path)


def test_a_folder_of_images_in_the_order_of_names(tmp_path: Path) -> None:
    """Other files and hidden ones do not count; PNG is lossless, JPEG is not."""
    folder = write_folder(tmp_path / "png")
    (folder / "notes.txt").write_text("x")
    (folder / ".hidden.png").write_bytes(b"")
    samples = open_samples(folder)
    assert (samples.num_images, samples.size, samples.codec) == (5, (5, 7), "lossless")
    np.testing.assert_array_equal(images_of(samples, 3), PICTURES[:3])
    assert open_samples(write_folder(tmp_path / "jpg", suffix="jpg")).codec == "lossy"


def test_grey_and_palette_images_become_rgb(tmp_path: Path) -> None:
    Image.fromarray(PICTURES[0]).convert("L").save(tmp_path / "0.png")
    image = images_of(open_samples(tmp_path), 1)
    assert image.shape == (1, 5, 7, 3)
    assert (image[..., 0] == image[..., 1]).all()


def test_an_empty_folder(tmp_path: Path) -> None:
    assert "holds no PNG, JPEG or WebP images and no run" in line_of(tmp_path)


def test_an_odd_sized_image_is_named(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "png")
    Image.fromarray(PICTURES[0][:4]).save(folder / "003.png")
    text = line_of(folder)
    assert "003.png is 4x7" in text
    assert "000.png is 5x7" in text


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n"])
@pytest.mark.parametrize("name", ["000.png", "004.png"])
def test_an_unreadable_image_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    folder = write_folder(tmp_path / "png")
    (folder / name).write_bytes(content)
    assert f"{name} cannot be read as an image" in line_of(folder)


def test_a_truncated_image_is_not_half_an_image(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "png")
    path = folder / "002.png"
    path.write_bytes(path.read_bytes()[:-30])
    assert "002.png cannot be read" in line_of(folder)


def test_parquet_shards_in_the_order_of_their_samples(tmp_path: Path) -> None:
    """Not of their names."""
    write_parquet(tmp_path / "b.parquet", 0, 10)
    write_parquet(tmp_path / "a.parquet", 10, 25)
    samples = open_samples(tmp_path)
    assert (samples.num_images, samples.size) == (25, (5, 7))
    np.testing.assert_array_equal(images_of(samples, 25), PICTURES[:25])
    np.testing.assert_array_equal(images_of(samples, 12), PICTURES[:12])
    assert open_samples(tmp_path / "a.parquet").num_images == 15


@pytest.mark.parametrize(("low", "text"), [(12, "but 10 comes next"), (8, "missing or overlap")])
def test_parquet_gaps_and_overlaps(tmp_path: Path, low: int, text: str) -> None:
    write_parquet(tmp_path / "a.parquet", 0, 10)
    write_parquet(tmp_path / "b.parquet", low, 20)
    assert text in line_of(tmp_path)


@pytest.mark.parametrize("keep", ["none", "grid"])
def test_parquet_whose_pixels_were_not_kept(tmp_path: Path, keep: Keep) -> None:
    write_parquet(tmp_path / "a.parquet", 0, 30, keep=keep)
    assert "not kept" in line_of(tmp_path) or "keep no images" in line_of(tmp_path)


def test_parquet_without_a_row(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", 0, 0)
    line_of(tmp_path)


def test_a_truncated_parquet_shard(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", 0, 10)
    content = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(content[:-20])
    assert "a.parquet is not a Parquet image shard" in line_of(tmp_path)


@pytest.mark.parametrize("name", ["none.npz", "none", "notes.txt"])
def test_what_is_no_samples_at_all(tmp_path: Path, name: str) -> None:
    (tmp_path / "notes.txt").write_text("x")
    line_of(tmp_path / name)


@pytest.mark.parametrize("name", ["text.npz", "text.parquet"])
def test_a_text_under_a_name_of_samples(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("hello")
    line_of(tmp_path / name)
