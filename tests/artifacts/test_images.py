"""Image shards: Parquet that opens as images, NPZ in ADM's layout, hashes of pixels, bad files."""

import hashlib
import io
import zipfile
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from artifact_builder import make_plan, pictures
from numpy.typing import NDArray
from PIL import Image

from evalsuite.artifacts.images import (
    GRID_CLASSES,
    GRID_PER_CLASS,
    ImageRows,
    Keep,
    NpzImageWriter,
    ParquetImageWriter,
    decode_image,
    encode_png,
    is_kept,
    parquet_indices,
    pixel_sha256,
    read_npz_shard,
    read_parquet_shard,
)
from evalsuite.artifacts.storage import HashingWriter
from evalsuite.errors import CorruptionError
from evalsuite.seeding import labels_of

Images = NDArray[np.uint8]


def rows_of(images: Images, start: int) -> ImageRows:
    """Rows with seeds 1000 + index and labels index % 3."""
    indices = range(start, start + len(images))
    return ImageRows(start, [1000 + i for i in indices], [i % 3 for i in indices], images)


def parquet(images: Images, start: int = 0, keep: Keep = "all") -> bytes:
    """A shard written in two batches."""
    buffer = io.BytesIO()
    writer = ParquetImageWriter(
        HashingWriter(buffer, Path("memory")), keep, make_plan(num_classes=3)
    )
    half = len(images) // 2
    for low, high in ((0, half), (half, len(images))):
        rows = rows_of(images[low:high], start + low)
        writer.write(rows, [pixel_sha256(image) for image in rows.images_NHWC])
    writer.close()
    return buffer.getvalue()


def npz(images: Images, announced: int | None = None) -> bytes:
    """An NPZ shard written in two batches."""
    buffer = io.BytesIO()
    writer = NpzImageWriter(
        HashingWriter(buffer, Path("memory")), announced or len(images), images.shape[1:3]
    )
    writer.write(rows_of(images[:2], 0), ())
    writer.write(rows_of(images[2:], 2), ())
    writer.close()
    return buffer.getvalue()


def test_the_pixel_hash_is_of_the_bytes_row_by_row() -> None:
    """Whatever the strides of the array."""
    image = pictures(1)[0]
    expected = hashlib.sha256(image.tobytes(order="C")).hexdigest()
    assert pixel_sha256(image) == expected
    assert pixel_sha256(np.asfortranarray(image)) == expected
    assert pixel_sha256(image[::-1]) != expected


def test_png_is_lossless() -> None:
    for image in pictures(4):
        np.testing.assert_array_equal(decode_image(encode_png(image)), image)


def test_parquet_opens_as_images_in_datasets(tmp_path: Path) -> None:
    """A plain binary column would open as bytes."""
    images = pictures(6)
    path = tmp_path / "shard.parquet"
    path.write_bytes(parquet(images, start=12))
    loaded = datasets.load_dataset(
        "parquet", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert loaded.column_names == ["sample_index", "seed", "label", "pixel_sha256", "image"]
    assert loaded["sample_index"][:] == list(range(12, 18))
    assert loaded["seed"][:] == list(range(1012, 1018))
    assert loaded["label"][:] == [0, 1, 2, 0, 1, 2]
    for row, image in zip(loaded, images, strict=True):
        assert isinstance(row["image"], Image.Image)
        np.testing.assert_array_equal(np.asarray(row["image"]), image)
        assert row["pixel_sha256"] == hashlib.sha256(np.asarray(row["image"]).tobytes()).hexdigest()


def test_parquet_reads_back() -> None:
    images = pictures(5)
    found = list(read_parquet_shard(parquet(images, start=8), "shard"))
    assert [index for index, _ in found] == [8, 9, 10, 11, 12]
    for (_, image), expected in zip(found, images, strict=True):
        np.testing.assert_array_equal(image, expected)


def test_images_that_are_not_kept_are_null_with_their_hash() -> None:
    """`none` keeps hashes alone; `grid` the first 8 for each class."""
    images = pictures(30)
    for keep, kept in (("none", 0), ("grid", GRID_PER_CLASS * 3), ("all", 30)):
        content = parquet(images, keep=keep)
        found = list(read_parquet_shard(content, "shard"))
        assert [image is not None for _, image in found] == [i < kept for i in range(30)]
        table = pq.read_table(io.BytesIO(content))
        assert table["pixel_sha256"].to_pylist() == [pixel_sha256(image) for image in images]


def test_the_grid_of_many_classes_is_bounded() -> None:
    """A thousand classes do not keep 8,000 images."""
    many = make_plan(num_classes=1000)
    kept = [index for index in range(10_000) if is_kept("grid", many, index)]
    assert len(kept) == GRID_CLASSES * GRID_PER_CLASS
    assert {index % 1000 for index in kept} == set(range(GRID_CLASSES))
    assert not is_kept("none", many, 0)
    assert is_kept("all", many, 10**9)


@pytest.mark.parametrize("per_class", [1, 5, 8, 50])
def test_the_grid_has_the_first_of_every_class_in_blocks_too(per_class: int) -> None:
    """Whatever the order of labels."""
    plan = make_plan(num_classes=3, labels={"rule": "blocked", "per_class": per_class})
    labels = labels_of(plan, 0, 300)
    kept = [index for index in range(300) if is_kept("grid", plan, index)]
    for label in range(3):
        first = [index for index in range(300) if labels[index] == label][:GRID_PER_CLASS]
        assert [index for index in kept if labels[index] == label] == first


@pytest.mark.parametrize("write", [parquet, npz], ids=["parquet", "npz"])
def test_equal_images_give_equal_bytes(write: Any) -> None:
    """No time of day, no random order."""
    assert write(pictures(6)) == write(pictures(6))


def test_npz_has_adms_layout() -> None:
    """arr_0 uint8 NHWC, arr_1 labels; readable by numpy without pickles."""
    images = pictures(6)
    content = npz(images)
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        assert archive.files == ["arr_0", "arr_1", "seeds"]
        assert archive["arr_0"].dtype == np.uint8
        np.testing.assert_array_equal(archive["arr_0"], images)
        np.testing.assert_array_equal(archive["arr_1"], [0, 1, 2, 0, 1, 2])
        assert archive["arr_1"].dtype == np.int64
        np.testing.assert_array_equal(archive["seeds"], np.arange(1000, 1006))
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert {i.compress_type for i in archive.infolist()} == {zipfile.ZIP_STORED}
        assert archive.testzip() is None
        assert {i.date_time for i in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    found = list(read_npz_shard(content, 40, "shard"))
    assert [index for index, _ in found] == list(range(40, 46))


@pytest.mark.parametrize("announced", [5, 7])
def test_an_npz_of_another_count_than_announced_is_refused(announced: int) -> None:
    with pytest.raises(ValueError, match="missing"):
        npz(pictures(6), announced)


def test_pixels_that_do_not_match_their_hash() -> None:
    """Another image under a right hash, as if a row had been exchanged."""
    images = pictures(4)
    table = pq.read_table(io.BytesIO(parquet(images)))
    cells = table["image"].to_pylist()
    cells[1], cells[2] = cells[2], cells[1]
    column = pa.array(cells, type=table.schema.field("image").type)
    buffer = io.BytesIO()
    pq.write_table(table.set_column(4, "image", column), buffer)
    with pytest.raises(CorruptionError, match="pixels of sample 1 do not match their hash"):
        list(read_parquet_shard(buffer.getvalue(), "shard"))


def test_a_cell_that_is_no_image() -> None:
    images = pictures(4)
    table = pq.read_table(io.BytesIO(parquet(images)))
    cells = table["image"].to_pylist()
    cells[3]["bytes"] = b"no image"
    column = pa.array(cells, type=table.schema.field("image").type)
    buffer = io.BytesIO()
    pq.write_table(table.set_column(4, "image", column), buffer)
    with pytest.raises(CorruptionError, match="sample 3 is not an image"):
        list(read_parquet_shard(buffer.getvalue(), "shard"))


def test_truncated_shards(tmp_path: Path) -> None:
    """Cut anywhere: one line with the place."""
    content, archive = parquet(pictures(4)), npz(pictures(4))
    path = tmp_path / "cut.parquet"
    for share in (0.0, 0.3, 0.9, 0.999):
        path.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(CorruptionError, match="the shard"):
            list(read_parquet_shard(path.read_bytes(), "the shard"))
        with pytest.raises(CorruptionError, match=r"cut\.parquet"):
            parquet_indices(path)
        with pytest.raises(CorruptionError, match="the shard"):
            list(read_npz_shard(archive[: int(len(archive) * share)], 0, "the shard"))


def test_parquet_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "other.parquet"
    pq.write_table(pa.table({"a": [1, 2]}), path)
    with pytest.raises(CorruptionError):
        parquet_indices(path)
    with pytest.raises(CorruptionError):
        list(read_parquet_shard(path.read_bytes(), "shard"))


def test_indices_without_decoding(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(parquet(pictures(5), start=7))
    np.testing.assert_array_equal(parquet_indices(path), np.arange(7, 12))
