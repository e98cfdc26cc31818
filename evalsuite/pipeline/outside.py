"""Features of samples that someone else made: extracted shard by shard, here or by workers.

The network runs in one thread over fixed batches aligned to the sample's index; another thread
hashes pixels and commits shards. Neither the number of workers nor the shards can change a bit.
Legend: N images, H height, W width, C channels.
"""

import contextlib
import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from evalsuite.artifacts.features import FeatureTable
from evalsuite.artifacts.images import Images, pixel_sha256
from evalsuite.artifacts.receipts import NO_END
from evalsuite.artifacts.samples import SampleSet
from evalsuite.config import ExtractorSpec
from evalsuite.errors import EnvironmentProblem
from evalsuite.features.aligned import AlignedExtractor, concatenate
from evalsuite.features.base import Extractor, FeatureBatch
from evalsuite.pipeline.channel import Channel, Closed
from evalsuite.pipeline.decoding import Decoders
from evalsuite.pipeline.embedding import check_size, opened_extractor
from evalsuite.pipeline.feature_cache import (
    STAGE,
    Extracted,
    FeatureCache,
    Rows,
    Shard,
)
from evalsuite.pipeline.measure import Measure
from evalsuite.pipeline.numerics import numerics_id, numerics_of, prepare_torch, resolve_device
from evalsuite.pipeline.piecework import BUFFERED_PIECES, PieceWorker
from evalsuite.pipeline.ranges import Range, ShardTask
from evalsuite.pipeline.source import Source
from evalsuite.pipeline.worker import load_extractor

CPU_BATCHES = 8
"""Batches of one shard on a CPU: some seconds of work, which is what a kill may cost ..."""
GPU_BATCHES = 64
"""... and on a GPU."""

Go = Callable[[int], bool]
"""Is told the images that are done, and says whether to go on."""


@dataclass(frozen=True)
class FeatureJob:
    """All that a worker of features needs to know; it travels to other machines."""

    source: Source
    stamp: str
    """Of the source as the driver sees it."""
    cache: FeatureCache
    spec: ExtractorSpec
    device: str
    numerics_id: str
    """That every worker must have, so that features of two kinds are never mixed."""
    decoders: int


class Piece(NamedTuple):
    """One batch of images and their features."""

    start: int
    images_NHWC: Images
    features: FeatureBatch

    @property
    def num_images(self) -> int:
        """That it is of."""
        return len(self.images_NHWC)


class FeatureWorker(PieceWorker[Piece]):
    """Extracts shards of one set of samples on one device; a plain class, without Ray."""

    def __init__(self, job: FeatureJob) -> None:
        super().__init__()
        self._job = job
        self._batch_size = job.spec.batch_size

    def load(self) -> dict[str, Any]:
        """Open the samples and load the extractor; gives `describe`.

        Raises:
            EnvironmentProblem: this machine sees other files, or computes other bits.
            DataError: samples or weights that cannot be used.
        """
        job = self._job
        self._device = resolve_device(job.device)
        self._numerics = numerics_there(job.device)
        check_same_numerics(self._numerics, job.numerics_id, "features")
        if not job.source.path.exists() or job.source.stamp() != job.stamp:
            raise EnvironmentProblem(
                f"{platform.node()} sees other files at {job.source.path} than the command does:"
                " give samples on a file system that every node mounts, and do not change them"
            )
        samples = job.source.open()
        self._extractor = load_extractor(job.spec, self._device)
        self._decoders = Decoders(samples, job.decoders)
        return self.describe()

    def describe(self) -> dict[str, Any]:
        """Who this worker is and what decides its bits."""
        return describe_here(self._device, self._numerics)

    def _pieces(self, task: ShardTask) -> Iterator[Piece]:
        return pieces(self._decoders, self._extractor, task.start, task.stop)

    def _keep(
        self,
        task: ShardTask,  # noqa: ARG002
        pieces: Iterable[Piece],
        attempt_id: str,
        began_s: float,
    ) -> bool:
        (shard,) = gathered(pieces, NO_END)
        seconds = time.monotonic() - began_s
        return self._job.cache.commit(shard, attempt_id, seconds, self.describe())


def check_same_numerics(numerics: dict[str, Any], wanted_id: str, what: str) -> None:
    """Raise EnvironmentProblem when this machine computes other bits than the one asked first."""
    if numerics_id(numerics) != wanted_id:
        raise EnvironmentProblem(
            f"{platform.node()} ({numerics['model']}, torch {numerics['torch']}) computes other"
            f" bits than the machine that was asked first: {what} of two kinds of machines are not"
            " mixed; use nodes of one kind"
        )


def numerics_there(device: str) -> dict[str, Any]:
    """What decides bits on this machine's device, with torch set up for it."""
    found = resolve_device(device)
    prepare_torch(found)
    return numerics_of(found)


class Witness:
    """`numerics_there` as an actor: of those Ray tells when they have their place."""

    def numerics(self, kind: str) -> dict[str, Any]:
        """Of `cuda` or `cpu`."""
        return numerics_there(kind)


def describe_here(device: torch.device, numerics: dict[str, Any]) -> dict[str, Any]:
    """Who computes: this process."""
    return {
        "host": platform.node(),
        "pid": os.getpid(),
        "device": str(device),
        "numerics": numerics,
        "numerics_id": numerics_id(numerics),
    }


def shard_size_of(num_missing: int, num_workers: int, batch_size: int, device: str) -> int:
    """Samples of one shard: four for each worker, whole batches, within bounds."""
    most = GPU_BATCHES if device == "cuda" else CPU_BATCHES
    batches = -(-num_missing // (4 * num_workers * batch_size))
    return max(1, min(most, batches)) * batch_size


def tasks_of(
    gaps: Iterable[Range], shard_size: int, batch_size: int, stage: str = STAGE
) -> list[ShardTask]:
    """Shards that fill `gaps`, cut at multiples of `shard_size` and never in two batches' middle.

    Args:
        gaps: disjoint ranges in order.
        shard_size: a multiple of `batch_size`.
        batch_size: of the extractor.
        stage: that they are of.
    """
    tasks = []
    for low, high in gaps:
        for start, stop in _heads_apart(low, high, batch_size):
            at = start
            while at < stop:
                end = min((at // shard_size + 1) * shard_size, stop)
                tasks.append(ShardTask(at, end, (stage,)))
                at = end
    return tasks


def pieces(decoders: Decoders, extractor: Extractor, start: int, stop: int) -> Iterator[Piece]:
    """Images start..stop-1 and their features, in the extractor's own batches."""
    size = extractor.batch_size
    for low, high in _heads_apart(start, stop, size):
        at = low
        with contextlib.closing(decoders.read(low, high, size)) as portions:
            for images in portions:
                yield Piece(at, images, _features_of(extractor, at, images))
                at += len(images)


def gathered(found: Iterable[Piece], shard_size: int) -> Iterator[Shard]:
    """Pieces as shards of consecutive images, cut where the index is a multiple of `shard_size`."""
    held: list[FeatureBatch] = []
    hashes: list[str] = []
    start = 0
    for piece in found:
        if held and piece.start != start + len(hashes):
            yield Shard(FeatureTable(start, *concatenate(held)), hashes)
            held, hashes = [], []
        start = start if held else piece.start
        held.append(piece.features)
        hashes += [pixel_sha256(image) for image in piece.images_NHWC]
        if (start + len(hashes)) % shard_size == 0:
            yield Shard(FeatureTable(start, *concatenate(held)), hashes)
            held, hashes = [], []
    if held:
        yield Shard(FeatureTable(start, *concatenate(held)), hashes)


def extract_here(
    decoders: Decoders,
    extractor: Extractor,
    gaps: Sequence[Range],
    shard_size: int,
    keep: Callable[[Shard], None],
    go_on: Go | None = None,
) -> None:
    """Extract `gaps` in this thread; another one hashes pixels and hands shards to `keep`.

    What is done when this ends early, or fails, is kept.

    Args:
        decoders: of the samples.
        extractor: with its weights.
        gaps: disjoint ranges.
        shard_size: images that are handed over at a time.
        keep: takes shards in order, in the other thread.
        go_on: is asked after each batch.

    Raises:
        EvalsuiteError: images that cannot be used, or what `keep` met.
    """
    channel: Channel[Piece] = Channel(BUFFERED_PIECES)
    with ThreadPoolExecutor(1) as helper:
        keeping = helper.submit(_keep_all, channel, shard_size, keep)
        try:
            _put_all(channel, decoders, extractor, gaps, go_on)
        except Closed:
            pass
        finally:
            with contextlib.suppress(Closed):
                channel.put(None)
    keeping.result()


def extract_uncached(
    samples: SampleSet, num_samples: int, measure: Measure, decoders: int = 1
) -> Extracted:
    """Features of the first samples, in this process, with nothing kept.

    Raises:
        CorruptionError: a file of the samples is damaged.
        DataError: images or weights that cannot be used.
    """
    check_size(samples, measure.spec)
    rows = Rows(num_samples)
    with (
        opened_extractor(measure.spec, measure.device, measure.backend) as extractor,
        Decoders(samples, decoders) as reading,
        reading.checked(0, num_samples),
    ):
        size = CPU_BATCHES * extractor.batch_size
        extract_here(reading, extractor, [(0, num_samples)], size, rows.take)
    return rows.result()


def _put_all(
    channel: Channel[Piece],
    decoders: Decoders,
    extractor: Extractor,
    gaps: Sequence[Range],
    go_on: Go | None,
) -> None:
    done = 0
    for low, high in gaps:
        with contextlib.closing(pieces(decoders, extractor, low, high)) as found:  # type: ignore[type-var]
            for piece in found:
                channel.put(piece)
                done += len(piece.images_NHWC)
                if go_on is not None and not go_on(done):
                    return


def _keep_all(channel: Channel[Piece], shard_size: int, keep: Callable[[Shard], None]) -> None:
    try:
        for shard in gathered(channel, shard_size):
            keep(shard)
    except BaseException:
        channel.abandon()
        raise


def _heads_apart(start: int, stop: int, batch_size: int) -> list[Range]:
    """start..stop-1, cut at the first boundary of a batch when it starts in a batch's middle."""
    boundary = min(-(-start // batch_size) * batch_size, stop)
    return [(low, high) for low, high in ((start, boundary), (boundary, stop)) if low < high]


def _features_of(extractor: Extractor, start: int, images_NHWC: Images) -> FeatureBatch:
    """Features of images of one batch of the extractor."""
    aligned = AlignedExtractor(extractor)
    return concatenate([*aligned.push(start, images_NHWC), *aligned.flush()])
