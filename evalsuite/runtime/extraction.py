"""Features of outside samples by all cores or GPUs: here at first, by Ray's workers if it is long.

Legend: N images.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from evalsuite.artifacts.samples import SampleSet
from evalsuite.config import ExtractorSpec
from evalsuite.errors import (
    CorruptionError,
    IncompleteError,
    StorageError,
)
from evalsuite.pipeline.decoding import Decoders
from evalsuite.pipeline.embedding import check_size, opened_extractor
from evalsuite.pipeline.feature_cache import (
    STAGE,
    Extracted,
    FeatureCache,
    Rows,
    ShardKeeper,
    trim,
)
from evalsuite.pipeline.measure import Measure
from evalsuite.pipeline.numerics import numerics_id, resolve_device
from evalsuite.pipeline.outside import (
    FeatureJob,
    describe_here,
    extract_here,
    extract_uncached,
    numerics_there,
    shard_size_of,
)
from evalsuite.pipeline.ranges import Range, total
from evalsuite.pipeline.source import Source, identity_of, stamp_of
from evalsuite.runtime.cluster import Cluster, connected
from evalsuite.runtime.machine import num_cores, room_for_workers
from evalsuite.runtime.patience import PATIENCE_S, Patience
from evalsuite.runtime.progress import Progress
from evalsuite.runtime.workforce import PieceWork, Workforce

if TYPE_CHECKING:
    from evalsuite.runtime.driver import DriverReport
    from evalsuite.runtime.watch import Node


@dataclass
class ExtractionReport:
    """What one extraction did."""

    extractor_id: str
    folder: str | None = None
    """Where the features are kept; None when they are not."""
    images_kept: int = 0
    """Whose features were there before."""
    images_extracted: int = 0
    workers: int = 1
    workers_lost: int = 0
    seconds: float = 0.0
    read_in_part: str | None = None
    """Why checksums of the samples' file say nothing of these images; None where they were
    compared, or there are none."""


@dataclass
class OutsideExtraction:
    """Gives `score_samples` the features of its samples, and keeps them in this machine's cache.

    Attributes:
        source: the samples that will be asked for.
        workforce: how many workers, and where.
        listener: is told the progress of work that takes more than a few seconds.
        notice: is told in one line each what a person should know.
        reports: what was done, one for each extractor.
    """

    source: Source
    workforce: Workforce
    listener: Callable[[Progress], None]
    notice: Callable[[str], None]
    reports: list[ExtractionReport] = field(default_factory=list)

    def __call__(
        self, samples: SampleSet, num_samples: int, measure: Measure, decoders: int = 1
    ) -> Extracted:
        """Features of the first `num_samples` images: from the cache, the rest extracted.

        Raises:
            EvalsuiteError: images, weights, workers or the cache cannot be used; what was committed
                stays, and the same command goes on from there.
        """
        report = ExtractionReport(measure.spec.extractor_id)
        self.reports.append(report)
        began = time.monotonic()
        check_size(samples, measure.spec)
        if measure.backend == "torch":
            work = _Work(self, samples, num_samples, measure, decoders, report)
            found = (
                work.on_cluster()
                if self.workforce.address not in {None, "local"}
                else work.on_this_machine()
            )
        else:
            found = extract_uncached(samples, num_samples, measure, decoders)
            report.images_extracted = num_samples
        report.seconds = round(time.monotonic() - began, 3)
        return found


class _Work:
    """One extraction."""

    def __init__(
        self,
        extraction: OutsideExtraction,
        samples: SampleSet,
        num_samples: int,
        measure: Measure,
        decoders: int,
        report: ExtractionReport,
    ) -> None:
        self._source, self._asked = extraction.source, extraction.workforce
        self._listener, self._notice = extraction.listener, extraction.notice
        self._samples, self._num_samples = samples, num_samples
        self._spec: ExtractorSpec = measure.spec
        self._measure, self._decoders, self._report = measure, decoders, report
        self._files = self._source.files()
        self._stamp = stamp_of(self._files)
        self._rows = Rows(num_samples)

    def on_this_machine(self) -> Extracted:
        """In this process; what takes long, by workers of a private Ray."""
        device = self._measure.device
        if self._asked.device == "cuda":
            resolve_device("cuda")
        numerics = numerics_there(device.type)
        cache = self._opened(numerics)
        gaps = self._rows.gaps()
        room = room_for_workers(device.type, self._asked.gpus_per_worker)
        team = min(self._asked.num_workers or room, -(-total(gaps) // self._spec.batch_size))
        if team > 1 and not self._samples.random_access:
            self._say_one_reader()
            team = 1
        by_reading = False
        if gaps and (team == 1 or self._asked.num_workers is None):
            patience_s = PATIENCE_S if team > 1 and cache is not None else None
            by_reading = self._here(cache, gaps, numerics, patience_s)
        gaps = self._rows.gaps()
        if gaps:
            self._notice(f"{total(gaps):,} images are left for {team} workers")
        with self._sums_checked(cache, by_reading=by_reading):
            if gaps and cache is not None:
                asked = self._asked.num_workers or team
                with connected(None, asked, use_gpu=device.type == "cuda") as cluster:
                    self._by_workers(cluster, cache, gaps, numerics_id(numerics), device.type)
        return self._finished(cache)

    def on_cluster(self) -> Extracted:
        """By workers of a cluster; its first free worker says which machine the cache is of."""
        asked = self._asked
        if not self._samples.random_access:
            self._say_one_reader()
            return self.on_this_machine()
        on_gpu = asked.device != "cpu"
        with connected(
            asked.address, asked.num_workers, use_gpu=on_gpu, notice=self._notice
        ) as cluster:
            from evalsuite.runtime.team import look_around, numerics_of_workers

            team = look_around(cluster, asked.num_workers, asked.device, asked.gpus_per_worker).team
            numerics = numerics_of_workers(team, self._notice)
            cache = self._opened(numerics, must_write=True)
            assert cache is not None
            gaps = self._rows.gaps()
            with self._sums_checked(cache, by_reading=False):
                if gaps:
                    self._by_workers(cluster, cache, gaps, numerics_id(numerics), asked.device)
            return self._finished(cache)

    def _say_one_reader(self) -> None:
        if self._asked.num_workers not in {None, 1} or self._asked.address:
            self._notice(
                f"{self._samples.where} is compressed and can be read by one process only:"
                " features are extracted in this one"
            )

    def _opened(self, numerics: dict[str, Any], *, must_write: bool = False) -> FeatureCache | None:
        """The cache, with what it holds taken into the rows; None where it cannot be written."""
        identity = identity_of(
            self._source, self._stamp, self._samples, self._spec, numerics_id(numerics)
        )
        cache = FeatureCache.of(identity)
        about = {**identity, "samples": str(self._source.path), "numerics": numerics}
        try:
            cache.describe(about)
        except StorageError as error:
            if must_write or (self._asked.num_workers or 1) > 1:
                raise StorageError(f"{error}; or set EVALSUITE_CACHE to a folder") from error
            self._notice(f"features are not kept: {error}")
            return None
        self._report.folder = str(cache.folder)
        cache.remove_leftovers()
        cache.fill(self._rows, 0, self._num_samples)
        self._report.images_kept = self._num_samples - total(self._rows.gaps())
        if self._report.images_kept:
            self._notice(
                f"features of {self._report.images_kept:,} of {self._num_samples:,} images are kept"
                f" from before in {cache.folder}"
            )
        return cache

    def _here(
        self,
        cache: FeatureCache | None,
        gaps: list[Range],
        numerics: dict[str, Any],
        patience_s: float | None,
    ) -> bool:
        """Extract in this process; tells whether all files were read from end to end."""
        device = self._measure.device
        size = shard_size_of(total(gaps), 1, self._spec.batch_size, device.type)
        keep = ShardKeeper(self._rows, cache, describe_here(device, numerics), self._notice)
        watch = Patience(total(gaps), patience_s, self._listener)
        with (
            opened_extractor(self._spec, device) as extractor,
            Decoders(self._samples, self._decoders) as reading,
        ):
            watch.begin()
            extract_here(reading, extractor, gaps, size, keep, watch)
        self._report.images_extracted += watch.done
        whole = gaps == [(0, self._samples.num_images)] and watch.done == self._samples.num_images
        in_one_go = self._decoders < 2 or not self._samples.encoded
        return whole and in_one_go

    def _by_workers(
        self, cluster: Cluster, cache: FeatureCache, gaps: list[Range], numerics: str, device: str
    ) -> None:
        from evalsuite.runtime.piecework import drive_pieces

        remedy = "set EVALSUITE_CACHE to a folder"
        work = PieceWork(gaps, self._spec.batch_size, STAGE, cache.folder, remedy)

        def job_on(nodes: Sequence["Node"], kind: str) -> FeatureJob:
            decoders = _decoders_of(cluster, nodes, kind)
            return FeatureJob(
                self._source, self._stamp, cache, self._spec, kind, numerics, decoders
            )

        asked = replace(self._asked, device=device)
        drive_pieces(cluster, work, asked, job_on, self._listener, self._note)
        for low, high in gaps:
            cache.fill(self._rows, low, high)

    def _note(self, report: "DriverReport") -> None:
        made = sum(one.task.stop - one.task.start for one in report.commits)
        self._report.images_extracted += made
        self._report.workers = report.num_workers
        self._report.workers_lost = report.losses

    @contextlib.contextmanager
    def _sums_checked(self, cache: FeatureCache | None, *, by_reading: bool) -> Iterator[None]:
        """Around the work of workers, who read parts: verify the files' own checksums meanwhile.

        Raises:
            CorruptionError: a file is damaged; the features that were made of it are removed.
        """
        if cache is not None and cache.checked:
            yield
            return
        in_part = self._num_samples < self._samples.num_images
        if in_part and self._samples.check_sums is not None:
            self._report.read_in_part = (
                f"only the first {self._num_samples:,} of {self._samples.num_images:,} images were"
                " read, so the file's checksum, which is of all of them, was not compared"
            )
        if cache is None or in_part:
            yield
            return
        if by_reading:
            cache.note_checked()
            yield
            return
        unwanted = threading.Event()
        with ThreadPoolExecutor(1) as helper:
            checking = helper.submit(self._source.check_sums, unwanted)
            try:
                yield
            except BaseException:
                unwanted.set()
                raise
            try:
                checking.result()
            except CorruptionError:
                cache.remove()
                raise
        cache.note_checked()

    def _finished(self, cache: FeatureCache | None) -> Extracted:
        gaps = self._rows.gaps()
        if gaps:
            raise IncompleteError(
                f"features of samples {gaps[0][0]}..{gaps[0][1] - 1} are still missing: run the"
                " same command again"
            )
        if stamp_of(self._files) != self._stamp:
            if cache is not None:
                cache.remove()
            raise CorruptionError(
                f"{self._samples.where} was changed while its features were extracted: let it be"
                " complete, and run the same command again"
            )
        if cache is not None and self._report.images_extracted:
            trim(cache.folder)
        return self._rows.result()


def _decoders_of(cluster: Cluster, nodes: Sequence["Node"], kind: str) -> int:
    """Processes that decode for one worker: the cores that its GPU's share leaves; none on CPUs.

    One where no GPU is there yet.
    """
    with_gpus = [node for node in nodes if node.gpus]
    if kind == "cpu" or not with_gpus:
        return 1
    is_private = cluster.address == "local"
    shares = [(num_cores() if is_private else node.cpus) / node.gpus for node in with_gpus]
    return max(1, int(min(shares)) - 1)
