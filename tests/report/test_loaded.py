"""`evalsuite.load_run`: numbers, samples and images of a run on a disk and in a store."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_builder import NAMES, add_record, make_plan, make_run, make_scored_run, pictures
from store_server import s3_server, speaking_to

import evalsuite
from evalsuite.artifacts.images import ShardFormat
from evalsuite.artifacts.single_images import SingleImages
from evalsuite.artifacts.storage import LocalStorage
from evalsuite.errors import CorruptionError, IncompleteError, UsageError

BAD = "<script>alert(1)</script>"


def test_metrics_are_those_of_the_most_samples(tmp_path: Path) -> None:
    run = evalsuite.load_run(make_scored_run(tmp_path / "run").root)
    assert list(run.metrics) == ["fid", "sfid", "inception_score", "precision", "recall"]
    fid = run.metrics["fid"]
    assert (fid.value, fid.standard_error) == (43.62519, 0.731)
    assert run.metrics_of(50)["fid"].value == 60.0625
    assert run.protocols["fid"] == fid.protocol
    assert [r.protocol.num_samples for r in run.records] == [90] * 5 + [50]
    assert run.plan == make_plan()
    assert run.tags == {"why": "again"}
    assert "fid 43.6252 ± 0.7310" in repr(run)
    with pytest.raises(KeyError, match="did you mean 'fid'"):
        run.metrics["fidd"]
    with pytest.raises(UsageError, match="it has 50, 90"):
        run.metrics_of(20)
    with pytest.raises(UsageError, match="keeps no influence"):
        run.influence("fid")


def test_numbers_of_several_protocols_keep_their_names(tmp_path: Path) -> None:
    built = make_run(tmp_path / "run", num_images=32)
    for name, value in (("adm", 2.0), ("jit", 3.0)):
        add_record(built, "fid", 32, value, extractor=name, protocol_name=name)
    run = evalsuite.load_run(str(built.root))
    assert {name: record.value for name, record in run.metrics.items()} == {
        "adm:fid": 2.0,
        "jit:fid": 3.0,
    }


def test_no_result_hides_another(tmp_path: Path) -> None:
    """Of one metric against two references, and by two ways against one of them."""
    built = make_run(tmp_path / "run", num_images=32)
    for value, reference, details in ((2.0, "a", {}), (3.0, "b", {}), (4.0, "b", {"way": 2})):
        told = {"reference": reference, "reference_sha256": 64 * reference}
        add_record(built, "fid", 32, value, details=details, **told)
    add_record(built, "inception_score", 32, 5.0)
    run = evalsuite.load_run(built.root)
    assert len(run.metrics) == len(run.records) == 4
    ids = {record.value: record.protocol_id for record in run.records}
    assert {name: record.value for name, record in run.metrics.items()} == {
        "fid@a": 2.0,
        f"fid@b@{ids[3.0]}": 3.0,
        f"fid@b@{ids[4.0]}": 4.0,
        "inception_score": 5.0,
    }


def test_samples_are_a_table(tmp_path: Path) -> None:
    built = make_run(tmp_path / "run", keep="grid", num_images=96)
    table = evalsuite.load_run(built.root).samples
    assert table.num_rows == 96
    assert table["sample_index"].to_pylist() == list(range(96))
    assert table["seed"].to_pylist() == list(range(1000, 1096))
    assert table["label"].to_pylist() == [i % 10 for i in range(96)]
    assert table["class_name"].to_pylist()[:10] == list(NAMES)
    assert table["kept"].to_pylist() == [i < 80 for i in range(96)]  # eight of each class
    hashes = [h for receipt in built.receipts("images") for h in receipt.pixel_sha256]
    assert table["pixel_sha256"].to_pylist() == hashes
    assert list(table.to_pandas().columns) == table.column_names


@pytest.mark.parametrize("shards", ["parquet", "npz"])
def test_images_are_decoded_one_by_one(shards: ShardFormat, tmp_path: Path) -> None:
    run = evalsuite.load_run(make_run(tmp_path / "run", shard_format=shards).root)
    expected = pictures(run.plan, 0, len(run.images))
    for index in (0, 31, 17, 16):
        assert np.array_equal(np.asarray(run.images[index]), expected[index])
    assert np.array_equal(np.asarray(run.image(1)), expected[1])
    assert [np.asarray(one).tolist() for one in run.images[2:4]] == expected[2:4].tolist()


def test_of_a_shard_only_a_part_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of one file with many batches: as many bytes as one batch and the footer have."""
    plan = make_plan(size=(128, 128))
    built = make_run(tmp_path / "run", plan=plan, num_images=32)
    read = 0
    part = LocalStorage.part

    def counted(self: LocalStorage, relative: str, start: int, stop: int) -> bytes:
        nonlocal read
        content = part(self, relative, start, stop)
        read += len(content)
        return content

    monkeypatch.setattr(LocalStorage, "part", counted)
    monkeypatch.setattr(LocalStorage, "read_checked", None)
    (path,) = (tmp_path / "run" / "images").iterdir()
    images = evalsuite.load_run(built.root).images
    assert np.array_equal(np.asarray(images[3]), pictures(plan, 3, 4)[0])
    first = read
    assert 0 < first < 0.8 * path.stat().st_size
    assert np.asarray(images[4]).shape == (128, 128, 3)
    assert read == first  # of the batch that is there


def test_pixels_that_were_not_kept_or_not_recorded_are_refused(tmp_path: Path) -> None:
    grid = evalsuite.load_run(make_run(tmp_path / "grid", keep="grid").root)
    assert grid.images.indices == list(range(80))
    with pytest.raises(IncompleteError, match="no pixels of sample 90: `evalsuite sample`"):
        grid.images[90]
    for beyond in (96, 5000, -1):
        said = f"sample index {beyond} is out of range: the run has 96 samples"
        with pytest.raises(IndexError, match=said):
            grid.images[beyond]
    built = make_run(tmp_path / "all", num_images=32)
    (path,) = (tmp_path / "all" / "images").iterdir()
    content = path.read_bytes()
    path.write_bytes(b"x" * len(content))
    with pytest.raises(CorruptionError, match="is not a Parquet image shard"):
        SingleImages(built).read(0)
    path.write_bytes(content[:-1])
    with pytest.raises(CorruptionError, match="bytes, not"):
        SingleImages(built).read(0)
    path.unlink()
    with pytest.raises(CorruptionError, match="is missing"):
        SingleImages(built).read(0)


def test_pixels_of_an_npz_are_compared_with_the_receipt(tmp_path: Path) -> None:
    built = make_run(tmp_path / "run", num_images=32, shard_format="npz")
    (path,) = (tmp_path / "run" / "images").iterdir()
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptionError, match="sample 1 do not match their hash"):
        SingleImages(built).read(1)
    others = [SingleImages(built).read(index) for index in range(32) if index != 1]
    assert len(others) == 31


def test_html_is_escaped(tmp_path: Path) -> None:
    built = make_run(tmp_path / "run", num_images=32, model=BAD)
    record = add_record(
        built, "fid", 32, 2.0, standard_error=0.1, notes=(BAD,), reference=BAD, prefix=BAD
    )
    run = evalsuite.load_run(built.root)
    for text in (run._repr_html_(), run.records._repr_html_(), run.metrics._repr_html_()):
        assert BAD not in text
        assert "&lt;script&gt;" in text
        assert "<table>" in text
    assert BAD not in record._repr_html_()
    assert "2.0000 ± 0.1000" in record._repr_html_()


def test_the_package_stays_light() -> None:
    """Names that are imported when they are asked for cost nothing before."""
    code = (
        "import sys, evalsuite\n"
        "print(not {'numpy', 'torch', 'pyarrow', 'ray', 'pydantic'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


@pytest.fixture(scope="module")
def store() -> Iterator[Any]:
    with s3_server() as server, speaking_to(server.url):
        yield server


def test_a_run_in_a_store_is_the_same(store: Any, tmp_path: Path) -> None:
    local = make_scored_run(tmp_path / "run", num_images=32)
    bucket = store.new_bucket()
    for path in (tmp_path / "run").rglob("*"):
        if path.is_file():
            key = f"runs/a/{path.relative_to(tmp_path / 'run').as_posix()}"
            store.raw.put_object(Bucket=bucket, Key=key, Body=path.read_bytes())
    here, there = evalsuite.load_run(local.root), evalsuite.load_run(f"s3://{bucket}/runs/a")
    assert there.samples == here.samples
    assert there.records == here.records
    assert np.array_equal(np.asarray(there.images[20]), np.asarray(here.images[20]))
