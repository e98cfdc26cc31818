"""From options to measures: extractor, protocols, references, metrics."""

from typing import TYPE_CHECKING, Any, NamedTuple

from evalsuite.errors import DataError, UsageError

if TYPE_CHECKING:
    from evalsuite.artifacts.references import Reference
    from evalsuite.config import EvaluationDefaults, ModelPreset, Plan, ProtocolSpec
    from evalsuite.pipeline.measure import Backend, Measure

UNSCORED_IMAGES = 1000
"""More than so many are not made unasked when they can neither be scored nor are kept."""
_ASKED = ("reference", "extractor", "metrics", "protocol")


class Scoring(NamedTuple):
    """What a run will measure, or why it measures nothing."""

    measures: "tuple[Measure, ...]"
    reason: str = ""


NOT_ASKED = Scoring((), "")


def scoring_of(
    values: dict[str, Any], preset: "ModelPreset", plan: "Plan", num_samples: int
) -> Scoring:
    """What `run` will measure, everything about it checked that needs no image.

    A preset's own evaluation that cannot be had here (no weights of the extractor, no reference) is
    a reason for a few images, and an error for many that would not be kept.

    Raises:
        UsageError: scoring was asked and cannot be.
        DataError: likewise, or images would be made in vain.
    """
    from evalsuite.pipeline.measure import check
    from evalsuite.pipeline.worker import check_extractor_weights

    asked = [name for name in _ASKED if values[name] is not None]
    if plan.has_random_weights:
        if asked:
            raise UsageError(f"--{asked[0]}: images of random weights are not scored")
        return Scoring((), "the weights are random numbers")
    defaults = preset.evaluation
    if not asked and defaults.protocol is None and None in {defaults.reference, defaults.extractor}:
        return Scoring((), f"{preset.name} names no protocol; give --reference and --extractor")
    # the driver may have no GPU though its workers do
    here = {**values, "device": "cpu" if values["device"] == "cpu" else "auto"}
    try:
        measures = measures_of(here, plan.size, defaults)
        for measure in measures:
            check(measure, num_samples, plan.size)
            check_extractor_weights(measure.spec)
    except (DataError, UsageError) as error:
        if asked or defaults.reference is not None:
            raise
        if num_samples > UNSCORED_IMAGES and values["images"] != "all":
            raise DataError(
                f"{error}; or keep the pixels to score them later: --images all"
            ) from error
        return Scoring((), str(error))
    return Scoring(tuple(measures))


def measures_of(
    values: dict[str, Any], size: tuple[int, int], defaults: "EvaluationDefaults | None"
) -> "list[Measure]":
    """One measure for each named protocol.

    Args:
        values: options `protocol`, `reference`, `extractor`, `extractor_weights`, `metrics`,
            `device` and perhaps `backend`.
        size: (H, W) of the images, by which protocols name their references.
        defaults: those of the model's preset, when a preset is known.

    Raises:
        UsageError: names that do not exist or do not go together.
        DataError: a reference that is not here.
    """
    from evalsuite.artifacts.references import open_reference
    from evalsuite.cli.resolve import extractor_of, lock_of
    from evalsuite.pipeline.measure import Measure, parse_metrics, protocol_named
    from evalsuite.pipeline.numerics import resolve_device

    reference_name = values["reference"] or (defaults.reference if defaults else None)
    given = open_reference(reference_name) if reference_name else None
    device = resolve_device(values["device"])
    measures = []
    for name in _protocol_names(values, defaults):
        wanted = _extractor_name(values, name, given, defaults)
        spec = extractor_of(
            wanted,
            values["extractor_weights"],
            offline=bool(values.get("offline")),
            lock=lock_of(values),
        )
        protocol = protocol_named(name, spec)
        metrics = parse_metrics(values["metrics"], protocol)
        reference = _reference_for(protocol, given, size, metrics)
        backend: Backend = values.get("backend") or "torch"
        measures.append(Measure(spec, reference, metrics, device, protocol, backend))
    return measures


def fetch_for(
    values: dict[str, Any],
    size: tuple[int, int],
    defaults: "EvaluationDefaults",
    *,
    allow_unverified: bool,
) -> bool:
    """Download what `measures_of` would open with these options, where it is not here.

    Returns:
        Whether a run with these options would measure anything.

    Raises:
        UsageError: names that do not exist, or a file that needs `--allow-unverified`.
        EnvironmentProblem: an address that cannot be reached.
    """
    from evalsuite.cli.downloading import fetched_reference, fetched_weights
    from evalsuite.cli.resolve import extractor_of
    from evalsuite.config import ProtocolSpec, ReferenceSpec, load_spec, names_of

    asked = any(values[name] is not None for name in _ASKED)
    if not asked and defaults.protocol is None and None in {defaults.reference, defaults.extractor}:
        return False
    registered = names_of(ReferenceSpec)
    wanted = values["reference"] or defaults.reference
    for name in _protocol_names(values, defaults):
        protocol = load_spec(ProtocolSpec, name) if name else None
        extractor = values["extractor"] or (protocol and protocol.extractor) or defaults.extractor
        if extractor is not None and values["extractor_weights"] is None:
            fetched_weights(extractor_of(extractor, None))
        own = protocol.references.get(f"{size[0]}x{size[1]}") if protocol else None
        for reference in {wanted, own if wanted is None else None} & set(registered):
            fetched_reference(
                load_spec(ReferenceSpec, str(reference)), allow_unverified=allow_unverified
            )
    return True


def _protocol_names(
    values: dict[str, Any], defaults: "EvaluationDefaults | None"
) -> list[str | None]:
    """As asked; else the preset's; else None, which is the extractor's own."""
    if values["protocol"] is not None:
        names = [name.strip() for name in values["protocol"].split(",") if name.strip()]
        if not names or len(set(names)) != len(names):
            raise UsageError("--protocol must list different names, such as adm,jit")
        return list(names)
    chosen_otherwise = values["extractor"] is not None or values["reference"] is not None
    return [None if chosen_otherwise or defaults is None else defaults.protocol]


def _extractor_name(
    values: dict[str, Any],
    protocol_name: str | None,
    reference: "Reference | None",
    defaults: "EvaluationDefaults | None",
) -> str:
    """As asked; else the protocol's; else as the reference was made; else the preset's."""
    from evalsuite.config import ExtractorSpec, ProtocolSpec, load_spec, names_of

    if values["extractor"] is not None:
        return str(values["extractor"])
    protocol = load_spec(ProtocolSpec, protocol_name) if protocol_name else None
    candidates = [
        protocol.extractor if protocol else None,
        reference.spec.extractor if reference and reference.spec else None,
        defaults.extractor if defaults else None,
    ]
    found = next((name for name in candidates if name is not None), None)
    if found is None:
        known = ", ".join(names_of(ExtractorSpec))
        missing = "this reference does not name one" if reference else "or --reference"
        raise UsageError(f"--extractor is needed: {missing}; known: {known}")
    return found


def _reference_for(
    protocol: "ProtocolSpec",
    given: "Reference | None",
    size: tuple[int, int],
    metrics: list[str],
) -> "Reference | None":
    """The given reference where it is for this protocol, else the protocol's own for this size."""
    from evalsuite.artifacts.references import open_reference
    from evalsuite.metrics.registry import METRICS

    if given is not None and _is_for(given, protocol):
        return given
    if not any(need.startswith("reference_") for name in metrics for need in METRICS[name].needs):
        return None
    name = protocol.references.get(f"{size[0]}x{size[1]}")
    if name is None:
        if given is not None:
            raise UsageError(
                f"reference {given.name} is not for protocol {protocol.name}, which has none of its"
                f" own for {size[0]}x{size[1]} images: make one of its images with `evalsuite"
                " references build FILE.npz --name NAME --output DIR --with images`"
            )
        return None
    try:
        return open_reference(name)
    except DataError as error:
        raise DataError(f"protocol {protocol.name}: {error}") from error


def _is_for(reference: "Reference", protocol: "ProtocolSpec") -> bool:
    spec = reference.spec
    if spec is None or not spec.protocols:
        return True
    return protocol.name in spec.protocols or spec.name in protocol.references.values()
