"""Samples in an NPZ: stored or deflated they read the same from anywhere; a fault is one line."""

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sample_builder import (
    COUNT,
    LABELS,
    PICTURES,
    images_of,
    line_of,
    write_folder,
    write_npz_shard,
    write_parquet,
)

from evalsuite.artifacts.samples import PORTION, npz_image_shape, open_samples, portion_of
from evalsuite.errors import CorruptionError, UsageError

SAVE = {"stored": np.savez, "deflated": np.savez_compressed}
RANGES = [(0, COUNT), (0, 1), (0, PORTION + 1), (PORTION - 1, PORTION + 1), (COUNT - 1, COUNT)]


def write_header(path: Path, header: bytes, content: bytes = b"") -> Path:
    """An NPZ whose arr_0 begins with these bytes."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("arr_0.npy", header + content)
    return path


@pytest.mark.parametrize("kind", SAVE)
@pytest.mark.parametrize(("start", "stop"), RANGES)
def test_npz_reads_any_range(tmp_path: Path, kind: str, start: int, stop: int) -> None:
    """In ADM's layout, arr_0 and arr_1; twice, and after a journey through a pickle."""
    path = tmp_path / "samples.npz"
    SAVE[kind](path, PICTURES, np.array(LABELS))
    samples = open_samples(path)
    assert (samples.num_images, samples.size, samples.codec) == (COUNT, (5, 7), None)
    assert (samples.random_access, samples.encoded, samples.resize) == (
        kind == "stored",
        False,
        None,
    )
    np.testing.assert_array_equal(samples.labels_N, LABELS)
    for reader in (samples, samples, pickle.loads(pickle.dumps(samples))):
        np.testing.assert_array_equal(images_of(reader, start, stop), PICTURES[start:stop])
    assert [len(p) for p in samples.portions(PORTION + 2)] == [PORTION, 2]
    assert npz_image_shape(path) == ((COUNT, 5, 7, 3), True)


def test_npz_without_labels_and_with_other_arrays(tmp_path: Path) -> None:
    path = tmp_path / "samples.npz"
    np.savez(path, arr_0=PICTURES, mu=np.zeros(3), sigma=np.eye(3))
    assert open_samples(path).labels_N is None
    assert npz_image_shape(path)[1] is False


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_npz_of_every_header_version_behind_other_bytes(
    tmp_path: Path, version: tuple[int, int]
) -> None:
    """Header lengths differ, and a zip may have bytes before it."""
    buffer = io.BytesIO(b"")
    np.lib.format.write_array(buffer, PICTURES, version=version)
    path = tmp_path / "samples.npz"
    path.write_bytes(b"something in front")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("first.npy", b"not looked at")
        archive.writestr("arr_0.npy", buffer.getvalue())
    np.testing.assert_array_equal(images_of(open_samples(path), 3, 9), PICTURES[3:9])


def test_portions_are_bounded_in_bytes() -> None:
    """64 images, or 64 MiB, or one."""
    assert portion_of((256, 256)) == 64
    assert portion_of((2048, 2048)) == 5
    assert portion_of((8000, 8000)) == 1


SIGNED = PICTURES.astype(np.float32) / 127.5 - 1


@pytest.mark.parametrize(
    ("images", "texts"),
    [
        (PICTURES.astype(np.float32) / 255, ["float32", "in [0, 1]", "(images * 255).round()"]),
        (SIGNED, ["in [-1, 1]", "((images + 1) * 127.5).round()"]),
        (SIGNED.astype(np.float16), ["float16", "in [-1, 1]"]),
        (PICTURES.astype(np.float64), ["float64", "in [0, 255]", "(images).round()"]),
        (SIGNED * 3000, ["which are no pixels"]),
        (SIGNED * np.nan, ["float32 and holds NaN", "pixels must be uint8"]),
        (PICTURES.astype(np.int64), ["int64", "images.astype(np.uint8)"]),
        (PICTURES.astype(np.int64) - 9, ["int64", "do not fit into 8 bits"]),
        (PICTURES > 7, ["is bool, but pixels must be uint8"]),
        (PICTURES[0], ["(5, 7, 3)", "a single image", "images[None]"]),
        (PICTURES[..., 0], ["without colours"]),
        (PICTURES.ravel(), ["(N, H, W, 3)"]),
        (PICTURES.transpose(0, 3, 1, 2).copy(), ["looks like N,C,H,W: transpose it (0, 2, 3, 1)"]),
        (PICTURES.transpose(0, 3, 1, 2) / 255.0, ["looks like N,C,H,W"]),
        (PICTURES[..., :1], ["greyscale and not RGB"]),
        (PICTURES[..., [0, 1, 2, 2]], ["RGB with alpha"]),
        (PICTURES[..., [0, 1]], ["2 channels"]),
        (PICTURES[:0], ["holds 0 images"]),
        (PICTURES[:, :0], ["no pixel"]),
        (np.array([object()], dtype=object), ["pickled objects, which are never loaded"]),
        (np.asfortranarray(PICTURES), ["Fortran order", "np.ascontiguousarray"]),
    ],
)
def test_npz_of_another_kind(tmp_path: Path, images: NDArray[np.generic], texts: list[str]) -> None:
    """Each is recognised and the line says how to mend it."""
    path = tmp_path / "samples.npz"
    np.savez(path, arr_0=images)
    line = line_of(path)
    assert all(text in line for text in texts), line


def test_the_formulas_that_are_advised_give_the_pixels_back() -> None:
    """What the lines say is run."""
    cases = {
        "(images * 255).round().clip(0, 255).astype(np.uint8)": PICTURES / np.float32(255),
        "((images + 1) * 127.5).round().clip(0, 255).astype(np.uint8)": SIGNED,
    }
    for formula, images in cases.items():
        np.testing.assert_array_equal(eval(formula, {"np": np, "images": images}), PICTURES)


@pytest.mark.parametrize("labels", [np.zeros(3, int), np.zeros(COUNT), np.zeros((COUNT, 2), int)])
def test_npz_with_wrong_labels(tmp_path: Path, labels: NDArray[np.generic]) -> None:
    """Too few, no whole numbers, or a table."""
    path = tmp_path / "samples.npz"
    np.savez(path, PICTURES, labels)
    assert "arr_1 must hold" in line_of(path)


def test_npz_with_pickled_labels(tmp_path: Path) -> None:
    path = tmp_path / "samples.npz"
    np.savez(path, PICTURES, np.array([{}] * COUNT, dtype=object))
    assert "arr_1" in line_of(path)


def test_npz_without_images(tmp_path: Path) -> None:
    """The line says what is in it, and which array may be meant."""
    path = tmp_path / "samples.npz"
    np.savez(path, images=PICTURES, count=np.zeros(3))
    line = line_of(path)
    assert "has no arr_0 (images); it holds images, count" in line
    assert "np.savez(path, np.load(old)['images'])" in line
    np.savez(path, a=PICTURES, b=PICTURES)
    assert line_of(path).endswith("it holds a, b")
    np.savez(path, mu=np.zeros(3), sigma=np.eye(3))
    assert "is a statistics file" in line_of(path)
    assert "--reference" in line_of(path)
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


@pytest.mark.parametrize("kind", SAVE)
def test_npz_whose_images_are_damaged_inside(tmp_path: Path, kind: str) -> None:
    """The zip's own checksum finds it, at the latest with the last image."""
    path = tmp_path / "samples.npz"
    SAVE[kind](path, PICTURES)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x55
    path.write_bytes(content)
    assert "is damaged" in line_of(path)


def test_npz_that_shrinks_after_it_was_opened(tmp_path: Path) -> None:
    path = tmp_path / "samples.npz"
    np.savez(path, PICTURES)
    samples = open_samples(path)
    path.write_bytes(path.read_bytes()[: PICTURES[0].nbytes * 80])
    with pytest.raises(CorruptionError, match="truncated: arr_0 ends after"):
        images_of(samples, 60, COUNT)


@pytest.mark.parametrize("header", [b"no numpy at all", b"\x93NUMPY\x01\x00\x10\x00{broken", b""])
def test_npz_with_a_broken_header(tmp_path: Path, header: bytes) -> None:
    assert "arr_0.npy" in line_of(write_header(tmp_path / "samples.npz", header))


def test_npz_whose_header_promises_more_images_than_there_are(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    header = {"descr": "|u1", "fortran_order": False, "shape": (10**6, 5, 7, 3)}
    np.lib.format.write_array_header_1_0(buffer, header)
    path = write_header(tmp_path / "samples.npz", buffer.getvalue(), PICTURES.tobytes())
    assert "is truncated or broken: the header promises 105,000,128 bytes" in line_of(path)


def test_npz_that_is_encrypted(tmp_path: Path) -> None:
    """Its flag alone is set; zipfile cannot write one."""
    path = tmp_path / "samples.npz"
    np.savez(path, PICTURES)
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    assert "is encrypted" in line_of(path)


def test_npz_shards_of_a_run_are_one_set(tmp_path: Path) -> None:
    """In the order of their samples, with their labels, from any place."""
    for start, stop in ((0, 10), (10, 80), (80, 90)):
        write_npz_shard(tmp_path, start, stop)
    samples = open_samples(tmp_path)
    assert (samples.num_images, samples.random_access) == (90, True)
    np.testing.assert_array_equal(samples.labels_N, LABELS[:90])
    np.testing.assert_array_equal(images_of(samples, 0, 90), PICTURES[:90])
    np.testing.assert_array_equal(images_of(samples, 7, 85), PICTURES[7:85])


def test_npz_files_that_are_no_set(tmp_path: Path) -> None:
    write_npz_shard(tmp_path, 0, 10)
    shard = write_npz_shard(tmp_path, 12, 20)
    assert "starts at sample 12, but 10 comes next" in line_of(tmp_path)
    shard.rename(tmp_path / "0000000010-0000000020-a0.npz")
    assert "holds 8 images, but its name says 10" in line_of(tmp_path)
    (tmp_path / "0000000010-0000000020-a0.npz").rename(tmp_path / "other.npz")
    assert "other.npz is not named as a shard of a run" in line_of(tmp_path)
    (tmp_path / "other.npz").unlink()
    assert open_samples(tmp_path).num_images == 10


def test_a_folder_of_two_kinds(tmp_path: Path) -> None:
    write_folder(tmp_path / "mixed")
    np.savez(tmp_path / "mixed" / "a.npz", PICTURES)
    assert "holds 5 images and 1 NPZ file: give the one kind" in line_of(tmp_path / "mixed")
    write_parquet(tmp_path / "a.parquet", 0, 3)
    line_of(tmp_path)


def test_npz_through_a_resize_rule(tmp_path: Path) -> None:
    path = tmp_path / "samples.npz"
    np.savez(path, PICTURES)
    samples = open_samples(path, resize="adm-crop:4")
    assert (samples.size, samples.resize, samples.encoded) == ((4, 4), "adm-crop:4", True)
    assert images_of(samples, 60, 70).shape == (10, 4, 4, 3)
    unchanged = open_samples(path, resize="none")
    assert (unchanged.size, unchanged.resize) == ((5, 7), None)
    np.testing.assert_array_equal(images_of(unchanged, 0, 9), PICTURES[:9])
    with pytest.raises(UsageError, match="unknown resize rule"):
        open_samples(path, resize="squash:4")


@pytest.mark.parametrize("name", ["none.npz", "none", "notes.txt"])
def test_what_is_no_samples_at_all(tmp_path: Path, name: str) -> None:
    (tmp_path / "notes.txt").write_text("x")
    line_of(tmp_path / name)


@pytest.mark.parametrize("name", ["text.npz", "text.parquet"])
def test_a_text_under_a_name_of_samples(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("hello")
    line_of(tmp_path / name)
