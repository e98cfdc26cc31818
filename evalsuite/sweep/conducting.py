"""Rung after rung: samples are made, configurations ranked, some dropped, the winner scored again.

Nothing is remembered but what receipts, records and the sweep directory hold, so a sweep goes on
wherever it was ended, and takes whatever samples other sweeps or `run` have made.
"""

import contextlib
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from evalsuite.artifacts.records import finite_or_none
from evalsuite.artifacts.run_directory import RunDirectory, is_run
from evalsuite.artifacts.storage import Place
from evalsuite.errors import CorruptionError, DataError, DivergedError, UsageError
from evalsuite.metrics.intervals import standard_error
from evalsuite.pipeline.coverage import missing_ranges
from evalsuite.pipeline.integrity import find_faults
from evalsuite.pipeline.plan import PlanOptions, resolve_plan
from evalsuite.pipeline.ranges import whole_batches
from evalsuite.runtime.session import SessionRequest
from evalsuite.sweep.axes import Configuration, options_with
from evalsuite.sweep.directory import SweepDirectory, reference_to
from evalsuite.sweep.judging import Judged, Verdict, judge
from evalsuite.sweep.scoring import Scale, Scored
from evalsuite.sweep.tables import Fresh, RungRow, RungTable, SweepResult

Make = Callable[[SessionRequest, str], RunDirectory]
"""Makes what a request lacks, for the configuration of this name; gives its run."""
DIVERGED = "NaN or infinite values"
"""The fault of a configuration, of its pixels or weights; its run's attempts say of which."""


@dataclass(frozen=True)
class Trial:
    """A configuration with what its samples are made by."""

    configuration: Configuration
    options: PlanOptions
    request: SessionRequest

    @property
    def name(self) -> str:
        """Of the configuration."""
        return self.configuration.name


class Work(NamedTuple):
    """What a sweep is carried out with.

    Attributes:
        directory: is written.
        trials: the configurations, in the manifest's order.
        fresh: request for the samples that a winner is scored on again, of its trial; None when
            it is not.
        scale: what they are measured with.
        make: makes samples.
        tell: is told each rung.
    """

    directory: SweepDirectory
    trials: Sequence[Trial]
    fresh: Callable[[Trial], SessionRequest] | None
    scale: Scale
    make: Make
    tell: Callable[[RungTable], None]


def trials_of(
    configurations: Sequence[Configuration],
    base: PlanOptions,
    request: SessionRequest,
    runs: Place,
) -> list[Trial]:
    """Every configuration with its plan and its run, which is named by the plan.

    Args:
        configurations: of the sweep.
        base: options that all share.
        request: what all ask besides.
        runs: the root of their runs.

    Raises:
        UsageError: a setting that the model does not have, or two configurations of one plan.
    """
    trials: list[Trial] = []
    names: dict[str, str] = {}
    for configuration in configurations:
        options = options_with(base, configuration.setting)
        own = request_of(options, request, runs)
        plan_id = own.resolved.plan.plan_id
        if plan_id in names:
            raise UsageError(
                f"{names[plan_id]!r} and {configuration.name!r} are the same plan: leave one out"
            )
        names[plan_id] = configuration.name
        trials.append(Trial(configuration, options, own))
    return trials


def request_of(options: PlanOptions, request: SessionRequest, runs: Place) -> SessionRequest:
    """A request for the plan of these options, in the run that is named by it."""
    resolved = resolve_plan(options)
    return replace(request, resolved=resolved, root=runs / resolved.run_name)


def conduct(work: Work) -> SweepResult:
    """Carry a sweep out, or on.

    Raises:
        DataError: a rung on which the metric is undefined for every configuration.
        EvalsuiteError: whatever ended the work; what was committed stays.
    """
    manifest = work.directory.manifest
    alive = list(work.trials)
    table, scored = _rung(work, alive, manifest.rungs[0])
    used = cost = _cost(alive, 0, manifest.rungs[0])
    for before, rung in itertools.pairwise(manifest.rungs):
        staying = {row.name for row in table.rows if row.goes_on}
        going_on = [trial for trial in alive if trial.name in staying]
        cost = _cost(going_on, before, rung)
        if manifest.budget is not None and used + cost > manifest.budget:
            break
        alive, used = going_on, used + cost
        table, scored = _rung(work, alive, rung)
    result = _result(work, table, scored, used)
    work.directory.write_result(result)
    return result


def check_budget(budget: int | None, trials: Sequence[Trial], first_rung: int) -> None:
    """Raise UsageError when the budget does not hold the first rung."""
    needed = _cost(trials, 0, first_rung)
    if budget is not None and budget < needed:
        raise UsageError(
            f"--budget {budget} is smaller than the first rung: {len(trials)} configurations of"
            f" {first_rung} samples are {needed} in whole batches: raise it, or give smaller"
            " --rungs"
        )


def is_complete(request: SessionRequest) -> bool:
    """Whether a run has all that is asked of it, in files that are as their receipts say."""
    if not is_run(request.root):
        return False
    run, demand = RunDirectory.open(request.root), request.demand
    if run.manifest.plan_id != request.resolved.plan.plan_id:
        return False
    start, stop = demand.asked(run.plan.batch_size)
    # first, because a receipt that cannot be read is a fault here and an error to who counts
    if find_faults(run, demand.stages, start, stop, hash_all=request.hash_all):
        return False
    return not missing_ranges(run, demand)


def with_count(request: SessionRequest, num_samples: int) -> SessionRequest:
    """The same request for another number of samples."""
    return replace(request, demand=request.demand._replace(num_samples=num_samples))


def _cost(trials: Sequence[Trial], before: int, rung: int) -> int:
    """Samples that a rung adds, in whole batches."""
    sizes = [trial.request.resolved.plan.batch_size for trial in trials]
    return sum(whole_batches(rung, size) - whole_batches(before, size) for size in sizes)


def _rung(work: Work, alive: Sequence[Trial], rung: int) -> tuple[RungTable, dict[str, Scored]]:
    scored: dict[str, Scored] = {}
    strata_N = None
    known = _known_to_diverge(work.directory, rung)
    for trial in alive:
        if trial.name in known and not trial.request.hash_all:
            continue
        try:
            run = work.make(with_count(trial.request, rung), trial.name)
        except DivergedError:
            continue  # its own fault, told by its row; every larger rung holds these samples too
        scored[trial.name] = work.scale.score(run, rung)
        strata_N = work.scale.strata(run, rung)
    manifest, may_exclude = work.directory.manifest, work.scale.may_exclude(rung)
    nothing = Judged(math.nan)
    verdicts = judge(
        {t.name: scored[t.name].judged if t.name in scored else nothing for t in alive},
        better=manifest.better,
        num_rungs=len(manifest.rungs),
        strata_N=strata_N,
        may_exclude=may_exclude,
    )
    may_drop = manifest.strategy == "halving" and may_exclude
    rows = tuple(
        _row(one, scored[one.name], may_drop=may_drop)
        if one.name in scored
        else _row_without(one.name, scored)
        for one in verdicts
    )
    table = RungTable(
        num_samples=rung,
        extrapolated=work.scale.extrapolates(rung),
        may_exclude=may_exclude,
        rows=rows,
    )
    work.directory.write_rung(table)
    work.tell(table)
    if not table.is_ranked:
        told = [row.fault for row in table.rows if row.fault]
        told += [note for one in scored.values() for note in one.record.notes]
        notes = "; ".join(dict.fromkeys(told))
        raise DataError(
            f"{manifest.metric} of {rung} samples is undefined for every configuration"
            f"{f' ({notes})' if notes else ''}: {table.remedy}"
        )
    return table, scored


def _known_to_diverge(directory: SweepDirectory, rung: int) -> set[str]:
    """Whom an earlier invocation found to have no samples on a rung.

    A plan fixes weights and pixels: whoever makes them again waits for the same end.
    """
    with contextlib.suppress(CorruptionError):  # such a table is written anew
        table = directory.rung(rung)
        return {row.name for row in table.rows if row.fault} if table else set()
    return set()


def _row(verdict: Verdict, scored: Scored, *, may_drop: bool) -> RungRow:
    record = scored.record
    return RungRow(
        name=verdict.name,
        value=record.value,
        standard_error=record.standard_error,
        ranked_by=finite_or_none(verdict.value),
        difference=finite_or_none(verdict.difference),
        difference_error=finite_or_none(verdict.standard_error),
        paired=verdict.paired,
        half_width=finite_or_none(verdict.half_width),
        excluded=verdict.excluded,
        goes_on=not (may_drop and (verdict.excluded or not math.isfinite(verdict.value))),
        others={one.metric: one.value for one in scored.records if one.metric != record.metric},
    )


def _row_without(name: str, scored: Mapping[str, Scored]) -> RungRow:
    """Of a configuration that has no samples: it is dropped by every strategy."""
    beside = next(iter(scored.values()), None)
    others = (one.metric for one in beside.records if one is not beside.record) if beside else ()
    return RungRow(
        name=name,
        value=None,
        standard_error=None,
        ranked_by=None,
        difference=None,
        difference_error=None,
        paired=False,
        half_width=None,
        excluded=False,
        goes_on=False,
        others=dict.fromkeys(others),
        fault=DIVERGED,
    )


def _result(work: Work, table: RungTable, scored: Mapping[str, Scored], used: int) -> SweepResult:
    manifest = work.directory.manifest
    winner = table.rows[0].name
    trial = next(one for one in work.trials if one.name == winner)
    entry, count = manifest.entry(winner), table.num_samples
    run = work.make(with_count(trial.request, count), winner)
    work.scale.score(run, count, whole=True)
    return SweepResult(
        winner=winner,
        plan_id=entry.plan_id,
        run=entry.run,
        num_samples=count,
        value=scored[winner].record.value,
        standard_error=scored[winner].record.standard_error,
        ranked_by=table.rows[0].ranked_by,
        level_with_winner=table.level,
        untold=table.untold,
        samples=used,
        samples_of_grid=_cost(work.trials, 0, manifest.rungs[-1]),
        stopped_by_budget=count < manifest.rungs[-1],
        fresh=_fresh(work, trial, scored[winner], count),
    )


def _fresh(work: Work, trial: Trial, swept: Scored, count: int) -> Fresh | None:
    """The winner once more, on seeds that did not choose it."""
    if work.fresh is None:
        return None
    request = with_count(work.fresh(trial), count)
    where = reference_to(request.root, work.directory.root)
    before = _known_fresh(work.directory, where, count)
    if before is not None and before.fault and not request.hash_all:
        return before
    try:
        run = work.make(request, f"{trial.name} on fresh seeds")
    except DivergedError:
        return Fresh(
            run=where,
            value=None,
            standard_error=None,
            ranked_by=None,
            lost=None,
            lost_error=None,
            fault=DIVERGED,
        )
    again = work.scale.score(run, count, whole=True)
    sign = 1.0 if work.directory.manifest.better == "lower" else -1.0
    lost = sign * (again.judged.value - swept.judged.value)
    errors = [_error_of(work, run, one, count) for one in (again, swept)]
    known = [error for error in errors if error is not None]
    return Fresh(
        run=where,
        value=again.record.value,
        standard_error=again.record.standard_error,
        ranked_by=finite_or_none(again.judged.value),
        lost=finite_or_none(lost),
        lost_error=math.hypot(*known) if len(known) == len(errors) else None,
    )


def _known_fresh(directory: SweepDirectory, run: str, count: int) -> Fresh | None:
    """What an earlier invocation found of so many fresh samples of a run."""
    with contextlib.suppress(CorruptionError):  # such a result is written anew
        result = directory.result()
        if result is not None and result.fresh is not None:
            return result.fresh if (result.fresh.run, result.num_samples) == (run, count) else None
    return None


def _error_of(work: Work, run: RunDirectory, scored: Scored, count: int) -> float | None:
    """Standard error of what a configuration is ranked by."""
    judged = scored.judged
    if judged.standard_error is not None or judged.influence_N is None:
        return judged.standard_error
    return standard_error(judged.influence_N, work.scale.strata(run, count))
