"""A worker without Ray: the same pixels in any shards, faults that arrive, nothing left over."""

import contextlib
import errno
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from run_maker import (
    BATCH,
    BOTH,
    CPU,
    FEATURES,
    SPEC,
    begin,
    files_below,
    hashes_of,
    make_shard,
    new_run,
    new_worker,
    resolved,
)

from evalsuite.artifacts.images import pixel_sha256
from evalsuite.artifacts.run_directory import IMAGES, PIXELS, RunDirectory
from evalsuite.artifacts.storage import LocalStorage, explained
from evalsuite.config import Plan
from evalsuite.errors import (
    DataError,
    DivergedError,
    Interrupted,
    ReproducibilityError,
    StorageError,
)
from evalsuite.pipeline.coverage import Demand, covered_ranges, missing_ranges, tasks_for
from evalsuite.pipeline.generation import BatchInputs, BatchSampler
from evalsuite.pipeline.materials import Materials
from evalsuite.pipeline.ranges import ShardTask
from evalsuite.pipeline.weights import check_weights
from evalsuite.pipeline.worker import BUFFERED_BATCHES, NotStartedError, ShardWorker
from evalsuite.sampling.sampler import count_nfe
from evalsuite.seeding import labels_of, seeds_of


@contextlib.contextmanager
def largest_file(num_bytes: int) -> Iterator[None]:
    """Files of this process cannot grow beyond this, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("shard_size", [10, 30, 60])
@pytest.mark.parametrize("shard_format", ["parquet", "npz"])
def test_any_shard_size_and_format_gives_the_same_samples(
    folder: Path, finished: RunDirectory, shard_size: int, shard_format: str
) -> None:
    """Pixel hashes, seeds, labels, stored pixels, and features bit for bit."""
    run = new_run(folder)
    worker = new_worker(run, shard_format=shard_format)
    for start in reversed(range(0, 60, shard_size)):
        report = make_shard(worker, start, start + shard_size)
        assert report.committed == BOTH
        assert report.discarded == ()
    assert run.manifest.plan_id == finished.manifest.plan_id
    assert hashes_of(run, 60) == hashes_of(finished, 60)
    stored = list(run.read_images(0, 60))
    assert [index for index, _ in stored] == list(range(60))
    assert [pixel_sha256(image) for _, image in stored] == hashes_of(finished, 60)
    ours, theirs = (r.read_features(SPEC.extractor_id, 60) for r in (run, finished))
    for a, b in zip(ours[1:], theirs[1:], strict=True):
        np.testing.assert_array_equal(a, b)
    assert worker.progress() == 60


def test_a_batch_alone_is_the_same(finished: RunDirectory) -> None:
    """Last first, one twice: a batch depends on nothing that was computed before."""
    sampler = BatchSampler(finished.plan, resolved().materials, CPU)
    hashes = hashes_of(finished, 60)
    for batch in (5, 0, 3, 3):
        assert sampler.pixel_hashes(batch) == hashes[batch * BATCH : (batch + 1) * BATCH]
    rows = sampler.batch(2).rows
    assert rows.start == 20
    assert rows.seeds == seeds_of(finished.plan, 20, 30) == list(range(20, 30))
    assert rows.labels == labels_of(finished.plan, 20, 30) == list(range(10))


def test_every_sample_is_another_image(finished: RunDirectory) -> None:
    """And a replicate shares none."""
    hashes = hashes_of(finished, 60)
    assert len(set(hashes)) == 60
    plan = resolved(replicate=1).plan
    other = BatchSampler(plan, resolved().materials, CPU).pixel_hashes(0)
    assert not set(other) & set(hashes)


def test_a_receipt_says_what_it_cost_and_who_made_it(finished: RunDirectory) -> None:
    for receipt in finished.receipts(IMAGES):
        assert receipt.nfe == count_nfe(finished.plan.sampling)
        assert receipt.seconds["compute"] > 0
        assert receipt.kept == "all"
        assert receipt.numerics["threads"] == 1
    assert len({r.numerics_id for r in finished.receipts(IMAGES)}) == 1
    images, features = (finished.receipts(stage) for stage in BOTH)
    assert [r.pixels_digest for r in images] == [r.pixels_digest for r in features]


def test_stored_pixels_are_used_and_give_the_same_features(
    folder: Path, finished: RunDirectory
) -> None:
    """Features of an extractor that comes later cost no evaluation when pixels were kept."""
    run = new_run(folder)
    worker = new_worker(run)
    make_shard(worker, 0, 20, [IMAGES])
    make_shard(worker, 0, 20, [FEATURES])
    (receipt,) = run.receipts(FEATURES)
    assert receipt.nfe == 0
    ours, theirs = (r.read_features(SPEC.extractor_id, 20) for r in (run, finished))
    for a, b in zip(ours[1:], theirs[1:], strict=True):
        np.testing.assert_array_equal(a, b)


def test_pixels_that_were_not_kept_are_made_again_and_must_match(
    folder: Path, finished: RunDirectory
) -> None:
    run = new_run(folder)
    make_shard(new_worker(run, keep="none"), 0, 20, [IMAGES])
    assert run.kept_indices(20) == []
    make_shard(new_worker(run), 0, 20, [PIXELS])
    stored = [pixel_sha256(image) for _, image in run.read_images(0, 20)]
    assert stored == hashes_of(run, 20) == hashes_of(finished, 20)


def test_the_late_attempt_is_discarded_and_leaves_nothing(folder: Path) -> None:
    run = new_run(folder)
    worker = new_worker(run)
    make_shard(worker, 0, 20, attempt="first")
    before = files_below(run.root)
    report = make_shard(worker, 0, 20, attempt="second")
    assert report.discarded == BOTH
    assert report.committed == ()
    assert files_below(run.root) == before


@pytest.mark.parametrize("stages", [[FEATURES], [PIXELS]])
def test_other_pixels_than_committed_ones_write_nothing(folder: Path, stages: list[str]) -> None:
    """As after a machine that does not compute deterministically."""
    run = new_run(folder)
    make_shard(new_worker(run, keep="none"), 0, 20, [IMAGES])
    (receipt,) = run.receipts(IMAGES)
    changed = (*receipt.pixel_sha256[:7], "0" * 64, *receipt.pixel_sha256[8:])
    lie = receipt.model_copy(update={"pixel_sha256": changed})
    run.storage.replace(receipt.name, lie.model_dump_json().encode())
    before = files_below(run.root)
    with pytest.raises(ReproducibilityError, match=r"sample 7 came out with other pixels"):
        make_shard(new_worker(run), 0, 20, stages)
    assert files_below(run.root) == before


@pytest.mark.parametrize("shard_format", ["parquet", "npz"])
def test_a_full_disk_leaves_no_files_and_stops_the_producer(
    folder: Path, shard_format: str
) -> None:
    """More batches than the buffer holds, so that the producer waits for a reader when it ends.

    `make_shard` fails when the producer's thread lives on.
    """
    run = new_run(folder)
    worker = new_worker(run, shard_format=shard_format)
    make_shard(worker, 0, 10)
    before = files_below(run.root)
    with largest_file(9000), pytest.raises(StorageError, match="raise the limit on file sizes"):
        make_shard(worker, 10, 10 + BATCH * (BUFFERED_BATCHES + 6))
    assert files_below(run.root) == before
    assert make_shard(worker, 10, 30).committed == BOTH  # with space again, the same worker goes on


def test_a_commit_that_fails_before_the_computation_begins(folder: Path) -> None:
    """The producer, when its turn comes, finds that nobody reads, and stops."""
    run = new_run(folder)
    worker = new_worker(run)
    (run.root / "images").write_text("a file where a folder is needed")
    task = ShardTask(0, BATCH * (BUFFERED_BATCHES + 6), BOTH)
    with pytest.raises(StorageError):
        worker.commit(task, "a0")
    for thread in begin(worker, task, "a0"):
        thread.join(20)
        assert not thread.is_alive()
    assert worker.progress() <= BATCH * (BUFFERED_BATCHES + 1)


def test_what_was_committed_stays_when_a_later_stage_fails(folder: Path) -> None:
    """The disk fills up between two receipts of one attempt."""
    run = new_run(folder)
    worker = new_worker(run)
    (run.root / "receipts").mkdir()
    (run.root / "receipts" / "features").write_text("a file where a folder is needed")
    with pytest.raises(StorageError):
        make_shard(worker, 0, 20)
    assert len(run.receipts(IMAGES)) == 1
    assert len(list(run.read_images(0, 20))) == 20
    assert not [name for name in files_below(run.root) if name.endswith(".safetensors")]


class AnswersLate(LocalStorage):
    """Commits a receipt after its answer was given up: on the network's way, or by a thread."""

    def __init__(self, root: Path, failure: BaseException) -> None:
        super().__init__(root)
        self._failure, self._late = failure, list[tuple[str, bytes]]()

    def commit(self, relative: str, content: bytes) -> bool:
        if "receipts/" not in relative:
            return super().commit(relative, content)
        self._late.append((relative, content))
        with explained(self.path(relative), "write"):
            raise self._failure

    def end(self) -> None:
        for relative, content in self._late:
            super().commit(relative, content)


@pytest.mark.parametrize(
    ("failure", "told"),
    [
        (OSError(errno.ETIMEDOUT, "no answer"), StorageError),
        (OSError(errno.EIO, "no answer"), StorageError),
        (Interrupted("stopped by SIGTERM"), Interrupted),
    ],
    ids=["ETIMEDOUT", "EIO", "SIGTERM"],
)
def test_files_stay_whose_receipt_may_yet_stand(
    folder: Path, failure: BaseException, told: type[BaseException]
) -> None:
    """As of a network's disk, or of a store whose client goes on in a thread."""
    run = new_run(folder)
    worker = new_worker(run)
    worker._run.storage = storage = AnswersLate(run.root, failure)
    with pytest.raises(told):
        make_shard(worker, 0, 20)
    storage.end()
    (receipt,) = run.receipts(IMAGES)
    assert len(list(run.read_images(0, 20))) == 20
    assert [n for n in files_below(run.root) if n.startswith(("images", "features"))] == [
        receipt.files[0].path
    ]


def test_a_fault_of_the_computation_reaches_commit(folder: Path) -> None:
    """Noise so large that pixels overflow: our line, no files, and the worker lives."""
    run = new_run(folder, sampling={"noise_scale": 1e38})
    worker = new_worker(run)
    with pytest.raises(
        DivergedError, match=r"samples 0\.\.9: the sampler gave NaN or infinite pixels"
    ):
        make_shard(worker, 0, 30)
    assert files_below(run.root) == ["manifest.json"]


@pytest.mark.parametrize("at", [0, 2, 8])
def test_a_bug_in_the_computation_reaches_commit_with_its_own_type(folder: Path, at: int) -> None:
    """At the first batch, in the middle, and when the buffer has been full."""

    class Broken:
        def __init__(self, inner: BatchSampler) -> None:
            self._inner = inner
            self.numerics, self.numerics_id = inner.numerics, inner.numerics_id

            self.inputs = inner.inputs

        def sample(self, inputs: BatchInputs) -> Any:
            if inputs.start == at * BATCH:
                raise ZeroDivisionError("a bug")
            return self._inner.sample(inputs)

    run = new_run(folder)
    worker = new_worker(run)
    worker._sampler = Broken(worker._sampler)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        make_shard(worker, 0, 100)
    assert files_below(run.root) == ["manifest.json"]


def test_a_worker_that_was_told_to_stop_begins_no_shard(folder: Path) -> None:
    run = new_run(folder)
    worker = new_worker(run)
    worker.stop()
    with pytest.raises(NotStartedError, match=r"samples 10\.\.29 were not begun"):
        make_shard(worker, 10, 30)
    assert files_below(run.root) == ["manifest.json"]


def test_progress_answers_while_batches_are_computed(folder: Path) -> None:
    """From a third thread, at once, and never backwards."""
    worker = new_worker(new_run(folder))
    task = ShardTask(0, 200, BOTH)
    threads = [*begin(worker, task, "a0"), Thread(target=worker.commit, args=(task, "a0"))]
    threads[-1].start()
    seen = []
    while any(thread.is_alive() for thread in threads):
        seen.append(worker.progress())
        time.sleep(0.01)
    assert seen == sorted(seen)
    assert len(set(seen)) > 3
    assert worker.progress() == 200


def test_weights_that_are_not_the_plans_are_refused(folder: Path, tmp_path: Path) -> None:
    """By SHA-256, before anything is computed."""
    plan = resolved().plan
    other = tmp_path / "other.safetensors"
    own = resolved().materials.weights
    assert own is not None
    other.write_bytes(own.read_bytes() + b" ")
    with pytest.raises(DataError, match="their SHA-256 is not"):
        BatchSampler(plan, Materials(other), CPU)
    with pytest.raises(DataError, match="do not exist on this machine"):
        check_weights(tmp_path / "none", plan.weights_sha256)
    job = new_worker(new_run(folder))._job
    for spec in (
        SPEC.model_copy(update={"weights": SPEC.weights.model_copy(update={"sha256": "0" * 64})}),
        SPEC.model_copy(update={"weights": SPEC.weights.model_copy(update={"file": "none"})}),
    ):
        with pytest.raises(DataError, match="extractor digits-convnet"):
            ShardWorker(type(job)(**{**vars(job), "extractors": (spec,)})).load()


def test_labels_decide_images(folder: Path) -> None:
    """Other labels on equal noise are other images; classes restrict them."""
    plans: list[Plan] = [resolved(labels=rule).plan for rule in ("modulo", "blocked:100")]
    hashes = [BatchSampler(p, resolved().materials, CPU).pixel_hashes(0) for p in plans]
    same = [a == b for a, b in zip(*hashes, strict=True)]
    assert same == [True] + [False] * 9  # both rules give sample 0 class 0


def drive(run: RunDirectory, demand: Demand, shard_size: int, worker: ShardWorker) -> int:
    """Make what `demand` lacks; gives the number of shards."""
    covered = covered_ranges(run, run.plan, demand)
    tasks = tasks_for(covered, demand.asked(BATCH), shard_size, BATCH)
    for task in tasks:
        make_shard(worker, task.start, task.stop, task.stages)
    assert missing_ranges(run, demand) == []
    return len(tasks)


def test_a_grown_run_is_the_run_at_once(folder: Path, finished: RunDirectory) -> None:
    """In parts, then more samples, then features, then all pixels; and a last time nothing."""
    run = new_run(folder)
    grid = new_worker(run, keep="grid")
    for part in (2, 1, 3):
        drive(run, Demand(25, (part, 3), "grid", ()), 10, grid)
    assert [i for r in run.receipts(IMAGES) for i in range(r.start, r.stop)] == list(range(30))
    drive(run, Demand(60, None, "grid", ()), 20, grid)
    drive(run, Demand(60, None, "grid", (SPEC,)), 30, grid)
    everything = Demand(60, None, "all", (SPEC,))
    assert drive(run, everything, 40, new_worker(run)) > 0
    assert drive(run, everything, 10, new_worker(run)) == 0
    assert hashes_of(run, 60) == hashes_of(finished, 60)
    stored = [pixel_sha256(image) for _, image in run.read_images(0, 60)]
    assert stored == hashes_of(finished, 60)
    ours, theirs = (r.read_features(SPEC.extractor_id, 60) for r in (run, finished))
    for a, b in zip(ours[1:], theirs[1:], strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_a_run_lacks_is_said_by_stage(folder: Path) -> None:
    run = new_run(folder)
    demand = Demand(40, None, "all", (SPEC,))
    assert missing_ranges(run, demand) == [(0, 40)]
    assert covered_ranges(None, run.plan, demand) == {IMAGES: [], PIXELS: [], FEATURES: []}
    make_shard(new_worker(run), 10, 20, [IMAGES])
    assert missing_ranges(run, demand) == [(0, 10), (0, 40), (20, 40)]
    grid = Demand(200, None, "grid", ())
    kept = covered_ranges(run, run.plan, grid)[PIXELS]
    assert (10, 20) in kept
    # the grid is the first 8 of each of 10 classes: samples 0..79
    assert sorted(kept) == [(10, 20), (80, 200)]


def test_a_stopped_worker_commits_the_batches_it_has(folder: Path, finished: RunDirectory) -> None:
    """It ends after the batch in hand; the rest of its shard is to be done, with the same bytes."""
    run = new_run(folder)
    worker = new_worker(run)
    sample = worker._sampler.sample

    def sample_and_stop(inputs: BatchInputs) -> Any:
        batch = sample(inputs)
        if batch.rows.start == BATCH:
            worker.stop()
        return batch

    worker._sampler.sample = sample_and_stop
    report = make_shard(worker, 0, 60)
    assert report.task[:2] == (0, 2 * BATCH)
    assert report.committed == BOTH
    assert hashes_of(run, 2 * BATCH) == hashes_of(finished, 2 * BATCH)
    demand = Demand(60, None, "all", (SPEC,))
    assert missing_ranges(run, demand) == [(2 * BATCH, 60)]
    make_shard(new_worker(run), 2 * BATCH, 60)
    assert hashes_of(run, 60) == hashes_of(finished, 60)
    ours, theirs = (r.read_features(SPEC.extractor_id, 60) for r in (run, finished))
    for a, b in zip(ours[1:], theirs[1:], strict=True):
        np.testing.assert_array_equal(a, b)
