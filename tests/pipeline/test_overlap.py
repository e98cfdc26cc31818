"""What a worker does at the same time, how much of it waits, and how its threads end.

Each part of the worker is held at a gate until another part has been seen to do what it should do
meanwhile: without overlap the test would wait for ever, and fails at the time limit.
"""

import itertools
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from run_maker import BATCH, begin, files_below, hashes_of, make_shard, new_run, new_worker

from evalsuite.artifacts.run_directory import IMAGES, RunDirectory
from evalsuite.artifacts.storage.local import LocalStorage
from evalsuite.errors import DataError
from evalsuite.pipeline.channel import Channel, Closed, NotWantedError
from evalsuite.pipeline.generation import BatchInputs, BatchSampler, GeneratedBatch
from evalsuite.pipeline.ranges import ShardTask
from evalsuite.pipeline.worker import (
    BUFFERED_BATCHES,
    PREPARED_BATCHES,
    CommitReport,
    NotStartedError,
    ShardWorker,
)

LIMIT_S = 20


class Watched:
    """A sampler that tells which batches were drawn and sampled, and asks before it does either."""

    def __init__(
        self,
        inner: BatchSampler,
        before_drawing: Callable[[int], object] = lambda index: None,
        before_sampling: Callable[[int], object] = lambda index: None,
    ) -> None:
        self._inner = inner
        self.numerics, self.numerics_id = inner.numerics, inner.numerics_id
        self._before_drawing, self._before_sampling = before_drawing, before_sampling
        self.drawn = [threading.Event() for _ in range(40)]
        self.sampled = [threading.Event() for _ in range(40)]

    def inputs(self, index: int) -> BatchInputs:
        self._before_drawing(index)
        found = self._inner.inputs(index)
        self.drawn[index].set()
        return found

    def sample(self, inputs: BatchInputs) -> GeneratedBatch:
        index = inputs.start // BATCH
        self._before_sampling(index)
        found = self._inner.sample(inputs)
        self.sampled[index].set()
        return found

    def num_drawn(self) -> int:
        return sum(event.is_set() for event in self.drawn)


def watch(worker: ShardWorker, **gates: Callable[[int], object]) -> Watched:
    worker._sampler = watched = Watched(worker._sampler, **gates)
    return watched


def passed(event: threading.Event) -> None:
    """Wait for an event that must come."""
    assert event.wait(LIMIT_S), "what should have happened meanwhile did not"


def drive(worker: ShardWorker, tasks: list[ShardTask]) -> list[CommitReport]:
    """All tasks handed over at once, each part in a thread of its own, in order, as under Ray."""
    with ThreadPoolExecutor(1) as ahead, ThreadPoolExecutor(1) as gpu, ThreadPoolExecutor(1) as io:
        commits: list[Future[CommitReport]] = []
        for number, task in enumerate(tasks):
            ahead.submit(worker.prepare, task, f"a{number}")
            gpu.submit(worker.compute, task, f"a{number}")
            commits.append(io.submit(worker.commit, task, f"a{number}"))
        return [commit.result(LIMIT_S) for commit in commits]


def shards(*bounds: int) -> list[ShardTask]:
    pairs = itertools.pairwise(bounds)
    return [ShardTask(low * BATCH, high * BATCH, (IMAGES,)) for low, high in pairs]


def test_noise_of_the_next_batch_is_drawn_while_one_is_computed(
    folder: Path, finished: RunDirectory
) -> None:
    """Also the noise of the next shard's first batch; the pixels are those without any gate."""
    run = new_run(folder)
    worker = new_worker(run)
    watched = watch(
        worker, before_sampling=lambda k: passed(watched.drawn[k + 1]) if k < 5 else None
    )
    drive(worker, shards(0, 2, 3, 6))
    assert hashes_of(run, 60) == hashes_of(finished, 60)


def test_a_shard_is_committed_while_the_next_is_computed(folder: Path) -> None:
    """The second shard's last batch waits until the first shard's receipt stands."""
    run = new_run(folder)
    worker = new_worker(run)
    stands = threading.Event()

    class Telling(LocalStorage):
        def commit(self, relative: str, content: bytes) -> bool:
            if relative.startswith("receipts/") and not stands.is_set():
                passed(watched.sampled[2])  # the next shard is being computed ...
                done = super().commit(relative, content)
                stands.set()  # ... and is not done yet
                return done
            return super().commit(relative, content)

    worker._run = RunDirectory(Telling(run.root), run.manifest)
    watched = watch(worker, before_sampling=lambda k: passed(stands) if k == 3 else None)
    assert [report.committed for report in drive(worker, shards(0, 2, 4))] == [(IMAGES,)] * 2


def test_little_waits_when_the_gpu_or_the_disk_stands_still(folder: Path) -> None:
    """Noise in memory, and images that are not written yet, are bounded whatever stands still."""
    worker = new_worker(new_run(folder))
    goes, stored = threading.Event(), threading.Event()
    watched = watch(worker, before_sampling=lambda k: passed(goes))
    inner = worker._encoders.map
    worker._encoders.map = lambda *args: (passed(stored), inner(*args))[1]  # type: ignore[method-assign]
    (task,) = shards(0, 20)
    threads = begin(worker, task, "a0")
    passed(watched.drawn[PREPARED_BATCHES + 1])  # one at the GPU, some ready, one in hand
    assert not watched.drawn[PREPARED_BATCHES + 2].wait(0.3)
    goes.set()
    with ThreadPoolExecutor(1) as io:
        commit = io.submit(worker.commit, task, "a0")
        passed(watched.sampled[BUFFERED_BATCHES + 1])  # one at the disk, some ready, one in hand
        assert not watched.sampled[BUFFERED_BATCHES + 2].wait(0.3)
        assert watched.num_drawn() <= BUFFERED_BATCHES + PREPARED_BATCHES + 4
        stored.set()
        assert commit.result(LIMIT_S).committed == (IMAGES,)
    ended(threads)
    assert worker._handovers == {}


def ended(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.join(LIMIT_S)
        assert not thread.is_alive()


@pytest.mark.parametrize(
    ("fault", "raised", "line"),
    [
        (DataError("labels end at sample 30"), DataError, "labels end at sample 30"),
        (ZeroDivisionError("a bug"), ZeroDivisionError, "a bug"),
    ],
)
@pytest.mark.parametrize("at", [0, 3, 9])
def test_a_fault_while_noise_is_drawn_reaches_commit(
    folder: Path, at: int, fault: Exception, raised: type[Exception], line: str
) -> None:
    """With its own type and line; nothing is left, and the worker goes on with the next shard."""
    run = new_run(folder)
    worker = new_worker(run)

    def broken(index: int) -> None:
        if index == at:
            raise fault

    plain = worker._sampler
    watch(worker, before_drawing=broken)
    with pytest.raises(raised, match=line):
        make_shard(worker, 0, 10 * BATCH, [IMAGES])
    assert files_below(run.root) == ["manifest.json"]
    worker._sampler = plain
    assert make_shard(worker, 0, 20, [IMAGES]).committed == (IMAGES,)


def test_a_disk_that_fails_ends_both_threads_and_lets_go_of_what_they_made(folder: Path) -> None:
    run = new_run(folder)
    worker = new_worker(run)
    (run.root / "images").write_text("a file where a folder is needed")
    with pytest.raises(Exception, match="a file stands where a directory is needed"):
        make_shard(worker, 0, 20 * BATCH, [IMAGES])
    for handover in worker._handovers.values():
        assert not handover.prepared._items
        assert not handover.produced._items


def test_a_stop_finishes_the_shard_in_hand_and_ends_the_threads(folder: Path) -> None:
    """The next shard, whose noise is drawn already, is not begun; its noise is let go of."""
    run = new_run(folder)
    worker = new_worker(run)

    def stop_when_the_next_is_ready(index: int) -> None:
        if index == 1:
            passed(watched.drawn[2])
            worker.stop()

    watched = watch(worker, before_sampling=stop_when_the_next_is_ready)
    first, second = shards(0, 2, 12)
    with ThreadPoolExecutor(1) as ahead, ThreadPoolExecutor(1) as gpu, ThreadPoolExecutor(1) as io:
        groups = (ahead, worker.prepare), (gpu, worker.compute), (io, worker.commit)
        parts = [[g.submit(part, t, f"a{t.start}") for g, part in groups] for t in (first, second)]
        assert parts[0][2].result(LIMIT_S) is not None
        with pytest.raises(NotStartedError, match=r"samples 20\.\.119 were not begun"):
            parts[1][2].result(LIMIT_S)
        for part in parts[1][:2]:
            part.result(LIMIT_S)  # both ended, and raised nothing
    assert watched.num_drawn() <= 2 + PREPARED_BATCHES + 1
    assert [(r.start, r.stop) for r in run.receipts(IMAGES)] == [(0, 20)]
    assert not any(h.prepared._items or h.produced._items for h in worker._handovers.values())


def test_an_attempt_that_is_withdrawn_ends_in_every_thread(folder: Path) -> None:
    """In the middle of its shard, and before its turn came; the next shard is made."""
    run = new_run(folder)
    worker = new_worker(run)
    first, second, third = shards(0, 20, 22, 24)

    def withdraw_both(index: int) -> None:
        if index == 1:
            worker.withdraw("a0")
            worker.withdraw("a1")

    watched = watch(worker, before_sampling=withdraw_both)
    with ThreadPoolExecutor(1) as ahead, ThreadPoolExecutor(1) as gpu, ThreadPoolExecutor(1) as io:
        groups = (ahead, worker.prepare), (gpu, worker.compute), (io, worker.commit)
        parts = [
            [group.submit(part, task, f"a{number}") for group, part in groups]
            for number, task in enumerate((first, second, third))
        ]
        for number, computed in enumerate((BATCH, 0)):
            with pytest.raises(NotWantedError) as raised:
                parts[number][2].result(LIMIT_S)
            assert raised.value.num_computed == computed
        for part in itertools.chain.from_iterable(p[:2] for p in parts):
            part.result(LIMIT_S)
        parts[2][2].result(LIMIT_S)
    assert watched.num_drawn() < 10
    assert [(r.start, r.stop) for r in run.receipts(IMAGES)] == [(220, 240)]
    assert len(files_below(run.root / "images")) == 1


def test_stored_pixels_are_read_ahead_as_noise_is_drawn(folder: Path) -> None:
    """Features of pixels that were kept: nothing is drawn or sampled again."""
    run = new_run(folder)
    worker = new_worker(run)
    make_shard(worker, 0, 6 * BATCH, [IMAGES])
    watched = watch(worker)
    stages = tuple(worker._extractors)
    assert make_shard(worker, 0, 6 * BATCH, stages).committed == stages
    assert watched.num_drawn() == 0


def test_a_withdrawn_stream_ends_both_sides() -> None:
    """By a third thread, while the consumer waits and while the producer does."""
    channel: Channel[int] = Channel(1)
    ends: list[BaseException] = []

    def consume() -> None:
        try:
            list(channel)
        except NotWantedError as error:
            ends.append(error)

    consumer = threading.Thread(target=consume)
    consumer.start()
    channel.num_images = 7
    channel.withdraw()
    consumer.join(10)
    assert not consumer.is_alive()
    assert [error.num_computed for error in ends] == [7]
    with pytest.raises(Closed):
        channel.put(1)


def test_a_withdrawn_attempt_leaves_nothing_and_the_worker_goes_on(folder: Path) -> None:
    """Withdrawn in mid-shard, and before it began: no receipt, no file; the next shard is made."""
    run = new_run(folder)
    worker = new_worker(run)
    watched = watch(worker, before_sampling=lambda k: worker.withdraw("a0") if k == 1 else None)
    worker.withdraw("a1")
    ahead, gpu, io = (ThreadPoolExecutor(1) for _ in range(3))
    commits = []
    for number, task in enumerate(shards(0, 3, 5, 6)):
        ahead.submit(worker.prepare, task, f"a{number}")
        gpu.submit(worker.compute, task, f"a{number}")
        commits.append(io.submit(worker.commit, task, f"a{number}"))
    for withdrawn in commits[:2]:
        with pytest.raises(NotWantedError):
            withdrawn.result(LIMIT_S)
    assert commits[2].result(LIMIT_S).committed == (IMAGES,)
    for pool in (ahead, gpu, io):
        pool.shutdown()
    assert not watched.sampled[3].is_set(), "a shard that was withdrawn before was computed"
    assert [(r.start, r.stop) for r in run.receipts(IMAGES)] == [(50, 60)]
    assert len(files_below(run.root / "images")) == 1
