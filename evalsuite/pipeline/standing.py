"""Where a run stands: what is done and missing, who works on it, how fast, and what it cost."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from evalsuite.artifacts.live import (
    Cost,
    Counts,
    Life,
    LiveInvocation,
    LiveWorker,
    life_of,
    read_live,
    silence_of,
)
from evalsuite.artifacts.receipts import NO_END, ReceiptHead, cover
from evalsuite.artifacts.run_directory import (
    IMAGES,
    PIXELS,
    RunDirectory,
    feature_stage,
    gaps_of,
)
from evalsuite.pipeline.integrity import stages_of
from evalsuite.pipeline.ranges import Range
from evalsuite.pipeline.spending import Own, cost_of, owned, together

ENDED, UNKNOWN = "ended", "unknown"
"""States beside those of `Life`; of an unknown one neither an end nor a live file is there."""


@dataclass(frozen=True)
class StageStanding:
    """One stage."""

    stage: str
    samples: int
    shards: int
    asked: int
    """Samples asked for, in whole batches."""
    missing: tuple[Range, ...]


@dataclass(frozen=True)
class InvocationStanding:
    """One invocation of `run` or `generate`."""

    invocation_id: str
    command: str
    started_at: str
    state: str
    """ended, running, silent, killed, lost or unknown."""
    outcome: str
    """`complete`, or the line that ended it; `running` when it noted no end."""
    images: int
    """Committed by it."""
    last_commit_at: str
    silent_s: float | None
    """Since the last sign of life of one that noted no end."""
    host: str
    pid: int | None
    images_done: int
    images_total: int
    images_per_second: float | None
    seconds_left: float | None
    counts: Counts
    cost: Cost
    workers: tuple[LiveWorker, ...]
    """Of one that lives."""

    @property
    def lives(self) -> bool:
        """Whether it is at work, as far as one can see."""
        return self.state in {Life.RUNNING.value, Life.SILENT.value}


@dataclass(frozen=True)
class Standing:
    """A whole run."""

    run: str
    model: str
    plan_id: str
    asked: int
    batch_size: int
    stages: tuple[StageStanding, ...]
    invocations: tuple[InvocationStanding, ...]
    """In the order of their beginning."""
    counts: Counts
    cost: Cost
    compute_seconds: float
    """In which workers computed the images that are committed."""
    damaged: tuple[str, ...] = ()
    """What is wrong with receipts and attempts that are left out of all this, in a line each."""

    @property
    def live(self) -> list[InvocationStanding]:
        """Invocations that are at work."""
        return [one for one in self.invocations if one.lives]

    @property
    def complete(self) -> bool:
        """Whether nothing that was asked is missing."""
        return self.asked > 0 and not any(stage.missing for stage in self.stages)

    @property
    def images_per_second(self) -> float | None:
        """Of all that are at work."""
        rates = [one.images_per_second for one in self.live if one.images_per_second is not None]
        return sum(rates) if rates else None

    @property
    def seconds_left(self) -> float | None:
        """Until the last of those that are at work has made its share; None when nobody knows."""
        times = [one.seconds_left for one in self.live]
        known = [seconds for seconds in times if seconds is not None]
        return max(known) if known and len(known) == len(times) else None

    def as_json(self) -> dict[str, Any]:
        """As a JSON object."""
        content = asdict(self)
        invocations = zip(content["invocations"], self.invocations, strict=True)
        for shown, one in invocations:
            shown["counts"] = one.counts.model_dump(mode="json")
            shown["cost"] = one.cost.model_dump(mode="json")
            shown["workers"] = [worker.model_dump(mode="json") for worker in one.workers]
        return content | {
            "complete": self.complete,
            "images_per_second": self.images_per_second,
            "seconds_left": self.seconds_left,
            "counts": self.counts.model_dump(mode="json"),
            "cost": self.cost.model_dump(mode="json"),
        }


def standing_of(run: RunDirectory) -> Standing:
    """Look at a run's receipts, attempts and live files.

    Raises:
        UsageError: invocations there are, but none says how many samples it asked for.
    """
    readable, damaged = run.readable_attempts()
    attempts = {str(one.get("invocation_id")): one for one in readable}
    asked = run.num_asked(attempts.values()) if attempts else 0
    size = run.plan.batch_size
    stop = -(-asked // size) * size
    found: dict[str, list[ReceiptHead]] = {}
    for stage in _stages(run, attempts.values()):
        found[stage], unreadable = run.ledger.readable(stage)
        damaged += unreadable
    own, live = owned(found[IMAGES]), read_live(run.storage)
    names = attempts.keys() | live.keys()
    invocations = sorted(
        (_invocation(n, attempts.get(n, {}), live.get(n), own.get(n)) for n in names),
        key=lambda one: (one.started_at, one.invocation_id),
    )
    costs = [one.cost for one in invocations]
    costs += [cost_of(None, None, own[name]) for name in own.keys() - names]
    return Standing(
        run=str(run.root),
        model=run.manifest.model,
        plan_id=run.manifest.plan_id,
        asked=asked,
        batch_size=size,
        stages=tuple(_stage(stage, receipts, stop, found) for stage, receipts in found.items()),
        invocations=tuple(invocations),
        counts=_add([one.counts for one in invocations]),
        cost=together(costs),
        compute_seconds=sum(one.gpu_s + one.cpu_s for one in own.values()),
        damaged=tuple(damaged),
    )


def _stages(run: RunDirectory, attempts: Iterable[Mapping[str, Any]]) -> list[str]:
    """Stages that have receipts, and those that were asked for."""
    extractors = {
        str(name)
        for attempt in attempts
        for name in (attempt.get("resolved") or {}).get("extractors") or ()
    }
    asked = [IMAGES, *(feature_stage(name) for name in sorted(extractors))]
    present = stages_of(run)
    return list(dict.fromkeys([IMAGES, *present, *asked]))


def _stage(
    stage: str,
    receipts: Sequence[ReceiptHead],
    stop: int,
    found: Mapping[str, Sequence[ReceiptHead]],
) -> StageStanding:
    spans = [(part.start, part.stop) for part in cover(receipts, 0, NO_END)]
    held = list(spans)
    if stage == PIXELS:  # what the images' own shards kept is not in it
        held += [(r.start, r.stop) for r in found[IMAGES] if r.kept == "all"]
    return StageStanding(
        stage=stage,
        samples=sum(high - low for low, high in spans),
        shards=len(receipts),
        asked=stop,
        missing=tuple(gaps_of(held, 0, stop)),
    )


def _invocation(
    name: str, attempt: Mapping[str, Any], live: LiveInvocation | None, own: Own | None
) -> InvocationStanding:
    outcome = str(attempt.get("outcome", "running"))
    ended = outcome != "running"
    live = None if ended else live
    life = life_of(live) if live is not None else None
    lives = life in {Life.RUNNING, Life.SILENT}
    state = ENDED if ended else UNKNOWN if life is None else life.value
    done, total = (live.images_done, live.images_total) if live else (0, 0)
    rate = live.images_per_second if live and lives else None
    return InvocationStanding(
        invocation_id=name,
        command=str(attempt.get("command", live.command if live else "run")),
        started_at=str(attempt.get("started_at", "")),
        state=state,
        outcome=outcome,
        images=own.images if own else 0,
        last_commit_at=own.last_at if own else "",
        silent_s=None if live is None else round(silence_of(live), 1),
        host=live.host if live else ", ".join(attempt.get("hosts") or ()),
        pid=live.pid if live else None,
        images_done=done,
        images_total=total,
        images_per_second=rate,
        seconds_left=(total - done) / rate if rate and lives else None,
        counts=_counts_of(attempt, live),
        cost=cost_of(attempt, live, own),
        workers=live.workers if live and lives else (),
    )


def _counts_of(attempt: Mapping[str, Any], live: LiveInvocation | None) -> Counts:
    """As noted at the end, or by the live file; of older attempts the lost workers are known."""
    noted = attempt.get("counts")
    if isinstance(noted, dict):
        return Counts(**{name: noted.get(name, 0) for name in Counts.model_fields})
    if live is not None:
        return live.counts
    return Counts(workers_lost=int(attempt.get("workers_lost", 0)))


def _add(counts: Sequence[Counts]) -> Counts:
    totals = {name: sum(getattr(one, name) for one in counts) for name in Counts.model_fields}
    return Counts(**totals)
