"""One attempt at one shard: its files, written batch by batch, and the receipts that commit it."""

import contextlib
import itertools
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from evalsuite.artifacts.images import Spread, pixel_sha256
from evalsuite.artifacts.near import NearReceipts
from evalsuite.artifacts.receipts import (
    Receipt,
    ReceiptFile,
    commit_receipt,
    digest_of_pixels,
    may_stand,
    read_receipt,
)
from evalsuite.artifacts.run_directory import IMAGES, RunDirectory
from evalsuite.errors import EvalsuiteError, ReproducibilityError, StorageError
from evalsuite.pipeline.ranges import ShardTask
from evalsuite.pipeline.repair import REPLACED, set_aside
from evalsuite.pipeline.stages import STAGE_VERSION, OutputFormat, Produced, Sink, open_sink


class Cost(NamedTuple):
    """Network evaluations per image, 0 when it was read, and seconds of computing the shard."""

    nfe: int = 0
    compute_s: float = 0.0
    joules: float | None = None
    """Energy of the GPU meanwhile; None where it was not measured."""


class Committed(NamedTuple):
    """Stages that an attempt committed, and stages that another attempt had done."""

    stages: tuple[str, ...]
    discarded: tuple[str, ...]


class Attempt:
    """Writes the files of one attempt; nothing of it exists for others before `commit`."""

    def __init__(
        self,
        run: RunDirectory,
        task: ShardTask,
        attempt_id: str,
        output: OutputFormat,
        spread: Spread,
        near: NearReceipts,
    ) -> None:
        """Prepare to write; see `OutputFormat` and `Spread` for how images are stored."""
        self._near = near
        self._run, self.task, self._attempt_id = run, task, attempt_id
        self._output, self._spread = output, spread
        self._began = time.monotonic()
        self._sinks: dict[str, Sink] = {}
        self._hashes: list[str] = []

    def write(self, batches: Iterable[Produced]) -> None:
        """Hash and write what every batch gave.

        Raises:
            StorageError: it cannot be written; call `abandon`.
        """
        for stage in self.task.stages:
            self._sinks[stage] = open_sink(
                stage,
                self._run.storage,
                self.task,
                self._attempt_id,
                self._run.plan,
                self._output,
                self._spread,
            )
        for produced in batches:
            images = produced.rows.images_NHWC if produced.rows is not None else ()
            hashes = [pixel_sha256(image) for image in images]
            self._hashes += hashes
            for sink in self._sinks.values():
                sink.write(produced, hashes)

    def commit(self, about: Mapping[str, Any], cost: Cost, *, allow_mixed: bool) -> Committed:
        """Commit what was written, stage by stage.

        A stage that is done, or whose receipt may stand, is not abandoned any more.

        Args:
            about: the worker, with its `numerics` and `numerics_id`.
            cost: of the computation.
            allow_mixed: whether the run may hold samples of other numerics.

        Raises:
            ReproducibilityError: the pixels are not those that were committed before.
            StorageError: files are gone, or the receipt cannot be written.
        """
        made = self.task.start + len(self._hashes)
        self.task = self.task._replace(stop=made)  # a worker that is stopped ends a shard early
        self._check_known(about["numerics_id"])
        files = {stage: sink.finish() for stage, sink in self._sinks.items()}
        if not allow_mixed:
            self._run.claim_numerics(about["numerics"], about["numerics_id"])
        self._check_still_there(files)
        committed: list[str] = []
        discarded: list[str] = []
        for stage in list(self._sinks):
            receipt = self._receipt(stage, files[stage], about, cost)
            done = self._commit_stage(stage, receipt)
            (committed if done else discarded).append(stage)
            del self._sinks[stage]
            if stage == IMAGES and not done and not self._are_the_pixels_of(receipt):
                break  # of other numerics: nothing that was made of these pixels may be kept
        self.abandon()
        return Committed(tuple(committed), tuple(discarded))

    def _commit_stage(self, stage: str, receipt: Receipt) -> bool:
        try:
            return commit_receipt(self._run.storage, receipt)
        except BaseException as error:
            if may_stand(self._run.storage, receipt, error):
                del self._sinks[stage]
            raise

    def _are_the_pixels_of(self, receipt: Receipt) -> bool:
        """Whether the receipt that stands in place of ours is of the same pixels."""
        winner = read_receipt(self._run.storage, receipt.name)
        return winner.pixels_digest == receipt.pixels_digest

    def abandon(self) -> None:
        """Remove the files of stages that are not committed, as far as the storage lets us."""
        for sink in self._sinks.values():
            with contextlib.suppress(EvalsuiteError):  # `gc` removes what stays
                sink.abandon()

    def _receipt(
        self, stage: str, files: tuple[ReceiptFile, ...], about: Mapping[str, Any], cost: Cost
    ) -> Receipt:
        total_s = time.monotonic() - self._began
        return Receipt(
            plan_id=self._run.manifest.plan_id,
            stage=stage,
            stage_version=STAGE_VERSION,
            start=self.task.start,
            stop=self.task.stop,
            attempt_id=self._attempt_id,
            files=files,
            kept=self._sinks[stage].kept,
            pixel_sha256=tuple(self._hashes) if stage == IMAGES else (),
            pixels_digest=digest_of_pixels(self._hashes),
            nfe=cost.nfe,
            seconds={"compute": round(cost.compute_s, 4), "total": round(total_s, 4)},
            energy_joules=cost.joules,
            numerics_id=about["numerics_id"],
            numerics=about["numerics"],
            worker={key: about[key] for key in ("host", "pid", "device")},
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    def _check_known(self, numerics_id: str) -> None:
        """Pixels that were committed before must have come out the same."""
        task = self.task
        aside = set_aside(self._run, IMAGES, numerics_id, task.start, task.stop)
        self._check_equal(aside, f"remove {self._run.root}/{REPLACED}, if those were wrong")
        if IMAGES not in task.stages:
            near = self._near.receipts(IMAGES, task.start, task.stop)
            self._check_equal(near, "make the rest where these images were made")

    def _check_equal(self, known: Iterable[Receipt], remedy: str) -> None:
        for receipt in known:
            index = self._first_difference(receipt)
            if index is not None:
                where = f"{receipt.worker.get('host')} ({receipt.numerics.get('model')})"
                raise ReproducibilityError(
                    f"sample {index} came out with other pixels than attempt {receipt.attempt_id}"
                    f" committed on {where}; nothing was written: {remedy}, and run the same"
                    " command again"
                )

    def _first_difference(self, receipt: Receipt) -> int | None:
        """The first sample of both whose pixels are not the same; None without one."""
        start, ours = self.task.start, self._hashes
        low, high = max(receipt.start, start), min(receipt.stop, self.task.stop)
        theirs = receipt.pixel_sha256
        differing = (i for i in range(low, high) if theirs[i - receipt.start] != ours[i - start])
        return next(differing, None)

    def _check_still_there(self, files: Mapping[str, Sequence[ReceiptFile]]) -> None:
        """A receipt must not name files that someone removed meanwhile."""
        for file in itertools.chain.from_iterable(files.values()):
            if self._run.storage.size(file.path) != file.num_bytes:
                raise StorageError(
                    f"{self._run.root}/{file.path} was removed or cut before it was committed"
                    " (by `gc --force`?): run the same command again"
                )
