"""What a run cost: workers' time, speed, bytes, by stage and by worker."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from evalsuite.artifacts.receipts import NO_END, ReceiptHead, cover
from evalsuite.artifacts.records import Record
from evalsuite.artifacts.run_directory import IMAGES, PIXELS, RunDirectory
from evalsuite.pipeline.stage_names import judged_stages
from evalsuite.report.timeline import worker_name


class StageCost(NamedTuple):
    """What one stage holds."""

    stage: str
    shards: int
    samples: int
    num_bytes: int


class WorkerCost(NamedTuple):
    """What one worker process gave."""

    worker: str
    shards: int
    images: int
    seconds: float


class Cost(NamedTuple):
    """What the images took; None where nothing was measured."""

    worker_seconds: float
    images_per_second: float | None
    seconds_per_evaluation: float | None
    wall_seconds: float
    scoring_seconds: float
    num_bytes: int
    stages: list[StageCost]
    workers: list[WorkerCost]


def run_cost(
    run: RunDirectory,
    receipts: Sequence[ReceiptHead],
    wall_s: float,
    records: Sequence[Record],
) -> Cost:
    """Time and space; rates are of the stage `images` and of one worker."""
    worker_s = sum(_compute_s(receipt) for receipt in receipts)
    images = sum(receipt.stop - receipt.start for receipt in receipts)
    evaluations = sum((receipt.stop - receipt.start) * receipt.nfe for receipt in receipts)
    stages = [_stage_cost(stage, run.committed(stage)) for stage in (IMAGES, PIXELS)]
    others = [*run.feature_stages(), *judged_stages(run)]
    stages += [_stage_cost(stage, run.committed(stage)) for stage in others]
    scorings = {(r.created_at, float(r.cost.get("evaluation_seconds") or 0)) for r in records}
    return Cost(
        worker_seconds=worker_s,
        images_per_second=images / worker_s if worker_s else None,
        seconds_per_evaluation=worker_s / evaluations if evaluations and worker_s else None,
        wall_seconds=wall_s,
        scoring_seconds=sum(seconds for _, seconds in scorings),
        num_bytes=sum(stage.num_bytes for stage in stages),
        stages=[stage for stage in stages if stage.shards],
        workers=_worker_costs(receipts),
    )


def _compute_s(receipt: ReceiptHead) -> float:
    return receipt.seconds.get("compute", 0.0)


def _stage_cost(stage: str, receipts: Sequence[ReceiptHead]) -> StageCost:
    return StageCost(
        stage=stage,
        shards=len(receipts),
        samples=sum(part.stop - part.start for part in cover(receipts, 0, NO_END)),
        num_bytes=sum(file.num_bytes for receipt in receipts for file in receipt.files),
    )


def _worker_costs(receipts: Iterable[ReceiptHead]) -> list[WorkerCost]:
    """What each worker process computed, the busiest first."""
    costs: dict[str, WorkerCost] = {}
    for receipt in receipts:
        name = worker_name(receipt.worker)
        so_far = costs.get(name, WorkerCost(name, 0, 0, 0.0))
        costs[name] = WorkerCost(
            name,
            so_far.shards + 1,
            so_far.images + receipt.stop - receipt.start,
            so_far.seconds + _compute_s(receipt),
        )
    return sorted(costs.values(), key=lambda cost: (-cost.seconds, cost.worker))
