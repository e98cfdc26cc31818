"""Samples in Parquet: shards of a run, and files of other people's data sets."""

import io
import pickle
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sample_builder import LABELS, PICTURES, images_of, line_of, write_parquet

from evalsuite.artifacts.images import Keep, encode_png
from evalsuite.artifacts.samples import open_samples
from evalsuite.errors import CorruptionError


def write_table(path: Path, columns: dict[str, Any], rows: int = 10) -> None:
    """A file of someone else's, `rows` to a row group."""
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=rows)


def cells(start: int, stop: int) -> list[dict[str, Any]]:
    """Images as `datasets` embeds them."""
    return [{"bytes": encode_png(image), "path": None} for image in PICTURES[start:stop]]


def test_shards_in_the_order_of_their_samples(tmp_path: Path) -> None:
    """Not of their names; from any place; with labels."""
    write_parquet(tmp_path / "b.parquet", 0, 10)
    write_parquet(tmp_path / "a.parquet", 10, 100)
    samples = open_samples(tmp_path)
    assert (samples.num_images, samples.size, samples.codec) == (100, (5, 7), "lossless")
    np.testing.assert_array_equal(samples.labels_N, LABELS[:100])
    there = pickle.loads(pickle.dumps(samples))
    for start, stop in ((0, 100), (0, 12), (7, 13), (13, 90), (50, 60), (3, 4), (61, 99)):
        for reader in (samples, there):
            np.testing.assert_array_equal(images_of(reader, start, stop), PICTURES[start:stop])
    assert open_samples(tmp_path / "a.parquet").num_images == 90


def test_reading_that_is_given_up_disturbs_no_other(tmp_path: Path) -> None:
    """Two readers of one set may take turns."""
    write_parquet(tmp_path / "a.parquet", 0, 131, batch=131)
    samples = open_samples(tmp_path)
    first, second = samples.read(0, 131), samples.read(40, 131)
    np.testing.assert_array_equal(next(first), PICTURES[:64])
    np.testing.assert_array_equal(next(second), PICTURES[40:104])
    np.testing.assert_array_equal(next(first), PICTURES[64:128])
    first.close()
    np.testing.assert_array_equal(np.concatenate(list(second)), PICTURES[104:131])
    np.testing.assert_array_equal(images_of(samples, 100, 131), PICTURES[100:131])


@pytest.mark.parametrize(("low", "text"), [(12, "but 10 comes next"), (8, "missing or overlap")])
def test_gaps_and_overlaps(tmp_path: Path, low: int, text: str) -> None:
    write_parquet(tmp_path / "a.parquet", 0, 10)
    write_parquet(tmp_path / "b.parquet", low, 20)
    assert text in line_of(tmp_path)


@pytest.mark.parametrize("keep", ["none", "grid"])
def test_pixels_that_were_not_kept(tmp_path: Path, keep: Keep) -> None:
    write_parquet(tmp_path / "a.parquet", 0, 30, keep=keep)
    assert "the pixels were not kept" in line_of(tmp_path)


def test_a_file_without_a_row(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", 0, 0)
    assert "hold no row" in line_of(tmp_path)


def test_a_truncated_shard(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", 0, 10)
    content = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(content[:-20])
    assert "a.parquet is not a Parquet image shard" in line_of(tmp_path)


def test_pixels_that_do_not_match_their_hash(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_parquet(path, 0, 10)
    table = pq.read_table(path)
    images = table["image"].to_pylist()
    images[4]["bytes"] = encode_png(PICTURES[9])
    at = table.column_names.index("image")
    pq.write_table(table.set_column(at, "image", pa.array(images)), path)
    with pytest.raises(CorruptionError, match="sample 4: its pixels do not match their hash"):
        images_of(open_samples(path), 0, 10)
    np.testing.assert_array_equal(images_of(open_samples(path), 5, 9), PICTURES[5:9])


def test_a_shard_with_a_gap_inside(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_parquet(path, 0, 10)
    pq.write_table(pq.read_table(path).filter([i != 4 for i in range(10)]), path)
    assert "sample_index does not count up by one" in line_of(path)


def test_what_datasets_writes(tmp_path: Path) -> None:
    """Its image column and its labels, in the order of rows."""
    columns = {"image": [Image.fromarray(p) for p in PICTURES[:25]], "label": LABELS[:25]}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(3)})
    data = datasets.Dataset.from_dict(columns, features=features)
    data.to_parquet(tmp_path / "data.parquet")
    samples = open_samples(tmp_path / "data.parquet")
    assert (samples.num_images, samples.codec) == (25, "lossless")
    np.testing.assert_array_equal(samples.labels_N, LABELS[:25])
    np.testing.assert_array_equal(images_of(samples, 0, 25), PICTURES[:25])


def test_files_of_others_in_the_order_of_their_paths(tmp_path: Path) -> None:
    """Below a subfolder, and of whichever binary column there is."""
    for i in range(3):
        images = [encode_png(p) for p in PICTURES[i * 20 : i * 20 + 20]]
        write_table(tmp_path / "data" / f"train-{i}.parquet", {"png": images}, rows=7)
    samples = open_samples(tmp_path)
    assert (samples.num_images, samples.labels_N) == (60, None)
    for start, stop in ((0, 60), (19, 21), (30, 58)):
        np.testing.assert_array_equal(images_of(samples, start, stop), PICTURES[start:stop])


def test_jpeg_inside_is_lossy(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(PICTURES[0]).save(buffer, "jpeg")
    write_table(tmp_path / "a.parquet", {"image": [buffer.getvalue()]})
    assert open_samples(tmp_path).codec == "lossy"


def test_a_jpeg_behind_a_png_is_refused(tmp_path: Path) -> None:
    """The first of a file says how the codec is told; a PNG among JPEGs changes nothing in it."""
    buffer = io.BytesIO()
    Image.fromarray(PICTURES[1]).save(buffer, "jpeg")
    write_table(tmp_path / "a.parquet", {"image": [*cells(0, 3), {"bytes": buffer.getvalue()}]})
    text = line_of(tmp_path / "a.parquet")
    assert "a.parquet: sample 3 is a JPEG picture, while the first ones" in text
    write_table(tmp_path / "a.parquet", {"image": [{"bytes": buffer.getvalue()}, *cells(0, 3)]})
    samples = open_samples(tmp_path)
    assert samples.codec == "lossy"
    np.testing.assert_array_equal(images_of(samples, 1, 4), PICTURES[:3])


def test_files_without_images(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_table(path, {"text": ["a"], "label": [1]})
    assert "no column is known to hold images" in line_of(path)
    assert "text (string), label (int64)" in line_of(path)
    write_table(path, {"a": [b"x"], "b": [b"y"]})
    assert "no column is known to hold images" in line_of(path)
    write_table(path, {"image": [{"bytes": None, "path": "x/1.png"}]}, rows=1)
    assert "no column" in line_of(path)
    image = pa.array(
        [{"bytes": None, "path": "x/1.png"}], pa.struct({"bytes": pa.binary(), "path": pa.string()})
    )
    write_table(path, {"image": image})
    assert "names the file x/1.png and holds no image" in line_of(path)


def test_bad_images_and_labels_of_others_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_table(path, {"image": [*cells(0, 3), {"bytes": b"no image", "path": None}]})
    assert "sample 3 cannot be read as an image" in line_of(path)
    write_table(
        path, {"image": [*cells(0, 2), {"bytes": encode_png(PICTURES[0][:4]), "path": None}]}
    )
    assert "sample 2 is 4x7" in line_of(path)
    write_table(path, {"image": cells(0, 2), "label": pa.array([1, None])})
    assert "1 rows have no label" in line_of(path)
    write_parquet(tmp_path / "b.parquet", 0, 3)
    assert "have different columns" in line_of(tmp_path)


def test_resizing_comes_after_the_hash(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", 0, 10)
    samples = open_samples(tmp_path, resize="bicubic:4")
    assert samples.size == (4, 4)
    expected = Image.fromarray(PICTURES[7]).resize((4, 4), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(images_of(samples, 7, 8)[0], np.asarray(expected))
