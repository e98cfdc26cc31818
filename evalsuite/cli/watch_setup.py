"""From options to a watch: what can be refused before the first checkpoint is there."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evalsuite.artifacts.references import Reference
from evalsuite.artifacts.storage import Place
from evalsuite.cli.options import given
from evalsuite.cli.prepare import Prepared, confirm, prepare
from evalsuite.cli.resolve import plan_options_of
from evalsuite.config import RANDOM_WEIGHTS, ModelPreset, load_spec
from evalsuite.errors import UsageError
from evalsuite.models.foreign import is_foreign
from evalsuite.pipeline.plan import PlanOptions
from evalsuite.pipeline.reference_data import content_identity
from evalsuite.report.facts import TRAIN_STEP
from evalsuite.runtime.session import SessionRequest
from evalsuite.sweep.checkpoints import SETTLE_S, Lookout
from evalsuite.sweep.conducting import request_of
from evalsuite.sweep.directory import reference_to
from evalsuite.sweep.watch_directory import OF_WEIGHTS, WatchDirectory, WatchManifest

_OF_WATCH = frozenset(
    {"every", "poll", "settle", "once", "until", "runs", "output", "log", "json_path"}
)
"""Options that `run` does not have, or that mean something else there."""


@dataclass(frozen=True)
class WatchSetup:
    """A watch that can be carried out."""

    manifest: WatchManifest
    lookout: Lookout
    every: int
    reads: bool
    root: Place
    runs: Place
    prepared: Prepared
    options: PlanOptions
    asked: dict[str, Any]

    def open(self) -> WatchDirectory:
        """Its directory, made where it is not there.

        Raises:
            UsageError: another watch or other files lie there.
        """
        return WatchDirectory.create_or_open(self.root, self.manifest)

    def request_of(self, path: Path, step: int) -> SessionRequest:
        """What is asked of a checkpoint; the run notes it as `run --weights` would.

        Raises:
            DataError: the checkpoint cannot be read, or is of another model.
            UsageError: it does not hold the weights that `--ema` means.
        """
        weights = replace(self.options.weights, given=str(path), option="checkpoint")
        request = self.prepared.request
        tags = {**request.tags, TRAIN_STEP: str(step)}
        asked = {
            **self.asked,
            "weights": [[str(path)]],
            "tag": [[f"{key}={value}"] for key, value in tags.items()],
        }
        own = request_of(replace(self.options, weights=weights), request, self.runs)
        return replace(own, tags=tags, asked=asked, command="run")


def set_up(pattern: str, values: dict[str, Any]) -> WatchSetup:
    """Check all that does not need a checkpoint.

    Raises:
        UsageError: a pattern, an option or a model that cannot be.
        DataError: a reference or an extractor that is not here.
    """
    lookout = Lookout(pattern, SETTLE_S if values["settle"] is None else values["settle"])
    foreign = _is_foreign(values["model"])
    options = plan_options_of(values)
    stand_in = _first_match(lookout) if foreign else f"{RANDOM_WEIGHTS}0"
    ema = options.weights.ema if foreign else None
    weights = replace(options.weights, given=stand_in, ema=ema)
    asked = {**values, "output": None}
    prepared = prepare(
        asked, keep="grid", command="watch", options=replace(options, weights=weights)
    )
    if not prepared.scoring.measures:
        raise UsageError(f"nothing could be scored: {prepared.scoring.reason}")
    if not values["dry_run"]:
        confirm(prepared, values)
    runs = values["runs"] or Path("runs")
    manifest = _manifest_of(pattern, prepared, values["ema"])
    root = values["output"] or Path("watches") / manifest.name
    reference_to(runs, root)
    return WatchSetup(
        manifest=manifest,
        lookout=lookout,
        every=values["every"] or 1,
        reads=not foreign,
        root=root,
        runs=runs,
        prepared=prepared,
        options=options,
        asked=given({key: value for key, value in values.items() if key not in _OF_WATCH}),
    )


def _manifest_of(pattern: str, prepared: Prepared, ema: str | None) -> WatchManifest:
    resolved = prepared.request.resolved
    return WatchManifest(
        model=resolved.preset.name,
        pattern=str(Path(pattern).absolute()),
        num_samples=prepared.request.demand.num_samples,
        plan=resolved.plan.model_dump(mode="json", exclude=set(OF_WEIGHTS)),
        ema=ema or "auto",
        measures=tuple(
            {
                "protocol": one.protocol.name,
                "extractor": one.spec.extractor_id,
                "reference": one.reference.name if one.reference else None,
                "reference_sha256": _digests_of(one.reference) if one.reference else {},
                "metrics": list(one.metrics),
            }
            for one in prepared.scoring.measures
        ),
    )


def _digests_of(reference: Reference) -> dict[str, str]:
    """Of all that a reference holds: a name says neither which file it was nor what is in it."""
    found = {}
    for part, moments in (("pool", reference.pool), ("spatial", reference.spatial)):
        if moments is not None:
            found[part] = moments.sha256
    if reference.spec is not None and reference.spec.features is not None:
        found["features"] = reference.spec.features.sha256
    if reference.images is not None and reference.path is not None:
        found["images"] = content_identity(reference.path)
    return found


def _is_foreign(model: str) -> bool:
    return is_foreign(model) or is_foreign(load_spec(ModelPreset, model).family)


def _first_match(lookout: Lookout) -> str:
    """A checkpoint of a model that brings its own sampler, which random numbers cannot replace."""
    found = lookout.look()
    if not found:
        raise UsageError(
            f"{lookout.pattern} matches no file yet: a model that brings its own sampler is watched"
            " from its first checkpoint on"
        )
    return str(found[0].path)
