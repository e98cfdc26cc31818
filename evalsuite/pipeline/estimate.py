"""What a run will cost: network evaluations, disk and time, from the nearest known rate."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from evalsuite.artifacts.receipts import Receipt, read_receipt
from evalsuite.artifacts.run_directory import IMAGES, RunDirectory
from evalsuite.artifacts.storage import Place
from evalsuite.config import ExtractorSpec, ModelPreset, Plan, parse_json
from evalsuite.errors import EvalsuiteError
from evalsuite.pipeline.spending import invocation_of
from evalsuite.pipeline.stages import OutputFormat

HOUR_S, MANY_IMAGES = 3600.0, 1000
_PNG_RATIO = 0.75  # of raw pixels; a generous guess for natural images
_ROW_BYTES = 220
_RECEIPTS_READ = 8  # of a run, for its rate


@dataclass(frozen=True)
class Rate:
    """Seconds for one evaluation of one image, and where that is known from."""

    seconds_per_evaluation: float
    source: str
    share: float = 1.0
    """Of a device, that each worker held when it was measured."""

    def at_once(self, num_workers: int, share: float) -> float:
        """Images in work at this rate at any moment, of what a device can do rather too few.

        Args:
            num_workers: that run.
            share: of a device that each of them asks for; fewer than fit one have more of it.
        """
        return max(1.0, num_workers * min(1.0, max(share, 1 / num_workers) / self.share))


class _Measured(NamedTuple):
    """Seconds for one evaluation of one image, by a worker with such a share of a device."""

    seconds: float
    share: float


@dataclass(frozen=True)
class Estimate:
    """Cost of the samples that are still to be made."""

    num_images: int
    nfe: int | None
    disk_bytes: int
    seconds: float | None
    """On all workers together; None when no rate is known."""
    source: str


def estimate(
    plan: Plan,
    num_images: int,
    nfe: int | None,
    at_once: float,
    extractors: tuple[ExtractorSpec, ...],
    output: OutputFormat,
    rate: Rate | None,
) -> Estimate:
    """Time and disk for `num_images` images, of which `at_once` are in work at the rate."""
    height, width = plan.size
    kept = num_images if output.keep == "all" else 0
    pixels = 3 * height * width * (1.0 if output.shard_format == "npz" else _PNG_RATIO)
    features = sum(
        4 * (s.pool_dim + (s.spatial_dim or 0) + (s.num_classes or 0)) for s in extractors
    )
    disk = int(kept * pixels + num_images * (_ROW_BYTES + features))
    work = num_images * (nfe or 1) / at_once
    seconds = work * rate.seconds_per_evaluation if rate else None
    return Estimate(num_images, nfe, disk, seconds, rate.source if rate else "no known rate")


def nearest_rate(run_root: Place, plan: Plan, preset: ModelPreset, device: str) -> Rate | None:
    """From this run's receipts, else those of a like run beside it, else from the preset.

    A preset's rate is of its own size and dtype: of another size it is taken by pixels, which is
    too little where attention counts; of another dtype nothing is known.
    """
    for root in [run_root, *_neighbours(run_root)]:
        try:
            run = RunDirectory.open(root)
            if _kind_of_work(run.plan) != _kind_of_work(plan):
                continue
            names = run.storage.names(f"receipts/{IMAGES}", ".json")[-_RECEIPTS_READ:]
            receipts = [read_receipt(run.storage, f"receipts/{IMAGES}/{name}") for name in names]
            rate = _rate_of(run, receipts, device)
        except EvalsuiteError:
            continue
        if rate is not None:
            return Rate(rate.seconds, f"receipts of {root}", rate.share)
    known = [r for r in preset.known_rates if r.device == device]
    if not known or _dtype(plan.sampling) != _dtype(preset.sampling):
        return None
    times = math.prod(plan.size) / math.prod(preset.size)
    scaled = "" if times == 1 else f", times {times:.3g} for the pixels of this size"
    return Rate(times * known[0].seconds_per_evaluation, f"{known[0].source}{scaled}")


def _kind_of_work(plan: Plan) -> tuple[object, ...]:
    return plan.network, plan.size, _dtype(plan.sampling)


def _dtype(sampling: object) -> object:
    """None of a model with a sampler of its own."""
    return getattr(sampling, "dtype", None)


def is_long(seconds: float | None, num_images: float) -> bool:
    """Whether work is not begun unasked without a GPU: over an hour, or many at unknown speed."""
    return num_images > MANY_IMAGES if seconds is None else seconds > HOUR_S


def seconds_per_image(rate: Rate | None, nfe: int | None) -> float | None:
    """Of one worker; None when nobody knows."""
    return rate.seconds_per_evaluation * nfe if rate is not None and nfe else None


def _neighbours(run_root: Place) -> list[Path]:
    if not isinstance(run_root, Path):
        return []
    parent = run_root.absolute().parent
    if not parent.is_dir():
        return []
    return sorted(
        p.parent for p in parent.glob("*/manifest.json") if p.parent != run_root.absolute()
    )


def _rate_of(run: RunDirectory, receipts: list[Receipt], device: str) -> _Measured | None:
    """Median over shards of compute seconds per image and evaluation on that kind of device."""
    own = [r for r in receipts if r.seconds.get("compute") and r.numerics.get("device") == device]
    makers = {invocation_of(r.attempt_id) for r in own}
    shares = {name: _share_in(run, name) if device == "cuda" else 1.0 for name in makers}
    rates = sorted(
        _Measured(
            r.seconds["compute"] / ((r.stop - r.start) * (r.nfe or 1)),
            shares[invocation_of(r.attempt_id)],
        )
        for r in own
    )
    return rates[len(rates) // 2] if rates else None


def _share_in(run: RunDirectory, invocation_id: str) -> float:
    """Of a GPU, that each worker of an invocation had; where it does not say, a whole one.

    Fewer workers than fit a GPU had more of it than they asked for. An invocation that was killed
    has noted no workers, only what it asked for; without a number these were all that fit. No share
    forecasts a longer time than a whole one.
    """
    content = run.storage.find(f"attempts/{invocation_id}.json")
    try:
        about = parse_json(content or b"")
        resolved = about["resolved"]
        share = float(resolved["gpus_per_worker"])
        workers = int(about["workers"]) or resolved.get("num_workers")
        least = 0.0 if workers is None else 1 / int(workers)
    except (ArithmeticError, ValueError, KeyError, TypeError, AttributeError):
        return 1.0
    return max(share, least) if 0 < share <= 1 and 0 <= least <= 1 else 1.0
