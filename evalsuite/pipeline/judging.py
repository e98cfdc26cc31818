"""Judging images by a network: what a scorer is, and the worker that runs one over shards.

A scorer gives each image one JSON row, by which everything is summed up later without a network.
The same worker is used in this process and by Ray; portions are aligned to the image's index, so
that neither workers nor restarts change a row.
"""

import platform
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch

from evalsuite.artifacts.images import Images, pixel_sha256
from evalsuite.errors import DataError, EnvironmentProblem
from evalsuite.pipeline.judged_images import JudgedImages, Shown
from evalsuite.pipeline.judgements import Judgements, Row, RowShard
from evalsuite.pipeline.numerics import resolve_device
from evalsuite.pipeline.outside import check_same_numerics, describe_here, numerics_there
from evalsuite.pipeline.piecework import PieceWorker
from evalsuite.pipeline.ranges import ShardTask
from evalsuite.pipeline.stage_names import judged_stage


class Judge(Protocol):
    """A scorer's networks, loaded and tested."""

    def rows(self, shown: Sequence[Shown], images: Sequence[Images]) -> list[Row]:
        """What is to be kept of each image of one portion, uint8 [H,W,3].

        Raises:
            DataError: the network is broken.
        """
        ...


class Scorer(Protocol):
    """How to make a judge on any machine, and what names it; it travels to workers."""

    @property
    def kind(self) -> str:
        """First part of the stage: detections, answers or scores."""
        ...

    @property
    def name(self) -> str:
        """A short one, for people."""
        ...

    @property
    def portion(self) -> int:
        """Images that are judged together."""
        ...

    @property
    def portion_s(self) -> float:
        """Seconds after which the judge ends a portion by itself; 0 where it never does."""
        ...

    @property
    def pads(self) -> bool:
        """Whether a portion must be whole, so that its size cannot change a number."""
        ...

    @property
    def decides(self) -> Mapping[str, Any]:
        """All that decides rows but the images: prompts, options, networks."""
        ...

    @property
    def says(self) -> Mapping[str, Any]:
        """What stands before the rows besides, and decides none."""
        ...

    @property
    def tested_by(self) -> Mapping[str, Any] | None:
        """The picture that a judge must name before it judges; None where it is asked of none."""
        ...

    def check(self, rows: Sequence[Row]) -> None:
        """Raise DataError when all rows together show that the judge is broken."""
        ...

    def load(self, device: torch.device) -> Judge:
        """The judge, once it has passed its self-tests.

        Raises:
            DataError: other weights than the scorer names.
            EnvironmentProblem: a self-test fails.
        """
        ...


def stage_of(scorer: Scorer) -> str:
    """`detections/<scorer_id>`: the id is a name and a digest of all that decides rows."""
    return judged_stage(scorer.kind, scorer.name, scorer.decides)


def header_of(scorer: Scorer, images: JudgedImages) -> dict[str, Any]:
    """What stands before rows in a file of them."""
    return {
        "source": images.source,
        "num_images": images.num_images,
        **scorer.decides,
        **scorer.says,
    }


class Piece(NamedTuple):
    """Rows of one portion, and the SHA-256 of each image."""

    start: int
    rows: Sequence[Row]
    hashes: Sequence[str]

    @property
    def num_images(self) -> int:
        """One for each row."""
        return len(self.rows)


@dataclass(frozen=True)
class JudgeJob:
    """All that a worker needs to know; it travels to other machines."""

    images: JudgedImages
    scorer: Scorer
    judgements: Judgements
    device: str
    numerics_id: str
    """That every worker must have, so that rows of two kinds are never mixed."""


class JudgeWorker(PieceWorker[Piece]):
    """Judges shards of images on one device; a plain class, without Ray."""

    def __init__(self, job: JudgeJob) -> None:
        super().__init__()
        self._job = job
        self._batch_size = job.scorer.portion

    def load(self) -> dict[str, Any]:
        """Load and test the judge; gives `describe`.

        Raises:
            EnvironmentProblem: this machine computes other bits, does not see the images, or the
                judge fails its self-test here.
            DataError: other weights.
        """
        job, began_s = self._job, time.monotonic()
        self._device = resolve_device(job.device)
        self._numerics = numerics_there(job.device)
        check_same_numerics(self._numerics, job.numerics_id, "verdicts")
        place = job.images.place
        if isinstance(place, Path) and not place.exists():
            raise EnvironmentProblem(
                f"{platform.node()} does not see {place}: give images on a file system that every"
                " node mounts"
            )
        self._judge = job.scorer.load(self._device)
        loading_s = round(time.monotonic() - began_s, 3)
        return {**self.describe(), "loading_s": loading_s, "loads": 1}

    def describe(self) -> dict[str, Any]:
        """Who this worker is and what decides its bits."""
        return describe_here(self._device, self._numerics)

    def _pieces(self, task: ShardTask) -> Iterator[Piece]:
        images, portion = self._job.images, self._job.scorer.portion
        pixels, at = images.read(task.start, task.stop), task.start
        while at < task.stop:
            stop = min((at // portion + 1) * portion, task.stop)
            some = list(islice(pixels, stop - at))
            if len(some) != stop - at:
                raise DataError(f"{images.place}: image {at + len(some)} is not there")
            yield Piece(at, self._rows(at, some), [pixel_sha256(image) for image in some])
            at = stop

    def _rows(self, start: int, some: Sequence[Images]) -> Sequence[Row]:
        """Of images of one portion; where it must be whole, others stand in its gaps."""
        portion = self._job.scorer.portion
        slot, shown = start % portion, [self._job.images.shown(start + i) for i in range(len(some))]
        if not self._job.scorer.pads:
            return self._judge.rows(shown, some)
        before, after = slot, portion - slot - len(some)
        whole = [some[0]] * before + list(some) + [some[-1]] * after
        rows = self._judge.rows([shown[0]] * before + shown + [shown[-1]] * after, whole)
        return rows[slot : slot + len(some)]

    def _keep(
        self, task: ShardTask, pieces: Iterable[Piece], attempt_id: str, began_s: float
    ) -> bool:
        rows: list[Row] = []
        hashes: list[str] = []
        for piece in pieces:
            rows += piece.rows
            hashes += piece.hashes
        seconds = time.monotonic() - began_s
        shard = RowShard(task.start, rows, hashes)
        return self._job.judgements.commit(shard, attempt_id, seconds, self.describe())
