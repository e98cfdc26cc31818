"""Outside samples by shards: the bits of one pass, whatever was cut, killed, damaged or changed."""

import dataclasses
import os
import secrets
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from run_maker import CPU, SPEC, measure

from evalsuite.artifacts.features import FeatureTable
from evalsuite.artifacts.images import pixel_sha256
from evalsuite.artifacts.receipts import digest_of_pixels
from evalsuite.artifacts.samples import open_samples
from evalsuite.errors import CorruptionError, DataError, EnvironmentProblem, StorageError
from evalsuite.pipeline.decoding import Decoders
from evalsuite.pipeline.embedding import embed
from evalsuite.pipeline.feature_cache import (
    Extracted,
    FeatureCache,
    Rows,
    Shard,
    ShardKeeper,
    cached_sets,
    trim,
)
from evalsuite.pipeline.numerics import numerics_id
from evalsuite.pipeline.outside import (
    FeatureJob,
    FeatureWorker,
    extract_here,
    extract_uncached,
    numerics_there,
    shard_size_of,
    tasks_of,
)
from evalsuite.pipeline.ranges import Range, ShardTask
from evalsuite.pipeline.source import Source, identity_of
from evalsuite.pipeline.worker import load_extractor

COUNT = 230
BATCH = SPEC.batch_size
IMAGES = np.random.default_rng(3).integers(0, 256, (COUNT, 16, 16, 3), np.uint8)
DIGEST = digest_of_pixels([pixel_sha256(image) for image in IMAGES])


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same images as PNG, NPZ and Parquet."""
    folder = tmp_path_factory.mktemp("outside")
    (folder / "png").mkdir()
    for i, image in enumerate(IMAGES):
        Image.fromarray(image).save(folder / "png" / f"{i:03d}.png")
    np.savez(folder / "samples.npz", IMAGES)
    np.savez_compressed(folder / "compressed.npz", IMAGES)
    encoded = [path.read_bytes() for path in sorted((folder / "png").iterdir())]
    pq.write_table(pa.table({"image": encoded}), folder / "samples.parquet", row_group_size=60)
    return {
        "png": folder / "png",
        "npz": folder / "samples.npz",
        "compressed": folder / "compressed.npz",
        "parquet": folder / "samples.parquet",
    }


@pytest.fixture(scope="module")
def expected(places: dict[str, Path]) -> FeatureTable:
    """Features by one pass over all images."""
    return embed(open_samples(places["npz"]), COUNT, SPEC, CPU).table


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test alone."""
    monkeypatch.setenv("EVALSUITE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def job_of(path: Path, **changes: Any) -> FeatureJob:
    """What the command hands to its workers."""
    source = Source(path.absolute())
    numerics = numerics_id(numerics_there("cpu"))
    identity = identity_of(source, source.stamp(), source.open(), SPEC, numerics)
    job = FeatureJob(source, source.stamp(), FeatureCache.of(identity), SPEC, "cpu", numerics, 1)
    return dataclasses.replace(job, **changes)


def make(worker: FeatureWorker, task: ShardTask) -> Any:
    """The two halves of a shard, as Ray's concurrency groups run them."""
    attempt_id = secrets.token_hex(4)
    thread = threading.Thread(target=worker.compute, args=(task, attempt_id))
    thread.start()
    try:
        return worker.commit(task, attempt_id)
    finally:
        thread.join(20)
        assert not thread.is_alive()


def fill(job: FeatureJob, gaps: list[Range], shard_size: int) -> FeatureWorker:
    """Let one worker make every shard of `gaps`."""
    worker = FeatureWorker(job)
    worker.load()
    for task in tasks_of(gaps, shard_size, BATCH):
        assert make(worker, task).committed
    return worker


def kept(job: FeatureJob, count: int = COUNT) -> Rows:
    """What the cache holds of the first samples."""
    rows = Rows(count)
    job.cache.fill(rows, 0, count)
    return rows


def assert_same(found: Extracted, table: FeatureTable) -> None:
    """Bit for bit."""
    for ours, theirs in zip(found.table[1:], table[1:], strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("layout", ["png", "npz", "parquet", "compressed"])
@pytest.mark.parametrize("decoders", [1, 2])
def test_one_pass_without_a_cache(
    places: dict[str, Path], expected: FeatureTable, layout: str, decoders: int
) -> None:
    found = extract_uncached(open_samples(places[layout]), COUNT, measure(), decoders)
    assert_same(found, expected)
    assert found.pixels_digest == DIGEST


@pytest.mark.parametrize(("layout", "shard_size"), [("png", 50), ("npz", 100), ("parquet", 50)])
def test_shards_give_the_bits_of_one_pass(
    places: dict[str, Path], expected: FeatureTable, layout: str, shard_size: int
) -> None:
    """From any layout and in shards of any size, made in any order by two workers.

    One of them decodes in processes, which outlive its shards.
    """
    job = job_of(places[layout])
    tasks = tasks_of([(0, COUNT)], shard_size, BATCH)
    workers = [FeatureWorker(job), FeatureWorker(dataclasses.replace(job, decoders=2))]
    for worker in workers:
        worker.load()
    for number, task in enumerate(reversed(tasks)):
        assert make(workers[number % 2], task).committed
    assert sum(worker.progress() for worker in workers) == COUNT
    found = kept(job).result()
    assert_same(found, expected)
    assert found.pixels_digest == DIGEST


def test_more_samples_later_and_a_second_time_nothing(
    places: dict[str, Path], expected: FeatureTable
) -> None:
    """70 end in the middle of a batch; 230 go on from there."""
    job = job_of(places["npz"])
    fill(job, [(0, 70)], BATCH)
    prefix = kept(job, 70).result()
    assert_same(prefix, expected.rows(0, 70))
    rows = kept(job)
    assert rows.gaps() == [(70, COUNT)]
    fill(job, rows.gaps(), 100)
    rows = kept(job)
    assert rows.gaps() == []
    assert_same(rows.result(), expected)
    assert_same(kept(job, 33).result(), expected.rows(0, 33))


def test_two_attempts_of_one_shard(places: dict[str, Path]) -> None:
    """The second finds the first's receipt, and leaves no file."""
    job = job_of(places["npz"])
    worker = fill(job, [(0, 50)], BATCH)
    before = sorted(job.cache.folder.rglob("*"))
    assert make(worker, ShardTask(0, 50, ("features",))).discarded
    assert sorted(job.cache.folder.rglob("*")) == before


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("pattern", "damage"),
    [
        ("features/*", flipped),
        ("features/*", lambda path: path.write_bytes(path.read_bytes()[:-7])),
        ("features/*", Path.unlink),
        ("receipts/features/*", lambda path: path.write_text('{"start": 0}')),
        ("receipts/features/*", lambda path: path.write_bytes(b"\xff not JSON")),
        ("receipts/features/*", Path.unlink),
    ],
)
def test_a_damaged_shard_is_made_again(
    places: dict[str, Path], expected: FeatureTable, pattern: str, damage: Any
) -> None:
    job = job_of(places["npz"])
    fill(job, [(0, COUNT)], BATCH)
    damage(sorted(job.cache.folder.glob(pattern))[2])
    rows = kept(job)
    assert rows.gaps() == [(100, 150)]
    with pytest.raises(DataError, match="are missing"):
        rows.result()
    fill(job, rows.gaps(), BATCH)
    assert_same(kept(job).result(), expected)


@pytest.mark.parametrize("layout", ["png", "npz"])
def test_changed_files_are_other_samples(
    places: dict[str, Path], tmp_path: Path, layout: str
) -> None:
    """An equal size and an equal time of modification do not hide it."""
    path = tmp_path / "samples.npz" if layout == "npz" else tmp_path
    file = path if layout == "npz" else tmp_path / "0.png"
    file.write_bytes((places["npz"] if layout == "npz" else places["png"] / "000.png").read_bytes())
    source, about = Source(path), file.stat()
    before = source.stamp()
    assert source.stamp() == before
    flipped(file)
    os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (about.st_size, about.st_mtime_ns)
    assert source.stamp() != before


def test_the_key_has_everything_that_decides_the_bits(
    places: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def key(
        resize: str | None,
        *,
        convert: bool,
        stamp: str = "s",
        numerics: str = "n",
        layout: str = "png",
    ) -> str:
        source = Source(places[layout], resize, convert)
        return FeatureCache.of(identity_of(source, stamp, source.open(), SPEC, numerics)).key

    plain = key(None, convert=False)
    others = {
        key("bicubic:8", convert=False),
        key(None, convert=True),
        key(None, convert=False, stamp="t"),
        key(None, convert=False, numerics="m"),
    }
    assert len({plain} | others) == 5
    assert key(None, convert=False) == plain
    of_npz = key(None, convert=False, layout="npz")
    monkeypatch.setattr("evalsuite.pipeline.source.decoding_version", lambda: "pillow 0")
    assert key(None, convert=False) != plain
    assert key(None, convert=False, layout="npz") == of_npz  # its pixels are not decoded


def test_what_is_done_when_it_ends_early_is_kept(
    places: dict[str, Path], expected: FeatureTable
) -> None:
    """Impatience after three batches of fifty, in shards of a hundred."""
    job = job_of(places["png"])
    rows = Rows(COUNT)
    keeper = ShardKeeper(rows, job.cache, describe(), pytest.fail)
    with Decoders(open_samples(places["png"]), 1) as decoders:
        extractor = load_extractor(SPEC, CPU)
        extract_here(decoders, extractor, [(0, COUNT)], 100, keeper, lambda done: done < 150)
        assert rows.gaps() == kept(job).gaps() == [(150, COUNT)]
        extract_here(decoders, extractor, [(150, COUNT)], 100, keeper)
    assert_same(rows.result(), expected)
    assert_same(kept(job).result(), expected)


def describe() -> dict[str, Any]:
    """Who this process is."""
    numerics = numerics_there("cpu")
    about = {"host": "here", "pid": os.getpid(), "device": "cpu"}
    return {**about, "numerics": numerics, "numerics_id": numerics_id(numerics)}


def test_gaps_apart_are_shards_apart(places: dict[str, Path], expected: FeatureTable) -> None:
    rows, seen = Rows(COUNT), []

    def keep(shard: Shard) -> None:
        seen.append((shard.table.start, len(shard.pixel_sha256)))
        rows.take(shard)

    with Decoders(open_samples(places["npz"]), 1) as decoders:
        gaps = [(0, 50), (120, 210)]
        extract_here(decoders, load_extractor(SPEC, CPU), gaps, 100, keep)
    assert seen == [(0, 50), (120, 80), (200, 10)]
    assert rows.gaps() == [(50, 120), (210, COUNT)]


def test_a_keeper_that_fails_ends_the_work(places: dict[str, Path]) -> None:
    def full(shard: Shard) -> None:
        raise StorageError("the disk is full")

    with (
        Decoders(open_samples(places["npz"]), 1) as decoders,
        pytest.raises(StorageError, match="the disk is full"),
    ):
        extract_here(decoders, load_extractor(SPEC, CPU), [(0, COUNT)], BATCH, full)


def test_a_broken_picture_is_named_and_the_rest_kept(
    places: dict[str, Path], tmp_path: Path
) -> None:
    """By a worker and in this process; shards before it stand."""
    for i in range(120):
        (tmp_path / f"{i:03d}.png").write_bytes((places["png"] / f"{i:03d}.png").read_bytes())
    samples = open_samples(tmp_path)
    (tmp_path / "107.png").write_bytes((places["png"] / "107.png").read_bytes()[:-300])
    job = job_of(tmp_path)
    worker = FeatureWorker(job)
    worker.load()
    assert make(worker, ShardTask(50, 100, ("features",))).committed
    with pytest.raises(DataError, match=r"107\.png cannot be read as an image"):
        make(worker, ShardTask(100, 120, ("features",)))
    assert kept(job, 120).gaps() == [(0, 50), (100, 120)]
    rows = Rows(120)
    with (
        Decoders(samples, 1) as decoders,
        pytest.raises(DataError, match=r"107\.png cannot be read as an image"),
    ):
        extract_here(decoders, load_extractor(SPEC, CPU), [(0, 120)], BATCH, rows.take)
    assert rows.gaps() == [(50, 120)]  # pictures are read in portions of 64


def test_a_worker_refuses_other_files_and_other_bits(places: dict[str, Path]) -> None:
    """On another machine they may be; features are never mixed."""
    with pytest.raises(EnvironmentProblem, match=r"sees other files at .*samples\.npz"):
        FeatureWorker(job_of(places["npz"], stamp="0" * 64)).load()
    with pytest.raises(EnvironmentProblem, match="computes other bits"):
        FeatureWorker(job_of(places["npz"], numerics_id="0" * 64)).load()


def test_a_worker_that_stops_begins_no_shard(places: dict[str, Path]) -> None:
    worker = fill(job_of(places["npz"]), [], BATCH)
    worker.stop()
    with pytest.raises(Exception, match=r"samples 0\.\.49 were not begun"):
        make(worker, ShardTask(0, 50, ("features",)))


def test_sums_find_what_reading_parts_does_not(places: dict[str, Path], tmp_path: Path) -> None:
    """A byte of the pixels differs from what was written into the NPZ."""
    path = tmp_path / "samples.npz"
    path.write_bytes(places["npz"].read_bytes())
    Source(path).check_sums(threading.Event())
    flipped(path)
    assert len(list(open_samples(path).read(100, 140))) == 1
    with pytest.raises(CorruptionError, match="do not match the zip's checksum"):
        Source(path).check_sums(threading.Event())


def test_the_sets_that_were_used_least_recently_go(places: dict[str, Path]) -> None:
    """Neither the one in use nor those of the last hour; leftovers of lost attempts go before."""
    caches = []
    for number in range(4):
        cache = FeatureCache.of({"set": number})
        cache.describe({"samples": str(number)})
        (cache.folder / "features").mkdir()
        (cache.folder / "features" / "lost").write_bytes(bytes(1000))
        caches.append(cache)
    for age, cache in zip((30, 20, 40, 0), caches, strict=True):
        moment = time.time() - age * 3600
        for path in [*cache.folder.rglob("*"), cache.folder]:
            os.utime(path, (moment, moment))
    sizes = sum(one.num_bytes for one in cached_sets())
    assert trim(caches[2].folder, sizes) == []
    removed = trim(caches[2].folder, sizes - 1)
    assert [one.about["samples"] for one in removed] == ["0"]
    assert [one.about["samples"] for one in trim(caches[2].folder, 0)] == ["1"]
    for cache in caches[2:]:
        cache.remove_leftovers()
    left = [list((cache.folder / "features").iterdir()) for cache in caches[2:]]
    assert [len(files) for files in left] == [0, 1]


@given(
    cuts=st.lists(st.integers(0, 700), max_size=8, unique=True),
    batch_size=st.integers(1, 40),
    num_batches=st.integers(1, 5),
)
def test_tasks_cover_gaps_once(cuts: list[int], batch_size: int, num_batches: int) -> None:
    """None begins within a batch and goes beyond it: that batch would be computed for nothing."""
    cuts = sorted(cuts)
    gaps = list(zip(cuts[::2], cuts[1::2], strict=False))
    tasks = tasks_of(gaps, num_batches * batch_size, batch_size)
    covered = [i for task in tasks for i in range(task.start, task.stop)]
    assert covered == [i for low, high in gaps for i in range(low, high)]
    for task in tasks:
        assert 0 < task.stop - task.start <= num_batches * batch_size
        head = task.start % batch_size
        assert head == 0 or task.stop - task.start <= batch_size - head


@given(missing=st.integers(1, 10**6), workers=st.integers(1, 64), batch=st.integers(1, 128))
def test_shards_are_whole_batches_within_bounds(missing: int, workers: int, batch: int) -> None:
    for device, most in (("cpu", 8), ("cuda", 64)):
        size = shard_size_of(missing, workers, batch, device)
        assert size % batch == 0
        assert batch <= size <= most * batch
