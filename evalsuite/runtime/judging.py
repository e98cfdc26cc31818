"""Judging the images of a run or a folder: here at first, by Ray's workers if it is long.

Both ways run the same worker over the same kind of shards, which are committed one by one: what was
judged stays, whoever is killed.
"""

import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from evalsuite.artifacts.storage import Place
from evalsuite.errors import DataError, IncompleteError, UsageError
from evalsuite.pipeline.judged_images import JudgedImages
from evalsuite.pipeline.judgements import Judgements
from evalsuite.pipeline.judging import JudgeJob, JudgeWorker, Scorer, header_of, stage_of
from evalsuite.pipeline.numerics import numerics_id, resolve_device
from evalsuite.pipeline.outside import numerics_there, shard_size_of, tasks_of
from evalsuite.pipeline.ranges import Range, ShardTask, total
from evalsuite.pipeline.row_file import TESTED_BY, is_written, read_rows, test_of, write_rows
from evalsuite.pipeline.stage_names import verdicts_name
from evalsuite.runtime.cluster import Cluster, connected
from evalsuite.runtime.machine import room_for_workers
from evalsuite.runtime.patience import PATIENCE_S, Patience
from evalsuite.runtime.progress import Progress
from evalsuite.runtime.workforce import PieceWork, Workforce

if TYPE_CHECKING:
    from evalsuite.runtime.driver import DriverReport


@dataclass
class JudgingReport:
    """What one judging did."""

    images_kept: int = 0
    """That were judged before."""
    images_judged: int = 0
    workers: int = 1
    workers_lost: int = 0


@dataclass
class Judging:
    """Judges images as far as they have no rows.

    Attributes:
        workforce: how many workers, and where.
        listener: is told the progress of work that takes more than a few seconds.
        notice: is told in one line each what a person should know.
        report: of what was done.
    """

    workforce: Workforce
    listener: Callable[[Progress], None]
    notice: Callable[[str], None]
    report: JudgingReport = field(default_factory=JudgingReport)

    def __call__(
        self, images: JudgedImages, scorer: Scorer, *, tested: bool
    ) -> list[dict[str, Any]]:
        """The rows of all images, in their order.

        Args:
            images: of a run or a folder.
            scorer: that gives rows.
            tested: there is no picture to look at, or a record says that this very judge has named
                it: where nothing is left to judge, it need not be loaded.

        Raises:
            EvalsuiteError: images, weights or workers cannot be used, or a self-test fails; what
                was committed stays, and the same command goes on from there.
        """
        work = _Work(self, images, scorer)
        if work.gaps:
            self.notice(f"{total(work.gaps):,} of {images.num_images:,} images are to be judged")
            if self.workforce.address not in {None, "local"}:
                work.on_cluster()
            else:
                work.on_this_machine()
        elif not tested:
            self.test(scorer)
        return work.finished()

    def test(self, scorer: Scorer) -> None:
        """Put the judge to its known picture; whoever judges has done it already.

        Raises:
            EnvironmentProblem: it does not name what the picture shows.
        """
        scorer.load(resolve_device(self.workforce.device))


class _Work:
    """One judging."""

    def __init__(self, judging: Judging, images: JudgedImages, scorer: Scorer) -> None:
        self._asked, self._listener = judging.workforce, judging.listener
        self._notice, self._report = judging.notice, judging.report
        self._images, self._scorer = images, scorer
        self._stage = stage_of(scorer)
        self._judgements: Judgements = images.judgements(self._stage)
        self.gaps = self._judgements.gaps(images.num_images)
        self._report.images_kept = images.num_images - total(self.gaps)

    def on_this_machine(self) -> None:
        """In this process; what takes long, by workers of a private Ray."""
        device = resolve_device(self._asked.device)
        numerics = numerics_id(numerics_there(device.type))
        self._judgements.check_numerics(numerics)
        room = room_for_workers(device.type, self._asked.gpus_per_worker)
        portions = -(-total(self.gaps) // self._scorer.portion)
        team = min(self._asked.num_workers or room, portions)
        if team == 1 or self._asked.num_workers is None:
            self._here(numerics, device.type, PATIENCE_S if team > 1 else None)
            self.gaps = self._judgements.gaps(self._images.num_images)
        if self.gaps:
            self._notice(f"{total(self.gaps):,} images are left for {team} workers")
            workforce = replace(
                self._asked, num_workers=self._asked.num_workers or team, device=device.type
            )
            on_gpu = device.type == "cuda"
            with connected(None, workforce.num_workers, use_gpu=on_gpu) as cluster:
                self._by_workers(cluster, workforce, numerics)

    def on_cluster(self) -> None:
        """By workers of a cluster; its first free worker says what decides the bits."""
        asked = self._asked
        on_gpu = asked.device != "cpu"
        with connected(
            asked.address, asked.num_workers, use_gpu=on_gpu, notice=self._notice
        ) as cluster:
            from evalsuite.runtime.team import look_around, numerics_of_workers

            team = look_around(cluster, asked.num_workers, asked.device, asked.gpus_per_worker).team
            numerics = numerics_id(numerics_of_workers(team, self._notice))
            self._judgements.check_numerics(numerics)
            self._by_workers(cluster, asked, numerics)

    def finished(self) -> list[dict[str, Any]]:
        """All rows."""
        rows = self._judgements.rows(self._images.num_images)
        if len(rows) != self._images.num_images:
            raise IncompleteError(
                f"{self._images.num_images - len(rows)} images are not judged yet: run the same"
                " command again"
            )
        return rows

    def _job(self, device: str, numerics: str) -> JudgeJob:
        return JudgeJob(self._images, self._scorer, self._judgements, device, numerics)

    def _here(self, numerics: str, device: str, patience_s: float | None) -> None:
        """Shard by shard, until all are done or it would take too long."""
        worker = JudgeWorker(self._job(device, numerics))
        worker.load()
        attempt = secrets.token_hex(4)
        watch = Patience(total(self.gaps), patience_s, self._listener)
        watch.begin()
        done = 0
        for place, task in enumerate(self._tasks(device)):
            run_shard(worker, task, f"{attempt}-{place:05d}")
            done += task.stop - task.start
            self._report.images_judged = done
            if not watch(done):
                break
        del worker  # its networks must not fill the GPU of a worker that goes on
        if device == "cuda":
            torch.cuda.empty_cache()

    def _tasks(self, device: str) -> list[ShardTask]:
        """The first shard is one portion, which tells how long the others will take."""
        portion = self._scorer.portion
        size = shard_size_of(total(self.gaps), 1, portion, device)
        low, high = self.gaps[0]
        stop = min((low // portion + 1) * portion, high)
        rest: list[Range] = [(stop, high), *self.gaps[1:]]
        first = [ShardTask(low, stop, (self._stage,))]
        return first + tasks_of(
            [gap for gap in rest if gap[0] < gap[1]], size, portion, self._stage
        )

    def _by_workers(self, cluster: Cluster, asked: Workforce, numerics: str) -> None:
        from evalsuite.runtime.piecework import drive_pieces

        remedy = "give a run" if self._judgements.of_run else "set EVALSUITE_CACHE to a folder"
        place = self._judgements.place
        scorer = self._scorer
        work = PieceWork(self.gaps, scorer.portion, self._stage, place, remedy, scorer.portion_s)
        drive_pieces(
            cluster,
            work,
            asked,
            lambda _, kind: self._job(kind, numerics),
            self._listener,
            self._note,
        )

    def _note(self, report: "DriverReport") -> None:
        made = sum(one.task.stop - one.task.start for one in report.commits)
        self._report.images_judged += made
        self._report.workers = report.num_workers
        self._report.workers_lost = report.losses


def judge_into(
    judging: Judging, images: JudgedImages, scorer: Scorer, output: Place | None
) -> Place:
    """Judge what is not judged, write all rows into one file, and say where it lies.

    Args:
        judging: who judges.
        images: of a run or a folder.
        scorer: that gives rows.
        output: the file; of a run there is one in the run in any case.

    Raises:
        UsageError: `output` holds rows of another scoring, or a folder's rows have no place.
        DataError: all rows together show that the judge is broken; they are removed.
        EvalsuiteError: as `Judging` raises.
    """
    header, stage = header_of(scorer, images), stage_of(scorer)
    judgements, tested_by = images.judgements(stage), scorer.tested_by
    if output is None and not judgements.of_run:
        raise UsageError(f"{images.place} is no run: give --output, a file for what is found")
    written = output is not None and is_written(output, header)
    places = [output] if output is not None else []
    if judgements.of_run:
        places.append(judgements.place / verdicts_name(stage, images.num_images))
    passed = [test for test in map(test_of, places) if test is not None]
    tested = tested_by is None or tested_by in passed
    if output is not None and written and not judgements.of_run:
        if not tested:
            judging.test(scorer)
        rows = read_rows(output)[1]
    else:
        rows = judging(images, scorer, tested=tested)
        try:
            scorer.check(rows)
        except DataError:
            # kept, they would be refused again when the judge is mended
            judgements.discard(images.num_images, scorer.check)
            raise
    # a test that these very networks once passed stays said
    said = tested_by or next(iter(passed), None)
    for place in places:
        write_rows(place, {**header, TESTED_BY: said}, rows)
    judgements.forget()
    return places[0]


def run_shard(worker: JudgeWorker, task: ShardTask, attempt_id: str) -> None:
    """One shard in this process: a thread computes what this one commits.

    Raises:
        EvalsuiteError: what either met.
    """
    with ThreadPoolExecutor(1) as helper:
        computing = helper.submit(worker.compute, task, attempt_id)
        worker.commit(task, attempt_id)
        computing.result()
