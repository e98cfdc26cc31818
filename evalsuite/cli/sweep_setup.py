"""From options and a specification to a sweep: what can be refused before a sample is made."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evalsuite.artifacts.storage import Place
from evalsuite.cli.options import given
from evalsuite.cli.output import notice
from evalsuite.cli.prepare import Prepared, forecast, prepare
from evalsuite.cli.resolve import plan_options_of
from evalsuite.cli.sweep import LISTS
from evalsuite.config import AxisValue, Plan, SweepSpec, check_rungs, load_spec
from evalsuite.errors import UsageError, nearest
from evalsuite.metrics.registry import METRICS
from evalsuite.pipeline.estimate import HOUR_S, MANY_IMAGES
from evalsuite.pipeline.measure import Measure, check, parse_metrics
from evalsuite.pipeline.plan import check_count, resolve_plan
from evalsuite.pipeline.ranges import whole_batches
from evalsuite.runtime.session import SessionRequest
from evalsuite.sampling.describe import nfe_of
from evalsuite.seeding import first_are_mixed, first_seed_of
from evalsuite.sweep.axes import axes_of, combinations, options_with
from evalsuite.sweep.conducting import Trial, check_budget, request_of, trials_of, with_count
from evalsuite.sweep.directory import (
    ConfigurationEntry,
    SweepDirectory,
    SweepManifest,
    is_sweep,
    reference_to,
)
from evalsuite.sweep.rungs import default_rungs
from evalsuite.sweep.scoring import Scale

MOST_REPLICATES = 428


@dataclass(frozen=True)
class SweepSetup:
    """A sweep that can be carried out."""

    manifest: SweepManifest
    trials: list[Trial]
    fresh: Callable[[Trial], SessionRequest] | None
    scale: Scale
    root: Place
    prepared: Prepared

    def open(self) -> SweepDirectory:
        """Its directory, made where it is not there.

        Raises:
            UsageError: another sweep or other files lie there.
        """
        return SweepDirectory.create_or_open(self.root, self.manifest)


def set_up(values: dict[str, Any]) -> SweepSetup:
    """Read the axes, resolve every configuration and check what can be checked.

    Raises:
        UsageError: axes, rungs, a budget, seeds or a metric that cannot be.
        DataError: weights or a reference that are not here.
    """
    spec = _spec_of(values)
    model = values["model"] or spec.model
    if model is None:
        raise UsageError("a sweep needs a --model, or a --spec that names one")
    axes = axes_of(_given_axes(values, spec), model)
    if not axes:
        raise UsageError("a sweep needs an axis, such as --guidance-scale 1.5:4.0:0.25")
    configurations = combinations(axes)
    plain = {**values, "model": model, "settings": (), **dict.fromkeys(LISTS)}
    base = plan_options_of(plain)
    first = options_with(base, configurations[0].setting)
    chosen = _rungs_given(values, spec)
    last = chosen[-1] if chosen else values["num_samples"]
    last = last or resolve_plan(first).preset.evaluation.num_samples
    metric = values["metric"] or spec.metric or "fid"
    if metric not in METRICS:
        raise UsageError(f"unknown --metric {metric!r}: {nearest(metric, METRICS)}")
    asked = {**plain, "output": None, "num_samples": last}
    prepared = prepare(asked, keep="grid", command="sweep", options=first)
    measure = _measure_of(prepared, metric, values["metrics"])
    scale = Scale(measure, metric)
    strategy = values["strategy"] or spec.strategy or "halving"
    fewest = scale.fewest if strategy == "halving" else None
    rungs = _rungs_of(chosen, last, fewest, prepared.request.resolved.plan)
    check(measure, rungs[-1], prepared.request.resolved.plan.size)
    check(measure._replace(metrics=scale.of_rung()), rungs[0])
    request = replace(prepared.request, asked=given(values))
    runs = values["runs"] or Path("runs")
    trials = trials_of(configurations, base, request, runs)
    for trial in trials:
        check_count(trial.request.resolved, rungs[-1], values["replicate"])
    check_budget(values["budget"], trials, rungs[0])
    for text in dict.fromkeys(text for one in trials for text in one.request.resolved.notices):
        notice(text)
    replicate = _fresh_replicate(values, trials, rungs[-1])
    manifest = SweepManifest(
        sweep_id="",
        model=prepared.request.resolved.preset.name,
        axes=axes,
        configurations=_entries(trials),
        rungs=rungs,
        strategy=strategy,
        metric=metric,
        better=values["better"] or spec.better or METRICS[metric].better,
        budget=values["budget"],
        first_seed=trials[0].request.resolved.plan.first_seed,
        fresh_first_seed=None if replicate is None else first_seed_of(replicate),
        protocol=scale.protocol(trials[0].request.resolved.plan, rungs[-1]),
        protocol_name=measure.protocol.name,
        reference=measure.reference.name if measure.reference else None,
        prefix=measure.spec.short,
    )
    if not chosen:
        manifest = _as_begun(manifest, values["output"])
    root = _root_of(manifest, values["output"])
    manifest = manifest.model_copy(
        update={"sweep_id": manifest.identity, "configurations": _entries(trials, root)}
    )

    def fresh(trial: Trial) -> SessionRequest:
        options = replace(trial.options, replicate=replicate, first_seed=None)
        return request_of(options, request, runs)

    return SweepSetup(manifest, trials, None if replicate is None else fresh, scale, root, prepared)


def confirm_sweep(setup: SweepSetup, values: dict[str, Any]) -> None:
    """Refuse, without --yes, hours of work on a machine without a GPU.

    Raises:
        UsageError: it may take more than an hour, or nobody knows.
    """
    import torch

    from evalsuite.cli.output import duration

    local = setup.prepared.request.address in {None, "local"}
    if not local or values["yes"] or torch.cuda.is_available():
        return
    seconds, images = seconds_at_most(setup), setup.manifest.rungs[0] * len(setup.trials)
    if seconds is None and images > MANY_IMAGES:
        raise UsageError(
            f"no speed of {setup.manifest.model} is known here: add --yes to make {images} images,"
            " or make a few first with `evalsuite run`"
        )
    if seconds is not None and seconds > HOUR_S:
        raise UsageError(
            f"this is up to {duration(seconds)} of work on a machine without GPU: add --yes to do"
            " it, or take fewer values or smaller --rungs"
        )


def seconds_at_most(setup: SweepSetup) -> float | None:
    """If nothing is dropped: as the first configuration takes, by network evaluations."""
    first, last = setup.trials[0], setup.manifest.rungs[-1]
    one = forecast(replace(setup.prepared, request=with_count(first.request, last))).cost.seconds
    if one is None:
        return None
    evaluations = [entry.nfe for entry in setup.manifest.configurations]
    return one * sum(evaluations) / max(1, evaluations[0])


def _spec_of(values: dict[str, Any]) -> SweepSpec:
    if values["spec"] is None:
        return SweepSpec(path=Path())
    return load_spec(SweepSpec, values["spec"])


def _given_axes(values: dict[str, Any], spec: SweepSpec) -> dict[str, str | Sequence[AxisValue]]:
    """Axes of the specification, and those of options, which take their place."""
    axes: dict[str, str | Sequence[AxisValue]] = dict(spec.axes)
    options = {name: values[name] for name in LISTS if values[name] is not None}
    for key, text in values["settings"]:
        if key in options:
            raise UsageError(f"--set {key}: the axis was given twice")
        options[key] = text
    return {**axes, **options}


def _rungs_given(values: dict[str, Any], spec: SweepSpec) -> tuple[int, ...] | None:
    """Those of an option or of the specification, ended by --num-samples."""
    rungs, last = values["rungs"] or spec.rungs, values["num_samples"]
    if rungs is None:
        return None
    if last is not None:
        if last < rungs[0]:
            raise UsageError(f"--num-samples {last} is smaller than the first rung, {rungs[0]}")
        rungs = (*(rung for rung in rungs if rung < last), last)
    return _checked(rungs)


def _rungs_of(
    chosen: tuple[int, ...] | None, last: int, fewest: int | None, plan: Plan
) -> tuple[int, ...]:
    """Those that were chosen, or the default ones on which all classes are as in the last."""
    if chosen is None:
        rungs = default_rungs(last, fewest)
        return _checked(tuple(one for one in rungs if one == last or first_are_mixed(plan, one)))
    partial = [f"{one:,}" for one in chosen[:-1] if not first_are_mixed(plan, one)]
    if partial:
        notice(
            f"with --labels {plan.labels.describe()} the first {', '.join(partial)} samples need"
            f" not have the classes of all {chosen[-1]:,}, so these rungs may drop the best one:"
            f" --labels modulo has them from {len(plan.label_classes):,} samples on"
        )
    return chosen


def _checked(rungs: tuple[int, ...]) -> tuple[int, ...]:
    try:
        return check_rungs(rungs)
    except ValueError as error:
        raise UsageError(f"--rungs: {error}") from error


def _root_of(manifest: SweepManifest, output: Place | None) -> Place:
    return output or Path("sweeps") / f"{manifest.model}-{manifest.identity[:8]}"


def _as_begun(manifest: SweepManifest, output: Place | None) -> SweepManifest:
    """A sweep whose rungs nobody chose, as it was begun: on its last rung alone, once the default.

    What was begun goes on as it is, because its tables are of its own rungs.
    """
    alone = manifest.model_copy(update={"rungs": manifest.rungs[-1:]})
    for one in (manifest, alone):
        root = _root_of(one, output)
        if is_sweep(root) and SweepDirectory.open(root).manifest.sweep_id == one.identity:
            break
    else:
        return manifest
    if one.rungs != manifest.rungs:
        wider = ",".join(map(str, manifest.rungs))
        notice(
            f"{root} was begun on one rung and goes on so; --rungs {wider}"
            f"{' with another --output' if output else ''} begins one that drops earlier, on the"
            " same runs"
        )
    return one


def _measure_of(prepared: Prepared, metric: str, asked: str | None) -> Measure:
    """The protocol that has the metric; its own where none has and nobody chose."""
    measures = prepared.scoring.measures
    if not measures:
        raise UsageError(
            f"a sweep needs numbers, but nothing can be scored: {prepared.scoring.reason}"
        )
    found = next((one for one in measures if metric in one.metrics), None)
    if found is not None:
        return found
    if asked is not None:
        raise UsageError(f"--metric {metric} is not among --metrics {asked}")
    one = measures[0]
    names = parse_metrics(",".join([*one.metrics, metric]), one.protocol)
    return one._replace(metrics=names)


def _fresh_replicate(values: dict[str, Any], trials: Sequence[Trial], last: int) -> int | None:
    """Replicate on which the winner is scored again; it shares no sample with the sweep."""
    asked = values["fresh_replicate"]
    if values["no_fresh"]:
        if asked is not None:
            raise UsageError("--fresh-replicate and --no-fresh exclude each other")
        return None
    if asked is None and values["first_seed"] is not None:
        raise UsageError("--first-seed needs a --fresh-replicate, or --no-fresh")
    own = values["replicate"] or 0
    replicate: int = asked if asked is not None else own + (1 if own < MOST_REPLICATES else -1)
    apart = abs(first_seed_of(replicate) - trials[0].request.resolved.plan.first_seed)
    sizes = [trial.request.resolved.plan.batch_size for trial in trials]
    if apart < max(whole_batches(last, size) for size in sizes):
        raise UsageError(
            f"--fresh-replicate {replicate} shares samples with the sweep, on which its winner was"
            " chosen: take another"
        )
    return replicate


def _entries(trials: Sequence[Trial], root: Place | None = None) -> tuple[ConfigurationEntry, ...]:
    return tuple(
        ConfigurationEntry(
            name=trial.name,
            setting=dict(trial.configuration.setting),
            plan_id=trial.request.resolved.plan.plan_id,
            run="" if root is None else reference_to(trial.request.root, root),
            nfe=nfe_of(trial.request.resolved.plan),
            batch_size=trial.request.resolved.plan.batch_size,
        )
        for trial in trials
    )


def samples_at_most(setup: SweepSetup) -> int:
    """If nothing is dropped, in whole batches."""
    last = setup.manifest.rungs[-1]
    sizes = [entry.batch_size for entry in setup.manifest.configurations]
    return sum(whole_batches(last, size) for size in sizes)
